//go:build e2e

package store_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

// openDirect opens a session of a store whose way is direct.
func openDirect(t *testing.T, s prefetch.Store, key string) (prefetch.Way, prefetch.DirectSession) {
	t.Helper()
	way, err := s.Way(t.Context())
	if err != nil || way.Name != prefetch.Direct {
		t.Fatalf("way: %+v, %v", way, err)
	}
	session, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := session.Close(context.WithoutCancel(t.Context()), false); err != nil {
			t.Errorf("close the session: %v", err)
		}
	})
	direct, ok := session.(prefetch.DirectSession)
	if !ok {
		t.Fatal("the session is not direct")
	}
	return way, direct
}

// applyTo lays out a layer in place.
func applyTo(t *testing.T, blob []byte) func(string, []string) error {
	return func(upper string, lowers []string) error {
		var r io.Reader = bytes.NewReader(blob)
		if gz, err := gzip.NewReader(bytes.NewReader(blob)); err == nil {
			r = gz
		}
		_, err := archive.Apply(t.Context(), upper, r, archive.WithParents(lowers),
			archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
		return err
	}
}

// bringIn does what the engine does with an image on the direct way.
func bringIn(t *testing.T, way prefetch.Way, session prefetch.DirectSession, img *prefetchtest.Image, names ...string) {
	t.Helper()
	ctx, children := t.Context(), append([]ocispec.Descriptor{img.Config}, img.Layers...)
	img.Adopt(t, way, session, append(children, img.Manifest)...)
	for i, l := range img.LayerSnapshots(t) {
		if err := session.AddSnapshot(ctx, l, applyTo(t, img.Blobs[img.Layers[i].Digest])); err != nil {
			t.Fatal(err)
		}
	}
	for _, child := range children {
		if err := session.Link(ctx, names[0], child, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := session.Link(ctx, names[0], img.Manifest, children); err != nil {
		t.Fatal(err)
	}
	if err := session.Unpacked(ctx, img.Config, img.ChainID); err != nil {
		t.Fatal(err)
	}
	if err := session.Publish(ctx, names, img.Manifest); err != nil {
		t.Fatal(err)
	}
}

// collect lets containerd collect garbage, with content and snapshots, and waits for it.
func collect(t *testing.T, c *client.Client) {
	t.Helper()
	ctx := inK8s(t)
	l, err := c.LeasesService().Create(ctx, leases.WithRandomID())
	if err != nil {
		t.Fatal(err)
	}
	held := leases.WithLease(ctx, l.ID)
	data := []byte(time.Now().String())
	w, err := c.ContentStore().Writer(held, content.WithRef(t.Name()+string(data)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(held, int64(len(data)), ""); err != nil {
		t.Fatal(err)
	}
	key := string(data)
	if _, err := c.SnapshotService("overlayfs").Prepare(held, key, ""); err != nil {
		t.Fatal(err)
	}
	if err := c.LeasesService().Delete(ctx, l, leases.SynchronousDelete); err != nil {
		t.Fatal(err)
	}
}

// snapshotTrace is what there is of snapshots, as far as it does not depend on the time.
func snapshotTrace(t *testing.T, c *client.Client) map[string]snapshots.Info {
	t.Helper()
	out := map[string]snapshots.Info{}
	err := c.SnapshotService("overlayfs").Walk(inK8s(t), func(_ context.Context, info snapshots.Info) error {
		info.Created, info.Updated = time.Time{}, time.Time{}
		out[info.Name] = info
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDirectLeavesWhatContainerdsOwnPullLeaves(t *testing.T) {
	for _, line := range rigtest.Lines(t) {
		t.Run(line, func(t *testing.T) {
			reg := prefetchtest.NewRegistry(t)
			img := prefetchtest.Build(t, 31, 100_000, 50_000, 3000)
			reg.Push(img, "models/m", "v1")
			const ref = "registry.invalid/models/m:v1"
			theirs, ours := daemonFor(t, line, reg), daemonFor(t, line, reg)
			if _, err := rigtest.CRI(t, theirs).PullImage(t.Context(), ref, nil); err != nil {
				t.Fatal(err)
			}
			way, session := openDirect(t, storeOf(ours)(t), "trace")
			bringIn(t, way, session, img, ref, "registry.invalid/models/m@"+img.Manifest.Digest.String())
			a, b := connect(t, theirs), connect(t, ours)
			want := traceOf(t, a)
			// CRI labels records that it did not make by an event, one after the other.
			deadline := time.Now().Add(20 * time.Second)
			for d := " "; d != ""; time.Sleep(10 * time.Millisecond) {
				if d = cmp.Diff(want, traceOf(t, b)); d != "" && time.Now().After(deadline) {
					t.Fatalf("we leave something else (-CRI +hotplate):\n%s", d)
				}
			}
			theirSnapshots, ourSnapshots := snapshotTrace(t, a), snapshotTrace(t, b)
			for name, info := range ourSnapshots {
				for _, later := range []string{"containerd.io/snapshot/diff-id", "containerd.io/snapshot/parent-chain-id"} {
					if theirSnapshots[name].Labels[later] == "" { // older lines do not set them
						delete(info.Labels, later)
					}
				}
			}
			if d := cmp.Diff(theirSnapshots, ourSnapshots); d != "" {
				t.Errorf("we leave other snapshots (-CRI +hotplate):\n%s", d)
			}
		})
	}
}

func TestAPodsPullWaitsForAHoldAndFetchesNothing(t *testing.T) {
	for _, line := range rigtest.Lines(t) {
		t.Run(line, func(t *testing.T) {
			reg := prefetchtest.NewRegistry(t)
			img := prefetchtest.Build(t, 32, 300_000)
			reg.Push(img, "models/m", "v1")
			d := daemonFor(t, line, reg)
			way, session := openDirect(t, storeOf(d)(t), "pod")
			layer := img.Layers[0]
			h, err := session.Hold(t.Context(), layer, nil)
			if err != nil {
				t.Fatal(err)
			}
			cri, pulled := rigtest.CRI(t, d), make(chan error, 1)
			go func() {
				_, err := cri.PullImage(t.Context(), "registry.invalid/models/m:v1", nil)
				pulled <- err
			}()
			asked := func(what string) (n int) {
				for _, r := range reg.Requests() {
					if r.Method == http.MethodGet && strings.HasSuffix(r.Path, what) {
						n++
					}
				}
				return n
			}
			until(t, "the config is fetched", func() bool { return asked(img.Config.Digest.String()) > 0 })
			if err := h.Adopt(t.Context(), img.Stage(t, way, layer), img.LayerSnapshots(t)[0].DiffID); err != nil {
				t.Fatal(err)
			}
			if err := <-pulled; err != nil {
				t.Errorf("the pod's pull: %v", err)
			}
			if n := asked(layer.Digest.String()); n != 0 {
				t.Errorf("the layer was fetched %d times", n)
			}
		})
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: it did not come true", what)
		}
	}
}

// TestCollectionsTakeNothing lets containerd collect garbage all the time while blobs are adopted and snapshots made.
func TestCollectionsTakeNothing(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		c := connect(t, d)
		way, session := openDirect(t, storeOf(d)(t), "collect")
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					collect(t, c)
				}
			}
		}()
		sizes := make([]int, 30)
		for i := range sizes {
			sizes[i] = 5000 + i
		}
		img := prefetchtest.Build(t, 33, sizes...)
		bringIn(t, way, session, img, "example.com/collect:v1")
		close(stop)
		<-stopped
		for _, desc := range append([]ocispec.Descriptor{img.Config, img.Manifest}, img.Layers...) {
			if got, err := session.Read(t.Context(), desc, desc.Size); err != nil || !bytes.Equal(got, img.Blobs[desc.Digest]) {
				t.Errorf("%s has %d bytes, %v", desc.Digest, len(got), err)
			}
		}
		for _, l := range img.LayerSnapshots(t) {
			if has, err := session.HasSnapshot(t.Context(), l.Chain); !has || err != nil {
				t.Errorf("snapshot %s: %v, %v", l.Chain, has, err)
			}
		}
	})
}

func TestARestartWhileABlobIsHeld(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		s := storeOf(d)(t)
		way, session := openDirect(t, s, "restart")
		img := prefetchtest.Build(t, 34, 100_000, 2000)
		hold := func(desc ocispec.Descriptor) prefetch.Hold {
			h, err := session.Hold(t.Context(), desc, nil)
			if err != nil {
				t.Fatal(err)
			}
			return h
		}
		h := hold(img.Layers[0])
		if err := d.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := backAgain(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if err := h.Adopt(t.Context(), img.Stage(t, way, img.Layers[0]), ""); err != nil {
			t.Errorf("adopt after a restart: %v", err)
		}

		h = hold(img.Layers[1])
		path := img.Stage(t, way, img.Layers[1])
		if err := d.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := h.Adopt(t.Context(), path, ""); !errors.Is(err, prefetch.ErrAway) {
			t.Errorf("adopt while it is away: %v, want ErrAway", err)
		}
		if _, err := session.Has(t.Context(), img.Layers[1]); !errors.Is(err, prefetch.ErrAway) {
			t.Errorf("look while it is away: %v, want ErrAway", err)
		}
		if _, err := s.Way(t.Context()); !errors.Is(err, prefetch.ErrAway) {
			t.Errorf("ask for the way while it is away: %v, want ErrAway", err)
		}
		back := make(chan error, 1)
		go func() { back <- backAgain(t.Context(), s) }()
		if err := d.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-back; err != nil {
			t.Fatal(err)
		}
		// The file is where it belongs; all that was missing was the record.
		if _, err := session.Hold(t.Context(), img.Layers[1], nil); !errors.Is(err, prefetch.ErrPresent) {
			t.Errorf("hold again: %v, want ErrPresent", err)
		}
		for _, l := range img.Layers {
			if got, err := session.Read(t.Context(), l, l.Size); err != nil || !bytes.Equal(got, img.Blobs[l.Digest]) {
				t.Errorf("%s has %d bytes, %v", l.Digest, len(got), err)
			}
		}
	})
}

// TestAHalfMadeSnapshotIsRemoved kills containerd while a snapshot is being filled.
func TestAHalfMadeSnapshotIsRemoved(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		s := storeOf(d)(t)
		_, session := openDirect(t, s, "half")
		layer := prefetchtest.Build(t, 35, 1000).LayerSnapshots(t)[0]
		ctx, cancel := context.WithCancel(t.Context()) // or a restart would be waited for
		err := session.AddSnapshot(ctx, layer, func(string, []string) error {
			cancel()
			return d.Kill()
		})
		if err == nil {
			t.Error("a snapshot was made without a daemon")
		}
		if err := d.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := backAgain(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		c := connect(t, d)
		if n := len(snapshotTrace(t, c)); n != 1 {
			t.Errorf("%d snapshots are left by the crash, want 1: the test shows nothing", n)
		}
		if err := session.AddSnapshot(t.Context(), layer, func(string, []string) error { return nil }); err != nil {
			t.Errorf("make it again: %v", err)
		}
		if err := s.Sweep(t.Context(), func(key string) bool { return key == "half" }); err != nil {
			t.Error(err)
		}
		if n := len(snapshotTrace(t, c)); n != 2 {
			t.Errorf("%d snapshots, want both: this image is still wanted", n)
		}
		_, _ = openDirect(t, s, "half") // the next run
		got := snapshotTrace(t, c)
		if _, ok := got[layer.Chain.String()]; !ok || len(got) != 1 {
			t.Errorf("snapshots: %v", got)
		}
	})
}

// TestARestartWhileASnapshotIsFilled kills containerd, too: what was filled is kept.
func TestARestartWhileASnapshotIsFilled(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		_, session := openDirect(t, storeOf(d)(t), "filled")
		chain := prefetchtest.Build(t, 39, 1000, 2000).LayerSnapshots(t)
		err := session.AddSnapshot(t.Context(), chain[0], func(upper string, _ []string) error {
			if err := d.Kill(); err != nil {
				return err
			}
			if err := d.Restart(t.Context()); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(upper, "file"), nil, 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
		err = session.AddSnapshot(t.Context(), chain[1], func(_ string, lowers []string) error {
			_, err := os.Stat(filepath.Join(lowers[0], "file"))
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestARestartBeforeTheAnswerToACommit kills containerd when it has committed a snapshot, or lost it, and has not said so.
func TestARestartBeforeTheAnswerToACommit(t *testing.T) {
	for name, c := range map[string]struct {
		before func(ctx context.Context, sn snapshots.Snapshotter, key, chain string) error
		lost   bool
	}{
		"committed": {before: func(ctx context.Context, sn snapshots.Snapshotter, key, chain string) error {
			return sn.Commit(ctx, chain, key)
		}},
		"lost": {lost: true, before: func(ctx context.Context, sn snapshots.Snapshotter, key, _ string) error {
			return sn.Remove(ctx, key)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			forEachLine(t, func(t *testing.T, d *rig.Containerd) {
				_, session := openDirect(t, storeOf(d)(t), "unanswered")
				layer := prefetchtest.Build(t, 41, 1000).LayerSnapshots(t)[0]
				restarted := make(chan error, 1)
				err := session.AddSnapshot(t.Context(), layer, func(string, []string) error {
					ctrd := connect(t, d)
					// Under the session's lease, as it commits itself: what has none is collected right after the restart.
					ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
					all, err := ctrd.LeasesService().List(ctx)
					if err != nil || len(all) != 1 {
						return fmt.Errorf("%d leases: %w", len(all), err)
					}
					ctx = leases.WithLease(ctx, all[0].ID)
					sn := ctrd.SnapshotService("overlayfs")
					var key string
					err = sn.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
						if info.Kind == snapshots.KindActive {
							key = info.Name
						}
						return nil
					})
					if err == nil {
						err = c.before(ctx, sn, key, layer.Chain.String())
					}
					if err == nil {
						err = d.Kill()
					}
					go func() { restarted <- d.Restart(t.Context()) }()
					return err
				})
				if err := <-restarted; err != nil {
					t.Fatal(err)
				}
				if got := errors.Is(err, prefetch.ErrAway); got != c.lost || !c.lost && err != nil {
					t.Errorf("it ended with %v", err)
				}
			})
		})
	}
}

func TestASnapshotWithAnotherParentIsRefused(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		_, session := openDirect(t, storeOf(d)(t), "parent")
		chain := prefetchtest.Build(t, 36, 1000, 2000).LayerSnapshots(t)
		nothing := func(string, []string) error { return nil }
		wrong := prefetch.LayerSnapshot{Chain: chain[1].Chain, DiffID: chain[1].DiffID}
		for i, l := range []prefetch.LayerSnapshot{chain[0], wrong} {
			if err := session.AddSnapshot(t.Context(), l, nothing); err != nil {
				t.Fatalf("%d: %v", i, err)
			}
		}
		err := session.AddSnapshot(t.Context(), chain[1], nothing)
		if err == nil || !strings.Contains(err.Error(), "snapshot is wrong") {
			t.Errorf("%v", err)
		}
	})
}

// blobPath is where the daemon has a blob.
func blobPath(d *rig.Containerd, desc ocispec.Descriptor) string {
	return filepath.Join(d.Root(), "io.containerd.content.v1.content/blobs/sha256", desc.Digest.Encoded())
}

// damage leaves the first bytes of a blob in its file, as a crash can.
func damage(t *testing.T, d *rig.Containerd, img *prefetchtest.Image, desc ocispec.Descriptor) {
	t.Helper()
	path := blobPath(d, desc)
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, img.Blobs[desc.Digest][:1000], 0o444); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedBlobsAreRepaired puts files of a wrong size where blobs are, with a record and without one.
func TestDamagedBlobsAreRepaired(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		s := storeOf(d)(t)
		way, session := openDirect(t, s, "damaged")
		img := prefetchtest.Build(t, 37, 10_000, 20_000, 30_000, 40_000, 50_000)
		write := func(desc ocispec.Descriptor) {
			w, err := session.Blob(t.Context(), desc, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if _, err := w.Write(img.Blobs[desc.Digest]); err != nil {
				t.Fatal(err)
			}
			if err := w.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		img.Adopt(t, way, session, img.Layers[:3]...)
		for _, l := range img.Layers {
			damage(t, d, img, l)
			if has, err := session.Has(t.Context(), l); has || err != nil {
				t.Errorf("Has of a damaged blob says %v, %v", has, err)
			}
		}
		img.Adopt(t, way, session, img.Layers[0], img.Layers[3]) // registered, not registered
		write(img.Layers[1])
		write(img.Layers[4])
		if err := s.Sweep(t.Context(), func(string) bool { return true }); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(blobPath(d, img.Layers[2])); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Sweep left a damaged file: %v", err)
		}
		write(img.Layers[2])
		for _, l := range img.Layers {
			got, err := os.ReadFile(blobPath(d, l))
			if has, herr := session.Has(t.Context(), l); err != nil || !has || herr != nil || !bytes.Equal(got, img.Blobs[l.Digest]) {
				t.Errorf("%s: %v, %v, %v, %d bytes", l.Digest, err, has, herr, len(got))
			}
		}
	})
}

// TestAWrongManifestHarmsNoBlob asks for a good blob with a wrong size.
func TestAWrongManifestHarmsNoBlob(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		way, session := openDirect(t, storeOf(d)(t), "wrong")
		img := prefetchtest.Build(t, 38, 10_000)
		layer := img.Layers[0]
		img.Adopt(t, way, session, layer)
		wrong := layer
		wrong.Size++
		if _, err := session.Has(t.Context(), wrong); err == nil {
			t.Error("Has does not mind another size")
		}
		if _, err := session.Hold(t.Context(), wrong, nil); !errors.Is(err, prefetch.ErrPresent) {
			t.Errorf("Hold: %v", err)
		}
		if has, err := session.Has(t.Context(), layer); !has || err != nil {
			t.Errorf("the blob is gone: %v, %v", has, err)
		}
	})
}
