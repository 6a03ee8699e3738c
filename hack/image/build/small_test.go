package build_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.uber.org/goleak"

	"github.com/hotplate-dev/hotplate/hack/image/build"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(sharedDir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	}))
}

// shared is the image that many tests look at, and change nothing of. It is built by the first that needs it.
var (
	sharedDir string
	shared    = sync.OnceValues(func() (r *build.Result, err error) {
		if sharedDir, err = os.MkdirTemp("", "image-"); err != nil {
			return nil, err
		}
		tree := filepath.Join(sharedDir, "tree")
		if err := writeTree(tree); err != nil {
			return nil, err
		}
		return build.Image(context.Background(), smallConfig(tree), filepath.Join(sharedDir, "image"))
	})
)

// smallImage is an image with the program small, for both platforms.
func smallImage(t *testing.T) *build.Result {
	t.Helper()
	r, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// root is the root of the repository.
const root = "../../.."

func testSource() build.Source {
	return build.Source{
		Version: "v1.2.3", Revision: "0123456789abcdef0123456789abcdef01234567", Time: time.Unix(1_700_000_000, 0),
	}
}

// smallTree makes a directory with the module's go.mod and the program small in the folder cmd/small.
func smallTree(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := writeTree(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func writeTree(dir string) error {
	for from, to := range map[string]string{
		filepath.Join(root, "go.mod"): "go.mod", filepath.Join(root, "go.sum"): "go.sum",
		"testdata/small/main.go": "cmd/small/main.go",
	} {
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		to = filepath.Join(dir, to)
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, data, 0o644)); err != nil {
			return err
		}
	}
	return nil
}

// smallConfig is how the program in a smallTree becomes an image.
func smallConfig(dir string) build.Config {
	return build.Config{
		Dir: dir, Programs: []string{"cmd/small"}, Source: testSource(), Builder: "https://builder.example.com/1",
	}
}

func buildSmall(t *testing.T, cfg build.Config) *build.Result {
	t.Helper()
	r, err := build.Image(t.Context(), cfg, filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// platform is the image of r for one architecture.
func platform(t *testing.T, r *build.Result, arch string) v1.Image {
	t.Helper()
	img, err := r.Platform(v1.Platform{OS: "linux", Architecture: arch})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// entry is one entry of a layer.
type entry struct {
	header  tar.Header
	content []byte
}

// entries reads all entries of all layers, layer by layer.
func entries(t *testing.T, img v1.Image) [][]entry {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var all [][]entry
	for _, l := range layers {
		all = append(all, layerEntries(t, l))
	}
	return all
}

func layerEntries(t *testing.T, l v1.Layer) (in []entry) {
	t.Helper()
	stream, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for r := tar.NewReader(stream); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		in = append(in, entry{*h, content})
	}
	// What pads a tar is nothing but zeros.
	rest, err := io.ReadAll(stream)
	if err != nil || len(bytes.Trim(rest, "\x00")) > 0 {
		t.Errorf("after the last entry: %q, %v", rest, err)
	}
	return in
}

// files reads every file below dir, by its path.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, path))
		all[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
