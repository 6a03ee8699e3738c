package build_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v5"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdxlib"

	"github.com/hotplate-dev/hotplate/hack/image/build"
)

func readSBOM(t *testing.T, r *build.Result, arch string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(r.Dir, "sbom-linux-"+arch+".spdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestOthersReadTheSBOM reads it with the SPDX project's own library and writes it again: a field that the library
// does not know is not there any more then.
func TestOthersReadTheSBOM(t *testing.T) {
	schema, err := jsonschema.Compile("testdata/spdx-2.3.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	r := smallImage(t)
	for _, arch := range []string{"amd64", "arm64"} {
		ours := readSBOM(t, r, arch)
		doc, err := spdxjson.Read(bytes.NewReader(ours))
		if err != nil {
			t.Fatal(err)
		}
		if err := spdxlib.ValidateDocument(doc); err != nil {
			t.Errorf("%s: the SPDX library finds: %v", arch, err)
		}
		var theirs bytes.Buffer
		if err := spdxjson.Write(doc, &theirs); err != nil {
			t.Fatal(err)
		}
		var before, after any
		if err := json.Unmarshal(ours, &before); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(theirs.Bytes(), &after); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("%s: what the SPDX library makes of it (-ours +theirs):\n%s", arch, diff)
		}
		if err := schema.Validate(before); err != nil {
			t.Errorf("%s: %#v", arch, err)
		}
	}
}

func TestSBOMSaysWhatIsInTheImage(t *testing.T) {
	r := smallImage(t)
	doc, err := spdxjson.Read(bytes.NewReader(readSBOM(t, r, "arm64")))
	if err != nil {
		t.Fatal(err)
	}
	// Every file of the image is there, with its sum.
	img := platform(t, r, "arm64")
	want, got := map[string]string{}, map[string]string{}
	for _, layer := range entries(t, img) {
		for _, e := range layer {
			if sum := sha256.Sum256(e.content); !strings.HasSuffix(e.header.Name, "/") {
				want["/"+e.header.Name] = hex.EncodeToString(sum[:])
			}
		}
	}
	packages := map[string]*spdx.Package{}
	for _, p := range doc.Packages {
		packages[p.PackageName] = p
		if p.PackageFileName != "" {
			got[p.PackageFileName] = p.PackageChecksums[0].Value
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-in the image +in the SBOM):\n%s", diff)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if image := packages["hotplate"]; image == nil || image.PackageChecksums[0].Value != digest.Hex {
		t.Errorf("the image in the SBOM is %+v, not %s", image, digest)
	}
	// So are the modules that small was compiled of, and no others of the many in go.mod.
	for name, want := range map[string]string{
		"stdlib":                              "pkg:golang/stdlib@" + strings.TrimPrefix(runtime.Version(), "go"),
		"github.com/opencontainers/go-digest": "pkg:golang/github.com/opencontainers/go-digest@v1.0.0",
	} {
		p := packages[name]
		if p == nil || p.PackageExternalReferences[0].Locator != want {
			t.Errorf("%s in the SBOM is %+v, want %s", name, p, want)
			continue
		}
		if name != "stdlib" && p.PackageSourceInfo != "go.sum "+sumOf(t, name, p.PackageVersion) {
			t.Errorf("of %s the SBOM says %q", name, p.PackageSourceInfo)
		}
		depends := false
		for _, rel := range doc.Relationships {
			depends = depends || rel.Relationship == "DEPENDS_ON" && rel.RefB.ElementRefID == p.PackageSPDXIdentifier &&
				rel.RefA.ElementRefID == packages["small"].PackageSPDXIdentifier
		}
		if !depends {
			t.Errorf("the SBOM does not say that small depends on %s", name)
		}
	}
	const imageRootsAndTheirModule, smallAndModules = 3, 3
	if len(doc.Packages) != imageRootsAndTheirModule+smallAndModules {
		t.Errorf("the SBOM has %d packages", len(doc.Packages))
	}
}

// sumOf is a module's line in go.sum.
func sumOf(t *testing.T, module, version string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if sum, ok := strings.CutPrefix(line, module+" "+version+" "); ok {
			return strings.TrimSpace(sum)
		}
	}
	t.Fatalf("go.sum has no %s %s", module, version)
	return ""
}

func TestIDsAreValidAndDiffer(t *testing.T) {
	names := []string{"go-a/b-v1", "go-a-b-v1", "go-a_b-v1", "go-a/b-v1+incompatible"}
	seen := map[string]bool{}
	for _, name := range names {
		id := build.SpdxID(name)
		if seen[id] || strings.ContainsAny(id, "/_+") {
			t.Errorf("%q has the id %q", name, id)
		}
		seen[id] = true
	}
}
