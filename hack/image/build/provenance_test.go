package build_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	provenance "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/hack/image/build"
)

// readProvenance reads it with the in-toto project's own library, which refuses fields that it does not know.
func readProvenance(t *testing.T, r *build.Result) (*intoto.Statement, *provenance.Provenance) {
	t.Helper()
	data, err := os.ReadFile(r.Provenance())
	if err != nil {
		t.Fatal(err)
	}
	var statement intoto.Statement
	if err := protojson.Unmarshal(data, &statement); err != nil {
		t.Fatal(err)
	}
	if err := statement.Validate(); err != nil {
		t.Errorf("the statement: %v", err)
	}
	if got, want := statement.GetPredicateType(), "https://slsa.dev/provenance/v1"; got != want {
		t.Errorf("the predicate is a %s, not a %s", got, want)
	}
	predicate, err := protojson.Marshal(statement.GetPredicate())
	if err != nil {
		t.Fatal(err)
	}
	var p provenance.Provenance
	if err := protojson.Unmarshal(predicate, &p); err != nil {
		t.Fatal(err)
	}
	if err := p.Validate(); err != nil {
		t.Errorf("the predicate: %v", err)
	}
	return &statement, &p
}

func TestProvenanceSaysOfWhatTheImageIsMade(t *testing.T) {
	r := smallImage(t)
	statement, p := readProvenance(t, r)
	subjects := map[string]string{}
	for _, s := range statement.GetSubject() {
		subjects[s.GetName()] = s.GetDigest()["sha256"]
	}
	wantSubjects := map[string]string{"hotplate": r.Digest.Hex}
	byproducts := map[string]string{}
	for _, b := range p.GetRunDetails().GetByproducts() {
		byproducts[b.GetName()] = b.GetDigest()["sha256"]
	}
	wantByproducts := map[string]string{}
	for _, arch := range []string{"amd64", "arm64"} {
		digest, err := platform(t, r, arch).Digest()
		if err != nil {
			t.Fatal(err)
		}
		wantSubjects["hotplate linux/"+arch] = digest.Hex
		wantByproducts["sbom-linux-"+arch+".spdx.json"] = sha256Hex(readSBOM(t, r, arch))
	}
	if diff := cmp.Diff(wantSubjects, subjects); diff != "" {
		t.Errorf("subjects (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(wantByproducts, byproducts); diff != "" {
		t.Errorf("files beside it (-want +got):\n%s", diff)
	}
	if got := p.GetRunDetails().GetBuilder().GetId(); got != "https://builder.example.com/1" {
		t.Errorf("the builder is %q", got)
	}
	if got := p.GetBuildDefinition().GetInternalParameters().AsMap()["go"]; got != runtime.Version() {
		t.Errorf("the compiler is %q", got)
	}
	materials := map[string]*intoto.ResourceDescriptor{}
	for _, m := range p.GetBuildDefinition().GetResolvedDependencies() {
		materials[m.GetName()] = m
	}
	const revision = "0123456789abcdef0123456789abcdef01234567"
	source := materials["source"]
	if source.GetUri() != "git+https://github.com/hotplate-dev/hotplate@"+revision || source.GetDigest()["gitCommit"] != revision {
		t.Errorf("the source is %v", source)
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := materials[name].GetDigest()["sha256"]; got != sha256Hex(data) {
			t.Errorf("%s has the sum %s", name, got)
		}
	}
	if roots := materials["CA roots"]; len(roots.GetDigest()["dirHash"]) != 2*sha256.Size {
		t.Errorf("the CA roots are from %v", roots)
	}
}

func TestProvenanceOfChangesThatAreNotCommitted(t *testing.T) {
	cfg := smallConfig(smallTree(t))
	cfg.Source.Modified = true
	cfg.Platforms = build.Platforms()[:1]
	_, p := readProvenance(t, buildSmall(t, cfg))
	source := p.GetBuildDefinition().GetResolvedDependencies()[0]
	if len(source.GetDigest()) > 0 || source.GetAnnotations().AsMap()["modified"] != true {
		t.Errorf("the source is %v: it vouches for files that are not the commit's", source)
	}
}

func sha256Hex(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
