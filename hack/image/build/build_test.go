package build_test

import (
	"archive/tar"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/hotplate-dev/hotplate/hack/image/build"
)

// TestSameFilesFromTwoDirectories compares all that is written, SBOM and provenance as well.
func TestSameFilesFromTwoDirectories(t *testing.T) {
	first := smallImage(t)
	// What the user has set for other work does not count.
	for name, value := range map[string]string{
		"GOFLAGS": "-tags=mine", "GOAMD64": "v3", "GOARM64": "v8.1", "GOOS": "windows", "CGO_ENABLED": "1",
	} {
		t.Setenv(name, value)
	}
	if os.Getenv("HOTPLATE_FULL") != "" {
		t.Setenv("GOCACHE", t.TempDir()) // so that everything is compiled twice
	}
	second := buildSmall(t, smallConfig(smallTree(t)))
	if first.Digest != second.Digest {
		t.Errorf("the digest is %s, from another directory %s", first.Digest, second.Digest)
	}
	a, b := files(t, first.Dir), files(t, second.Dir)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(a)), slices.Sorted(maps.Keys(b))); diff != "" {
		t.Fatalf("files (-first +second):\n%s", diff)
	}
	for name := range a {
		if a[name] != b[name] {
			t.Errorf("%s is not the same", name)
		}
	}
	if got := a["digest"]; got != first.Digest.String()+"\n" {
		t.Errorf("the file with the digest has %q, not %s", got, first.Digest)
	}
}

func TestWhatChangesTheDigest(t *testing.T) {
	dir := smallTree(t)
	seen := map[v1.Hash]string{}
	for name, change := range map[string]func(*build.Source){
		"nothing":          func(*build.Source) {},
		"another version":  func(s *build.Source) { s.Version = "v1.2.4" },
		"another revision": func(s *build.Source) { s.Revision = strings.Repeat("f", 40) },
		"another time":     func(s *build.Source) { s.Time = s.Time.Add(time.Second) },
	} {
		cfg := smallConfig(dir)
		cfg.Platforms = build.Platforms()[:1]
		change(&cfg.Source)
		r := buildSmall(t, cfg)
		if other, ok := seen[r.Digest]; ok {
			t.Errorf("%s and %s give the same digest", name, other)
		}
		seen[r.Digest] = name
	}
}

func TestWhatIsInTheLayers(t *testing.T) {
	source := testSource()
	r := smallImage(t)
	for _, p := range build.Platforms() {
		var got [][]tar.Header
		for _, layer := range entries(t, platform(t, r, p.Architecture)) {
			var headers []tar.Header
			for _, e := range layer {
				if e.header.Typeflag == tar.TypeReg && e.header.Size > 0 {
					e.header.Size = 1
				}
				headers = append(headers, e.header)
			}
			got = append(got, headers)
		}
		header := func(kind byte, name string, mode, size int64) tar.Header {
			return tar.Header{
				Typeflag: kind, Name: name, Mode: mode, Size: size, ModTime: source.Time, Format: tar.FormatUSTAR,
			}
		}
		want := [][]tar.Header{{
			header(tar.TypeDir, "etc/", 0o755, 0),
			header(tar.TypeDir, "etc/ssl/", 0o755, 0),
			header(tar.TypeDir, "etc/ssl/certs/", 0o755, 0),
			header(tar.TypeReg, "etc/ssl/certs/ca-certificates.crt", 0o644, 1),
		}, {
			header(tar.TypeReg, "small", 0o755, 1),
		}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: the layers hold (-want +got):\n%s", p, diff)
		}
	}
}

func TestImageSaysWhatItIs(t *testing.T) {
	r := smallImage(t)
	if err := validate.Index(r.Index); err != nil {
		t.Errorf("the image is not sound: %v", err)
	}
	labels := map[string]string{
		"org.opencontainers.image.created":  "2023-11-14T22:13:20Z",
		"org.opencontainers.image.licenses": "Apache-2.0",
		"org.opencontainers.image.revision": "0123456789abcdef0123456789abcdef01234567",
		"org.opencontainers.image.source":   "https://github.com/hotplate-dev/hotplate",
		"org.opencontainers.image.title":    "hotplate",
		"org.opencontainers.image.version":  "v1.2.3",
	}
	index, err := r.Index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(labels, index.Annotations); diff != "" {
		t.Errorf("the index's annotations (-want +got):\n%s", diff)
	}
	var platforms []v1.Platform
	for _, m := range index.Manifests {
		platforms = append(platforms, *m.Platform)
		img, err := r.Index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(labels, manifest.Annotations); diff != "" {
			t.Errorf("%s: the manifest's annotations (-want +got):\n%s", m.Platform, diff)
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		want := v1.Config{
			User: "0:0", Env: []string{"PATH=/"}, Entrypoint: []string{"/small"}, WorkingDir: "/", Labels: labels,
		}
		if diff := cmp.Diff(want, config.Config); diff != "" {
			t.Errorf("%s: the config (-want +got):\n%s", m.Platform, diff)
		}
		if !config.Platform().Equals(*m.Platform) || !config.Created.Equal(testSource().Time) {
			t.Errorf("the config of %s is for %s, created %s", m.Platform, config.Platform(), config.Created)
		}
	}
	if diff := cmp.Diff(build.Platforms(), platforms); diff != "" {
		t.Errorf("platforms (-want +got):\n%s", diff)
	}
}

func TestProgramRunsWithItsVersion(t *testing.T) {
	r := smallImage(t)
	for _, arch := range []string{"amd64", "arm64"} {
		layers := entries(t, platform(t, r, arch))
		last := layers[len(layers)-1]
		program := filepath.Join(t.TempDir(), "small")
		if err := os.WriteFile(program, last[len(last)-1].content, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := build.CheckStatic(program, arch); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
		if arch != runtime.GOARCH {
			continue // cannot run here
		}
		out, err := exec.CommandContext(t.Context(), program).CombinedOutput()
		if got := string(out); err != nil || got != "small v1.2.3 sha256\n" {
			t.Errorf("it prints %q, %v", got, err)
		}
	}
}

func TestFailureLeavesWhatWasThere(t *testing.T) {
	cfg := smallConfig(smallTree(t))
	cfg.Platforms = build.Platforms()[:1]
	above := t.TempDir()
	out := filepath.Join(above, "image")
	before, err := build.Image(t.Context(), cfg, out)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Programs = append(cfg.Programs, "cmd/missing")
	if _, err := build.Image(t.Context(), cfg, out); err == nil || !strings.Contains(err.Error(), "cmd/missing") {
		t.Errorf("a program that is not there: %v", err)
	}
	after, err := build.Load(out)
	if err != nil || after.Digest != before.Digest {
		t.Errorf("the image that was there is %v, %v, want %v", after, err, before)
	}
	if got, err := os.ReadDir(above); err != nil || len(got) != 1 {
		t.Errorf("left behind: %v, %v", got, err)
	}
}

func TestWhatIsRefused(t *testing.T) {
	for want, change := range map[string]func(*build.Config){
		"version":           func(c *build.Config) { c.Source.Version = "v1 -X main.secret=1" },
		"no commit":         func(c *build.Config) { c.Source.Revision = "main" },
		"time":              func(c *build.Config) { c.Source.Time = time.Time{} },
		"builder":           func(c *build.Config) { c.Builder = "" },
		"platform linux/s3": func(c *build.Config) { c.Platforms = []v1.Platform{{OS: "linux", Architecture: "s390x"}} },
	} {
		cfg := smallConfig("nowhere")
		change(&cfg)
		if _, err := build.Image(t.Context(), cfg, filepath.Join(t.TempDir(), "image")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want one with %q", err, want)
		}
	}
}
