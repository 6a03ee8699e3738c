package layer_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/images"

	"github.com/hotplate-dev/hotplate/prefetch/layer"
)

// kinds are the same tar in all ways.
func kinds(t testing.TB, tar []byte) map[string]blob {
	return map[string]blob{
		"raw": raw(tar), "raw with diff ID": raw(tar).withID(gzipped(t, tar).diffID),
		"gzip": gzipped(t, tar), "zstd": zstded(t, tar),
	}
}

func incompressible(n int) string {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	return string(data)
}

// While the blob does not come, the end of the context is the end of Apply, and whoever feeds it hears of it.
func TestCancelWhileTheBlobIsAwaited(t *testing.T) {
	tar := tarOf(t, file("f", incompressible(1<<20)))
	for name, b := range kinds(t, tar) {
		for _, part := range []int{0, 5, 300_000} {
			t.Run(name, func(t *testing.T) {
				errEnd := errors.New("the end")
				ctx, cancel := context.WithCancelCause(t.Context())
				r, w := io.Pipe()
				fed := make(chan error, 1)
				go func() {
					if _, err := w.Write(b.data[:part]); err != nil {
						fed <- err
						return
					}
					cancel(errEnd)
					_, err := w.Write(b.data[part:])
					fed <- err
				}()
				dir := filepath.Join(t.TempDir(), "tree")
				_, err := layer.Apply(ctx, layer.Spec{MediaType: b.media, DiffID: b.diffID, Base: true, Dir: dir}, r)
				if !errors.Is(err, errEnd) {
					t.Errorf("Apply: %v", err)
				}
				if err := <-fed; !errors.Is(err, errEnd) {
					t.Errorf("who feeds it got %v", err)
				}
				if _, err := os.Lstat(dir); !os.IsNotExist(err) {
					t.Errorf("the directory is left: %v", err)
				}
			})
		}
	}
}

// What the reader says is no fault of the blob, even if it says what a decoder might.
func TestErrorOfTheReader(t *testing.T) {
	tar := tarOf(t, file("f", incompressible(1<<20)))
	for name, b := range kinds(t, tar) {
		for _, part := range []int{0, 5, 300_000, len(b.data) - 1, len(b.data)} {
			t.Run(name, func(t *testing.T) {
				broken := io.MultiReader(bytes.NewReader(b.data[:part]), errReader{io.ErrUnexpectedEOF})
				dir := filepath.Join(t.TempDir(), "tree")
				_, err := layer.Apply(t.Context(), layer.Spec{MediaType: b.media, DiffID: b.diffID, Base: true, Dir: dir}, broken)
				var format *layer.FormatError
				if !errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &format) {
					t.Errorf("after %d bytes: %v", part, err)
				}
			})
		}
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// A layer that is refused while its blob still comes lets who feeds it know at once.
func TestFeederHearsOfARefusedLayer(t *testing.T) {
	tar := tarOf(t, hard("h", "none"), file("f", incompressible(3<<20)))
	for name, b := range kinds(t, tar) {
		t.Run(name, func(t *testing.T) {
			r, w := io.Pipe()
			fed := make(chan error, 1)
			go func() {
				_, err := w.Write(b.data)
				fed <- err
			}()
			spec := layer.Spec{MediaType: b.media, DiffID: b.diffID, Base: true, Dir: filepath.Join(t.TempDir(), "tree")}
			_, err := layer.Apply(t.Context(), spec, r)
			var here, there *layer.FormatError
			if !errors.As(err, &here) || here.Entry != "h" || !strings.Contains(err.Error(), `hard link to "none"`) {
				t.Errorf("Apply: %v", err)
			}
			if err := <-fed; !errors.As(err, &there) {
				t.Errorf("who feeds it got %v", err)
			}
		})
	}
}

func TestDirectoryOfSomeoneElse(t *testing.T) {
	dir := t.TempDir()
	_, err := layer.Apply(t.Context(), layer.Spec{MediaType: raw(nil).media, Base: true, Dir: dir}, bytes.NewReader(nil))
	if !errors.Is(err, os.ErrExist) {
		t.Errorf("Apply: %v", err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("it is gone: %v", err)
	}
}

func TestMoveRefuses(t *testing.T) {
	lay := func(t *testing.T) *layer.Tree {
		spec := layer.Spec{MediaType: raw(nil).media, Base: true, Dir: filepath.Join(t.TempDir(), "tree")}
		tree, err := layer.Apply(t.Context(), spec, bytes.NewReader(tarOf(t, file("f", "x"))))
		must(t, err)
		if tree.Size != 2048 || tree.Entries != 1 {
			t.Errorf("size %d, entries %d", tree.Size, tree.Entries)
		}
		return tree
	}
	t.Run("layers below a base", func(t *testing.T) {
		if err := lay(t).Move(t.TempDir(), []string{t.TempDir()}); err == nil {
			t.Error("no error")
		}
	})
	t.Run("snapshot in use", func(t *testing.T) {
		upper := t.TempDir()
		must(t, os.WriteFile(filepath.Join(upper, "f"), []byte("theirs"), 0o600))
		if err := lay(t).Move(upper, nil); err == nil {
			t.Error("no error")
		}
		if data, err := os.ReadFile(filepath.Join(upper, "f")); err != nil || string(data) != "theirs" {
			t.Errorf("f is %q now, error %v", data, err)
		}
	})
}

func TestMoveToAnotherFilesystem(t *testing.T) {
	spec := layer.Spec{MediaType: raw(nil).media, Base: true, Dir: filepath.Join(t.TempDir(), "tree")}
	tree, err := layer.Apply(t.Context(), spec, bytes.NewReader(tarOf(t, file("f", "x"))))
	must(t, err)
	upper, err := os.MkdirTemp("/dev/shm", "layer-")
	if err != nil {
		t.Skip("no second filesystem:", err)
	}
	defer os.RemoveAll(upper)
	if err := tree.Move(upper, nil); !errors.Is(err, syscall.EXDEV) {
		t.Errorf("Move: %v", err)
	}
}

// What cannot be made up for later is found out before anything is moved.
func TestMoveNeedsLowers(t *testing.T) {
	needsOverlay(t)
	for name, l := range map[string][]entry{
		"default ACL below":           {file("acl/f", "")},
		"unlisted directory replaced": {file("dir/f", ""), file("dir", "")},
	} {
		t.Run(name, func(t *testing.T) {
			img, _, err := byContainerd(t, blobs(t, layering{append(base(), dir("acl", 0o775).xattr("system.posix_acl_default", acl))}))
			must(t, err)
			spec := layer.Spec{MediaType: raw(nil).media, Dir: filepath.Join(tempDir(t), "tree")}
			tree, err := layer.Apply(t.Context(), spec, bytes.NewReader(tarOf(t, l...)))
			must(t, err)
			upper := img.prepare(t, 1)
			if err := tree.Move(upper, img.lowers(1)); !errors.Is(err, layer.ErrNeedsLowers) {
				t.Errorf("Move: %v", err)
			}
			if left, err := os.ReadDir(upper); err != nil || len(left) > 0 {
				t.Errorf("moved: %v, error %v", left, err)
			}
		})
	}
}

func TestRemoveAsWhoeverOwnsIt(t *testing.T) {
	const nobody = 65534
	if os.Geteuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	top, err := os.MkdirTemp("", "layer-")
	must(t, err)
	defer os.RemoveAll(top)
	must(t, os.Chown(top, nobody, nobody))
	must(t, os.MkdirAll(top+"/tree/a/b", 0o755))
	must(t, os.WriteFile(top+"/tree/a/b/f", nil, 0))
	for _, name := range []string{"a/b/f", "a/b", "a", ""} {
		must(t, os.Chown(filepath.Join(top, "tree", name), nobody, nobody))
		must(t, os.Chmod(filepath.Join(top, "tree", name), 0))
	}
	removed := make(chan error)
	go func() {
		// Only this thread becomes another user, and it ends with the goroutine since it stays locked.
		runtime.LockOSThread()
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			removed <- errno
			return
		}
		removed <- layer.Remove(top + "/tree")
	}()
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(top + "/tree"); !os.IsNotExist(err) {
		t.Errorf("it is left: %v", err)
	}
	must(t, layer.Remove(top+"/tree"))
}

// All that is ever allocated for a layer of one large file is more than what is held at a time.
func TestMemoryIsWhatItSays(t *testing.T) {
	large := tarOf(t, file("f", incompressible(6<<20)))
	stores := raw(nil).as(images.MediaTypeDockerSchema2LayerZstd).withID(raw(large).withID(gzipped(t, large).diffID).diffID)
	tests := kinds(t, large)
	tests["zstd with a window of 8 MiB"] = stores.with(stored(large, 23))
	for name, b := range tests {
		t.Run(name, func(t *testing.T) {
			spec := layer.Spec{MediaType: b.media, DiffID: b.diffID, Base: true, Dir: filepath.Join(t.TempDir(), "tree"),
				Window: layer.CommonWindow}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := layer.Apply(t.Context(), spec, bytes.NewReader(b.data))
			runtime.ReadMemStats(&after)
			must(t, err)
			used, most := int64(after.TotalAlloc-before.TotalAlloc), layer.Memory(b.media, spec.Window)
			t.Logf("%d KiB allocated, %d KiB allowed", used>>10, most>>10)
			if used > most {
				t.Errorf("allocated %d bytes, Memory says %d", used, most)
			}
		})
	}
}
