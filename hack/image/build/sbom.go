package build

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/url"
	"os"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// The SBOM is SPDX 2.3 as JSON. These are the fields of the format that are used.
type (
	spdxDocument struct {
		SPDXID            string             `json:"SPDXID"`
		Version           string             `json:"spdxVersion"`
		DataLicense       string             `json:"dataLicense"`
		Name              string             `json:"name"`
		DocumentNamespace string             `json:"documentNamespace"`
		CreationInfo      spdxCreation       `json:"creationInfo"`
		Packages          []spdxPackage      `json:"packages"`
		Relationships     []spdxRelationship `json:"relationships"`
	}
	spdxCreation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	spdxPackage struct {
		SPDXID           string         `json:"SPDXID"`
		Name             string         `json:"name"`
		VersionInfo      string         `json:"versionInfo"`
		PackageFileName  string         `json:"packageFileName,omitempty"`
		Purpose          string         `json:"primaryPackagePurpose"`
		DownloadLocation string         `json:"downloadLocation"`
		FilesAnalyzed    bool           `json:"filesAnalyzed"`
		LicenseConcluded string         `json:"licenseConcluded"`
		LicenseDeclared  string         `json:"licenseDeclared"`
		CopyrightText    string         `json:"copyrightText"`
		SourceInfo       string         `json:"sourceInfo,omitempty"`
		Comment          string         `json:"comment,omitempty"`
		Checksums        []spdxChecksum `json:"checksums,omitempty"`
		ExternalRefs     []spdxRef      `json:"externalRefs,omitempty"`
	}
	spdxChecksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	spdxRef struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	spdxRelationship struct {
		Element string `json:"spdxElementId"`
		Type    string `json:"relationshipType"`
		Related string `json:"relatedSpdxElement"`
	}
)

const noAssertion = "NOASSERTION"

// sbom says what is in the image of one platform: the programs, with what the Go linker wrote into them about the
// modules they consist of, and the CA roots.
func (b *builder) sbom(v variant) (*spdxDocument, error) {
	d := &spdxDocument{
		SPDXID: "SPDXRef-DOCUMENT", Version: "SPDX-2.3", DataLicense: "CC0-1.0",
		Name:              fmt.Sprintf("%s %s %s", title, b.Source.Version, v.platform),
		DocumentNamespace: sourceURL + "/sbom/" + v.digest.Hex,
		CreationInfo: spdxCreation{
			Created: b.Source.Time.UTC().Format(time.RFC3339), Creators: []string{"Tool: hotplate-hack-image"},
		},
	}
	image := newPackage("image", title, b.Source.Version, "CONTAINER")
	image.Checksums = []spdxChecksum{{"SHA256", v.digest.Hex}}
	image.LicenseDeclared = noAssertion // it has the modules' as well
	image.Comment = "The checksum is the digest of the image's manifest."
	image.ExternalRefs = purl(fmt.Sprintf("pkg:oci/%s@%s?arch=%s", title, url.QueryEscape(v.digest.String()), v.platform.Architecture))
	d.Packages = append(d.Packages, image)
	d.relate(d.SPDXID, "DESCRIBES", image.SPDXID)
	d.addRoots(image.SPDXID, b.roots, b.rootsFrom)
	modules := map[string]spdxPackage{}
	for _, p := range v.programs {
		if err := d.addProgram(image.SPDXID, p, b.Source.Version, modules); err != nil {
			return nil, err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(modules)) {
		d.Packages = append(d.Packages, modules[id])
	}
	return d, nil
}

func (d *spdxDocument) addRoots(image string, r roots, from module) {
	data := newPackage("ca-certificates", "ca-certificates", from.Version, "FILE")
	data.PackageFileName = "/" + rootsPath
	sum := sha256.Sum256(r.pem)
	data.Checksums = []spdxChecksum{{"SHA256", hex.EncodeToString(sum[:])}}
	data.Comment = fmt.Sprintf("%d certificate authorities that Mozilla trusts without a condition.", r.count)
	if len(r.leftOut) > 0 {
		data.Comment += " Left out, for a condition: " + strings.Join(r.leftOut, "; ") + "."
	}
	source := modulePackage(from)
	d.Packages = append(d.Packages, data, source)
	d.relate(image, "CONTAINS", data.SPDXID)
	d.relate(data.SPDXID, "GENERATED_FROM", source.SPDXID)
}

// addProgram adds a program, and its modules to those of all programs.
func (d *spdxDocument) addProgram(image string, p program, version string, modules map[string]spdxPackage) error {
	pkg := newPackage("program-"+p.name, p.name, version, "APPLICATION")
	pkg.PackageFileName = "/" + p.name
	pkg.LicenseDeclared = licence
	sum, err := sha256Of(p.file)
	if err != nil {
		return err
	}
	pkg.Checksums = []spdxChecksum{{"SHA256", sum}}
	pkg.SourceInfo = fmt.Sprintf("package %s, compiled by %s", p.info.Path, p.info.GoVersion)
	pkg.ExternalRefs = purl(golangPURL(p.info.Main.Path, version) + "#" + strings.TrimPrefix(p.info.Path, p.info.Main.Path+"/"))
	d.Packages = append(d.Packages, pkg)
	d.relate(image, "CONTAINS", pkg.SPDXID)
	for _, m := range modulesOf(p.info) {
		dep := modulePackage(m)
		modules[dep.SPDXID] = dep
		d.relate(pkg.SPDXID, "DEPENDS_ON", dep.SPDXID)
	}
	return nil
}

// modulesOf are the modules in a program, the standard library among them, as those are known that look for
// vulnerabilities.
func modulesOf(info *debug.BuildInfo) []module {
	goVersion, _, _ := strings.Cut(strings.TrimPrefix(info.GoVersion, "go"), " ")
	modules := []module{{Path: "stdlib", Version: goVersion}}
	for _, m := range info.Deps {
		m = cmp.Or(m.Replace, m)
		modules = append(modules, module{Path: m.Path, Version: m.Version, Sum: m.Sum})
	}
	return modules
}

func modulePackage(m module) spdxPackage {
	p := newPackage("go-"+m.Path+"-"+m.Version, m.Path, m.Version, "LIBRARY")
	p.ExternalRefs = purl(golangPURL(m.Path, m.Version))
	if m.Sum != "" {
		p.SourceInfo = "go.sum " + m.Sum
	}
	return p
}

func newPackage(id, name, version, purpose string) spdxPackage {
	return spdxPackage{
		SPDXID: spdxID(id), Name: name, VersionInfo: version, Purpose: purpose,
		DownloadLocation: noAssertion, LicenseConcluded: noAssertion, LicenseDeclared: noAssertion, CopyrightText: noAssertion,
	}
}

var notInID = regexp.MustCompile(`[^0-9A-Za-z.-]`)

// spdxID makes an identifier; the end of it tells names apart that differ only in characters that it cannot have.
func spdxID(name string) string {
	id := notInID.ReplaceAllString(name, "-")
	if id != name {
		sum := sha256.Sum256([]byte(name))
		id += "-" + hex.EncodeToString(sum[:4])
	}
	return "SPDXRef-" + id
}

func golangPURL(path, version string) string {
	return "pkg:golang/" + path + "@" + strings.ReplaceAll(version, "+", "%2B")
}

func purl(locator string) []spdxRef { return []spdxRef{{"PACKAGE-MANAGER", "purl", locator}} }

func (d *spdxDocument) relate(element, kind, related string) {
	d.Relationships = append(d.Relationships, spdxRelationship{element, kind, related})
}

func sha256Of(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash, _, err := v1.SHA256(f)
	return hash.Hex, err
}
