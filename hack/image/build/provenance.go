package build

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// The provenance is an in-toto statement, version 1, with a SLSA provenance, version 1. These are the fields of the
// formats that are used. It has no times, so that the same source has the same provenance, and no signature: who
// publishes the image signs.
type (
	statement struct {
		Type          string     `json:"_type"`
		Subject       []resource `json:"subject"`
		PredicateType string     `json:"predicateType"`
		Predicate     slsa       `json:"predicate"`
	}
	resource struct {
		Name        string            `json:"name,omitempty"`
		URI         string            `json:"uri,omitempty"`
		Digest      map[string]string `json:"digest,omitempty"`
		Annotations map[string]any    `json:"annotations,omitempty"`
	}
	slsa struct {
		BuildDefinition slsaDefinition `json:"buildDefinition"`
		RunDetails      slsaRun        `json:"runDetails"`
	}
	slsaDefinition struct {
		BuildType            string         `json:"buildType"`
		ExternalParameters   map[string]any `json:"externalParameters"`
		InternalParameters   map[string]any `json:"internalParameters"`
		ResolvedDependencies []resource     `json:"resolvedDependencies"`
	}
	slsaRun struct {
		Builder    slsaBuilder `json:"builder"`
		Byproducts []resource  `json:"byproducts"`
	}
	slsaBuilder struct {
		ID string `json:"id"`
	}
)

// buildType is where somebody reads what was done, and what the parameters mean: this package's doc.
const buildType = sourceURL + "/tree/main/hack/image"

// provenance says of what and how the image was made. beside are the files beside it, by name.
func (b *builder) provenance(index v1.Hash, variants []variant, beside map[string][]byte) (*statement, error) {
	materials, err := b.materials()
	if err != nil {
		return nil, err
	}
	subjects := []resource{{Name: title, Digest: sha256Set(index.Hex)}}
	var platforms []string
	environments := map[string]any{}
	for _, v := range variants {
		subjects = append(subjects, resource{Name: title + " " + v.platform.String(), Digest: sha256Set(v.digest.Hex)})
		platforms = append(platforms, v.platform.String())
		environments[v.platform.String()] = environment(v.platform.Architecture)
	}
	var byproducts []resource
	for _, name := range slices.Sorted(maps.Keys(beside)) {
		sum := sha256.Sum256(beside[name])
		byproducts = append(byproducts, resource{Name: name, Digest: sha256Set(hex.EncodeToString(sum[:]))})
	}
	return &statement{
		Type: "https://in-toto.io/Statement/v1", Subject: subjects, PredicateType: "https://slsa.dev/provenance/v1",
		Predicate: slsa{
			BuildDefinition: slsaDefinition{
				BuildType: buildType,
				ExternalParameters: map[string]any{
					"programs": b.Programs, "platforms": platforms, "version": b.Source.Version,
					"sourceDateEpoch": b.Source.Time.Unix(),
				},
				InternalParameters: map[string]any{
					"go": runtime.Version(), "flags": buildFlags(b.Source.Version), "environment": environments,
				},
				ResolvedDependencies: materials,
			},
			RunDetails: slsaRun{Builder: slsaBuilder{b.Builder}, Byproducts: byproducts},
		},
	}, nil
}

// materials are what the image is made from: the commit, which has everything else; go.mod and go.sum, which choose
// the modules, and what is not in a commit.
func (b *builder) materials() ([]resource, error) {
	commit := resource{
		Name: "source", URI: "git+" + sourceURL + "@" + b.Source.Revision,
		Digest: map[string]string{"gitCommit": b.Source.Revision},
	}
	if b.Source.Modified {
		// A digest would say that these are the files.
		commit.Digest = nil
		commit.Annotations = map[string]any{"modified": true}
	}
	materials := []resource{commit}
	for _, name := range []string{"go.mod", "go.sum"} {
		sum, err := sha256Of(filepath.Join(b.Dir, name))
		if err != nil {
			return nil, err
		}
		materials = append(materials, resource{Name: name, Digest: sha256Set(sum)})
	}
	roots, err := dirHash(b.rootsFrom.Sum)
	if err != nil {
		return nil, err
	}
	goVersion, _, _ := strings.Cut(strings.TrimPrefix(runtime.Version(), "go"), " ")
	return append(materials,
		resource{Name: "go", URI: golangPURL("stdlib", goVersion)},
		resource{
			Name: "CA roots", URI: golangPURL(b.rootsFrom.Path, b.rootsFrom.Version),
			Digest: map[string]string{"dirHash": roots},
		},
	), nil
}

func sha256Set(hex string) map[string]string { return map[string]string{"sha256": hex} }

// dirHash is a hash as in go.sum in the form that in-toto has for it.
func dirHash(sum string) (string, error) {
	text, ok := strings.CutPrefix(sum, "h1:")
	raw, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(raw) != sha256.Size {
		return "", fmt.Errorf("%q is no hash as in go.sum", sum)
	}
	return hex.EncodeToString(raw), nil
}
