package build

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// What is in the directory that [Image] writes, beside an SBOM for each platform.
const (
	layoutDir      = "oci"
	digestFile     = "digest"
	provenanceFile = "provenance.intoto.json"
)

func sbomFile(p v1.Platform) string { return fmt.Sprintf("sbom-%s-%s.spdx.json", p.OS, p.Architecture) }

// Result is an image that was built. Its parts are read from the disk when they are asked for.
type Result struct {
	// Dir is where it is.
	Dir string
	// Index is the image for all platforms, and Digest is the index's.
	Index  v1.ImageIndex
	Digest v1.Hash
}

// Load opens what [Image] has written.
func Load(dir string) (*Result, error) {
	all, err := layout.ImageIndexFromPath(filepath.Join(dir, layoutDir))
	if err != nil {
		return nil, fmt.Errorf("open the image in %s: %w", dir, err)
	}
	list, err := all.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("open the image in %s: %w", dir, err)
	}
	if len(list.Manifests) != 1 || list.Manifests[0].MediaType != types.OCIImageIndex {
		return nil, fmt.Errorf("open the image in %s: it does not hold one index and nothing else", dir)
	}
	r := &Result{Dir: dir, Digest: list.Manifests[0].Digest}
	if r.Index, err = all.ImageIndex(r.Digest); err != nil {
		return nil, fmt.Errorf("open the image in %s: %w", dir, err)
	}
	return r, nil
}

// Platform is the image for one platform.
func (r *Result) Platform(p v1.Platform) (v1.Image, error) {
	list, err := r.Index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, m := range list.Manifests {
		if m.Platform != nil && m.Platform.Equals(p) {
			return r.Index.Image(m.Digest)
		}
	}
	return nil, fmt.Errorf("the image in %s has nothing for %s", r.Dir, p)
}

// writeLayout writes the index as the one image of an OCI image layout, named by the version.
func (b *builder) writeLayout(index v1.ImageIndex) error {
	path, err := layout.Write(filepath.Join(b.ready, layoutDir), empty.Index)
	if err != nil {
		return err
	}
	return path.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": b.Source.Version,
	}))
}

// describe writes the files beside the layout.
func (b *builder) describe(index v1.ImageIndex, variants []variant) error {
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	files := map[string][]byte{}
	for _, v := range variants {
		sbom, err := b.sbom(v)
		if err != nil {
			return fmt.Errorf("write the SBOM for %s: %w", v.platform, err)
		}
		if files[sbomFile(v.platform)], err = encode(sbom); err != nil {
			return fmt.Errorf("write the SBOM for %s: %w", v.platform, err)
		}
	}
	statement, err := b.provenance(digest, variants, files)
	if err != nil {
		return fmt.Errorf("write the provenance: %w", err)
	}
	if files[provenanceFile], err = encode(statement); err != nil {
		return fmt.Errorf("write the provenance: %w", err)
	}
	files[digestFile] = []byte(digest.String() + "\n")
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(b.ready, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func encode(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	return append(data, '\n'), err
}

// Provenance is the file with the provenance.
func (r *Result) Provenance() string { return filepath.Join(r.Dir, provenanceFile) }
