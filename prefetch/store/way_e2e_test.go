//go:build e2e

package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
	"github.com/hotplate-dev/hotplate/prefetch/store"
)

// discardConfig sets discard_unpacked_layers in the form of the line.
func discardConfig(line string) string {
	if strings.HasPrefix(line, "1.") {
		return "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndiscard_unpacked_layers = true\n"
	}
	return "[plugins.\"io.containerd.cri.v1.images\"]\ndiscard_unpacked_layers = true\n"
}

// TestALeaseOfAProbeThatDiedIsRemoved makes one as another process leaves it that is killed while it probes.
func TestALeaseOfAProbeThatDiedIsRemoved(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		s, err := store.New(store.Config{Address: d.Address(), Log: prefetchtest.Logger(t), Owner: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		manager := connect(t, d).LeasesService()
		count := func() int {
			t.Helper()
			list, err := manager.List(inK8s(t))
			if err != nil {
				t.Fatal(err)
			}
			return len(list)
		}
		labels := map[string]string{"hotplate.dev/probe": "test", "hotplate.dev/process": "another"}
		if _, err := manager.Create(inK8s(t), leases.WithID("died"), leases.WithLabels(labels)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Way(t.Context()); err != nil || count() != 1 {
			t.Errorf("%d leases after a look at the way, want the one that may be alive: %v", count(), err)
		}
		s.SetProbeTime(0)
		if _, err := s.Way(t.Context()); err != nil || count() != 0 {
			t.Errorf("%d leases after a look at the way: %v", count(), err)
		}
		if _, err := manager.Create(inK8s(t), leases.WithID("died"), leases.WithLabels(labels)); err != nil {
			t.Fatal(err)
		}
		if err := s.Sweep(t.Context(), func(string) bool { return true }); err != nil || count() != 0 {
			t.Errorf("%d leases after a sweep: %v", count(), err)
		}
	})
}

func TestWhetherTheDaemonDiscards(t *testing.T) {
	for _, line := range rigtest.Lines(t) {
		for _, set := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s set %v", line, set), func(t *testing.T) {
				cfg := rig.ContainerdConfig{Line: line}
				if set {
					cfg.ExtraConfig = discardConfig(line)
				}
				way, err := storeOf(rigtest.Containerd(t, cfg))(t).Way(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				tells := strings.HasPrefix(line, "1.") || line == "2.4"
				if way.DiscardsKnown != tells || way.Discards != (set && tells) {
					t.Errorf("set %v: %+v", set, way)
				}
			})
		}
	}
}

// TestLayersAreSyncedWhereCRIIsToldTo has image_pull_with_sync_fs, which 2.x does not tell of and 1.6 does not know.
func TestLayersAreSyncedWhereCRIIsToldTo(t *testing.T) {
	for _, line := range rigtest.Lines(t) {
		for _, set := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s set %v", line, set), func(t *testing.T) {
				plugin := "cri.v1.images"
				if strings.HasPrefix(line, "1.") {
					plugin = "grpc.v1.cri"
				}
				d := rigtest.Containerd(t, rig.ContainerdConfig{Line: line, ExtraConfig: fmt.Sprintf(
					"[plugins.\"io.containerd.%s\"]\nimage_pull_with_sync_fs = %v\n", plugin, set)})
				s := storeOf(d)(t).(*store.Store)
				_, session := openDirect(t, s, "sync")
				var filled, synced []string
				s.OnSync(func(dir string) { synced = append(synced, dir) })
				for _, l := range prefetchtest.Build(t, 55, 1000, 2000).LayerSnapshots(t) {
					err := session.AddSnapshot(t.Context(), l, func(upper string, _ []string) error {
						if set && line == "1.7" {
							filled = append(filled, upper)
						}
						return nil
					})
					if err != nil {
						t.Fatal(err)
					}
				}
				if d := cmp.Diff(filled, synced); d != "" {
					t.Errorf("synced (-want +got):\n%s", d)
				}
			})
		}
	}
}

// checkClosed looks at the reason why the direct way is closed.
func checkClosed(t *testing.T, s prefetch.Store, reason string) {
	t.Helper()
	way, err := s.Way(t.Context())
	if err != nil || way.Name != prefetch.API || !strings.Contains(way.Reason, reason) {
		t.Errorf("%+v, %v; want it closed because of %q", way, err, reason)
	}
}

// TestAnIsolatedContentStore also shows that such a daemon keeps all promises on the other way.
func TestAnIsolatedContentStore(t *testing.T) {
	for _, line := range rigtest.Lines(t) {
		t.Run(line, func(t *testing.T) {
			d := rigtest.Containerd(t, rig.ContainerdConfig{
				Line:        line,
				ExtraConfig: "[plugins.\"io.containerd.metadata.v1.bolt\"]\ncontent_sharing_policy = \"isolated\"\n",
			})
			checkClosed(t, storeOf(d)(t), `content sharing policy is "isolated"`)
			prefetchtest.TestStore(t, func(t testing.TB) prefetch.Store {
				s := storeOf(d)(t)
				if _, err := s.Way(t.Context()); err != nil {
					t.Fatal(err)
				}
				return s
			})
			checkNothingLeft(t, d)
		})
	}
}

func TestCRIHasAnotherSnapshotter(t *testing.T) {
	for _, line := range rigtest.Lines(t) {
		t.Run(line, func(t *testing.T) {
			config := strings.Replace(discardConfig(line), "discard_unpacked_layers = true", "snapshotter = \"native\"", 1)
			s := storeOf(rigtest.Containerd(t, rig.ContainerdConfig{Line: line, ExtraConfig: config}))(t)
			checkClosed(t, s, "CRI has its images in")
		})
	}
}

// TestAnotherSnapshotter also has what the direct way leaves that was open before.
func TestAnotherSnapshotter(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		s, err := store.New(store.Config{
			Address: d.Address(), Log: prefetchtest.Logger(t), Owner: "test", Snapshotter: "native",
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		checkClosed(t, s, "the snapshotter is native")
		open := storeOf(d)(t)
		prefetchtest.TestClosedWay(t, func(direct bool) prefetch.Store {
			if direct {
				return open
			}
			return s
		})
		way, err := s.Way(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.SetProbeTime(0)
		for _, left := range []string{way.Staging + "/probe-1", way.Staging + "/link-1", way.Trees + "/probe-1"} {
			if err := os.WriteFile(left, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := s.Sweep(t.Context(), func(string) bool { return true }); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left: %v", left, err)
			}
		}
	})
}

// TestTheWayClosesMeanwhile has calls of Way all the time that find it closed: a session goes on as it was opened, and no
// sweep minds.
func TestTheWayClosesMeanwhile(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		s := storeOf(d)(t).(*store.Store)
		way, session := openDirect(t, s, "closes")
		img := prefetchtest.Build(t, 52, 10_000, 20_000, 30_000)
		img.Adopt(t, way, session, img.Layers...)
		defer s.Flicker()()
		for range 20 {
			damage(t, d, img, img.Layers[0])
			if err := s.Sweep(t.Context(), func(string) bool { return true }); err != nil {
				t.Fatal(err)
			}
		}
		bringIn(t, way, session, img, "example.com/closes:v1")
	})
}

// TestBlobsOnAnotherMount mounts the directory of blobs again: links do not go from one mount to another, even of the
// same filesystem.
func TestBlobsOnAnotherMount(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		s := storeOf(d)(t)
		openDirect(t, s, "open")
		for _, tc := range []struct{ dir, reason string }{
			{"io.containerd.content.v1.content/blobs", "files cannot be linked into containerd's content store"},
			{"io.containerd.snapshotter.v1.overlayfs/snapshots", "directories cannot be moved into snapshots"},
		} {
			dir := filepath.Join(d.Root(), tc.dir)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			checkClosed(t, s, tc.reason)
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil { // the daemon may be looking into it
				t.Fatal(err)
			}
		}
		openDirect(t, s, "open again")
	})
}

// TestDirectoriesThatAreNotTheDaemons looks from a mount namespace that sees other things at the daemon's paths.
func TestDirectoriesThatAreNotTheDaemons(t *testing.T) {
	const content, overlay = "io.containerd.content.v1.content", "io.containerd.snapshotter.v1.overlayfs"
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		s := storeOf(d)(t)
		openDirect(t, s, "open")
		for _, tc := range []struct {
			name, dir, reason string
			flags             uintptr
		}{
			{"nothing there", "", "cannot be seen from here", 0},
			{"another content root", content, "is not the content root of the containerd at", 0},
			{"another snapshotter's root", overlay, "is not what the containerd at", 0},
			{"a content root that is read-only", content, "cannot be written from here", unix.MS_RDONLY},
		} {
			t.Run(tc.name, func(t *testing.T) {
				done := make(chan struct{})
				go func() { // it keeps its thread, which ends with it
					defer close(done)
					runtime.LockOSThread()
					if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
						t.Error(err)
						return
					}
					dir := filepath.Join(d.Root(), tc.dir)
					for _, err := range []error{
						unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
						unix.Mount("tmpfs", dir, "tmpfs", tc.flags, ""),
					} {
						if err != nil {
							t.Error(err)
							return
						}
					}
					checkClosed(t, s, tc.reason)
				}()
				<-done
			})
		}
		openDirect(t, s, "open again")
	})
}

// TestASnapshotterWithARootOfItsOwn has snapshots elsewhere than below containerd's root.
func TestASnapshotterWithARootOfItsOwn(t *testing.T) {
	for _, line := range rigtest.Lines(t) {
		t.Run(line, func(t *testing.T) {
			root := t.TempDir()
			d := rigtest.Containerd(t, rig.ContainerdConfig{Line: line, ExtraConfig: fmt.Sprintf(
				"[plugins.\"io.containerd.snapshotter.v1.overlayfs\"]\nroot_path = %q\n", root)})
			way, session := openDirect(t, storeOf(d)(t), "root")
			if !strings.HasPrefix(way.Trees, root) {
				t.Errorf("%+v, want trees below %s", way, root)
			}
			bringIn(t, way, session, prefetchtest.Build(t, 51, 1000, 2000), "example.com/root:v1")
		})
	}
}

// TestContainerdLeavesOurDirectoriesAlone restarts it and lets it collect.
func TestContainerdLeavesOurDirectoriesAlone(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		s := storeOf(d)(t)
		way, err := s.Way(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		files := []string{filepath.Join(way.Staging, "file"), filepath.Join(way.Trees, "file")}
		for _, f := range files {
			if err := os.WriteFile(f, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		collect(t, connect(t, d))
		if err := d.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		collect(t, connect(t, d))
		for _, f := range files {
			if _, err := os.Stat(f); err != nil {
				t.Error(err)
			}
		}
	})
}
