package layer_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/prefetch/layer"
)

// image is a stack of snapshots: directories 0, 1, 2 … below dir.
type image struct{ dir string }

func (i image) upper(n int) string { return filepath.Join(i.dir, strconv.Itoa(n)) }

// lowers are the directories below the nth, the nearest first.
func (i image) lowers(n int) []string {
	var dirs []string
	for n--; n >= 0; n-- {
		dirs = append(dirs, i.upper(n))
	}
	return dirs
}

func (i image) prepare(t testing.TB, n int) string {
	t.Helper()
	must(t, os.Mkdir(i.upper(n), 0o755))
	return i.upper(n)
}

// quiet keeps containerd from logging every layer that it refuses.
func quiet(t testing.TB) {
	t.Helper()
	must(t, log.SetLevel("panic"))
}

// provider is a content store in memory.
type provider map[digest.Digest][]byte

func (p provider) ReaderAt(_ context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	return readerAt{bytes.NewReader(p[desc.Digest])}, nil
}

type readerAt struct{ *bytes.Reader }

func (readerAt) Close() error { return nil }

// byContainerd unpacks the layers one after the other with containerd's own code, into mounts as its overlayfs snapshotter
// gives them. It stops at the first layer that containerd refuses and returns how many it took, and the error.
func byContainerd(t testing.TB, layers []blob) (image, int, error) {
	t.Helper()
	img := image{dir: tempDir(t)}
	store := provider{}
	applier := apply.NewFileSystemApplier(store)
	for n, l := range layers {
		desc := ocispec.Descriptor{MediaType: l.media, Digest: digest.FromBytes(l.data), Size: int64(len(l.data))}
		store[desc.Digest] = l.data
		upper := img.prepare(t, n)
		mounts := []mount.Mount{{Type: "bind", Source: upper, Options: []string{"rw", "rbind"}}}
		if n > 0 {
			mounts = []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{
				"workdir=" + tempDir(t), "upperdir=" + upper, "lowerdir=" + strings.Join(img.lowers(n), ":"),
			}}}
		}
		got, err := applier.Apply(t.Context(), desc, mounts)
		if err != nil {
			return img, n, err
		}
		if l.diffID != "" && got.Digest != l.diffID {
			return img, n, errors.New("wrong diff ID")
		}
	}
	return img, len(layers), nil
}

// byLayer lays out all layers before any has a parent, the last first, and then moves them into place.
func byLayer(t testing.TB, layers []blob) (image, int, error) {
	t.Helper()
	img, trees := image{dir: tempDir(t)}, tempDir(t)
	laid := make([]*layer.Tree, len(layers))
	errs := make([]error, len(layers))
	for n, l := range slices.Backward(layers) {
		dir := filepath.Join(trees, strconv.Itoa(n))
		spec := layer.Spec{MediaType: l.media, DiffID: l.diffID, Base: n == 0, Dir: dir}
		laid[n], errs[n] = layer.Apply(t.Context(), spec, bytes.NewReader(l.data))
	}
	for n := range layers {
		err := errs[n]
		if err == nil {
			err = laid[n].Move(img.prepare(t, n), img.lowers(n))
		}
		if errors.Is(err, layer.ErrNeedsLowers) {
			must(t, layer.Remove(laid[n].Dir))
			err = again(t, img, n, layers[n])
		}
		if err != nil {
			return img, n, err
		}
	}
	if left, err := os.ReadDir(trees); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, error %v", left, err)
	}
	return img, len(layers), nil
}

// again is what is done after ErrNeedsLowers.
func again(t testing.TB, img image, n int, l blob) error {
	t.Helper()
	if left, err := os.ReadDir(img.upper(n)); err != nil || len(left) > 0 {
		t.Errorf("ErrNeedsLowers left %v in upper, error %v", left, err)
	}
	dir := filepath.Join(tempDir(t), "again")
	spec := layer.Spec{MediaType: l.media, DiffID: l.diffID, Dir: dir, Lowers: img.lowers(n)}
	tree, err := layer.Apply(t.Context(), spec, bytes.NewReader(l.data))
	if err != nil {
		return err
	}
	return tree.Move(img.upper(n), img.lowers(n))
}

// compare fails unless both take the same layers and make the same of them, each snapshot and the mounted whole. It
// returns how many layers both took, and the error of ours.
func compare(t testing.TB, layers []blob) (int, error) {
	t.Helper()
	began := time.Now().Add(-time.Minute) // clocks of filesystems tick coarsely; times in tars are years ago
	want, wantTook, wantErr := byContainerd(t, layers)
	got, took, err := byLayer(t, layers)
	if (err == nil) != (wantErr == nil) || took != wantTook {
		t.Fatalf("took %d layers with error %v; containerd took %d with error %v", took, err, wantTook, wantErr)
	}
	for n := range took {
		if diff := rig.DiffTrees(tree(t, want.upper(n), began), tree(t, got.upper(n), began)); diff != "" {
			t.Fatalf("snapshot %d differs from containerd's:\n%s", n, diff)
		}
	}
	if took > 0 {
		if diff := rig.DiffTrees(mounted(t, want, took, began), mounted(t, got, took, began)); diff != "" {
			t.Fatalf("the mounted image differs from containerd's:\n%s", diff)
		}
	}
	return took, err
}

func tree(t testing.TB, dir string, began time.Time) map[string]rig.Entry {
	t.Helper()
	tree, err := rig.Tree(dir)
	must(t, err)
	rig.MaskTimes(tree, began)
	return tree
}

// mounted looks at the first n layers as a container sees them.
func mounted(t testing.TB, img image, n int, began time.Time) map[string]rig.Entry {
	t.Helper()
	// overlayfs wants two directories.
	lowers := append(img.lowers(n), tempDir(t))
	m := mount.Mount{Type: "overlay", Source: "overlay", Options: []string{"ro", "lowerdir=" + strings.Join(lowers, ":")}}
	target := tempDir(t)
	must(t, m.Mount(target))
	defer func() { must(t, mount.UnmountAll(target, 0)) }()
	return tree(t, target, began)
}

// tempDir has a name without commas and colons, which mean something in the options of a mount.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "layer-")
	must(t, err)
	t.Cleanup(func() { must(t, layer.Remove(dir)) })
	return dir
}

// needsOverlay skips tests that need root and overlayfs.
func needsOverlay(t testing.TB) {
	t.Helper()
	quiet(t)
	if os.Geteuid() != 0 {
		t.Skip("owners, devices and mounts need root")
	}
	dir := tempDir(t)
	for _, name := range []string{"a", "b", "m"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	m := mount.Mount{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + dir + "/a:" + dir + "/b"}}
	if err := m.Mount(dir + "/m"); err != nil {
		t.Skipf("no overlayfs on %s: %v", dir, err)
	}
	must(t, mount.UnmountAll(dir+"/m", 0))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
