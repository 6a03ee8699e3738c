//go:build e2e

package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

// present makes an image known to the daemon and waits until CRI has it, too.
func present(t *testing.T, s prefetch.Store, img *prefetchtest.Image, ref string) {
	t.Helper()
	way, err := s.Way(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	session, err := s.Open(t.Context(), "present")
	if err != nil {
		t.Fatal(err)
	}
	bringIn(t, way, session.(prefetch.DirectSession), img, ref)
	if err := session.Close(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	until(t, "CRI has the image", func() bool {
		st, err := s.State(t.Context(), prefetch.Query{Names: []string{ref}})
		return err == nil && st.Visible[ref] == img.Config.Digest
	})
}

func TestAnImageInUseIsNotRemoved(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		s, c := storeOf(d)(t), connect(t, d)
		img := prefetchtest.Build(t, 41, 1000)
		id := img.Config.Digest
		present(t, s, img, "example.com/used:v1")
		for _, name := range []string{"example.com/used:v1", id.String()} {
			spec, err := typeurl.MarshalAny(&specs.Spec{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.ContainerService().Create(inK8s(t), containers.Container{
				ID: "user", Image: name, Spec: spec, Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2"},
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Remove(t.Context(), id); !errors.Is(err, prefetch.ErrInUse) {
				t.Errorf("used as %s: %v, want ErrInUse", name, err)
			}
			if err := c.ContainerService().Delete(inK8s(t), "user"); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Remove(t.Context(), id); err != nil {
			t.Errorf("used no more: %v", err)
		}
		if list, err := c.ImageService().List(inK8s(t)); err != nil || len(list) > 0 {
			t.Errorf("images: %v, %v", list, err)
		}
		until(t, "its content and snapshots are collected", func() bool {
			return len(traceOf(t, c).Content) == 0 && len(snapshotTrace(t, c)) == 0
		})
	})
}

func TestAnImageWithAForeignPinIsNotRemoved(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		s, c := storeOf(d)(t), connect(t, d)
		img := prefetchtest.Build(t, 42, 1000)
		const ref, label = "example.com/pinned:v1", "io.cri-containerd.pinned"
		present(t, s, img, ref)
		pin := func(value string) {
			_, err := c.ImageService().Update(inK8s(t), images.Image{Name: ref, Labels: map[string]string{label: value}}, "labels."+label)
			if err != nil {
				t.Fatal(err)
			}
		}
		pin("pinned")
		if err := s.Remove(t.Context(), img.Config.Digest); !errors.Is(err, prefetch.ErrInUse) {
			t.Errorf("%v, want ErrInUse", err)
		}
		pin("")
		if err := s.Remove(t.Context(), img.Config.Digest); err != nil {
			t.Error(err)
		}
	})
}

// TestAnArtifactsForeignRootStays has somebody else's label for the garbage collector on it, or none.
func TestAnArtifactsForeignRootStays(t *testing.T) {
	const label = "containerd.io/gc.root"
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		s, blobs := storeOf(d)(t), connect(t, d).ContentStore()
		way, holder := openDirect(t, s, "holder")
		img := prefetchtest.BuildArtifact(t, 54)
		img.Adopt(t, way, holder, img.Config, img.Manifest)
		for _, before := range []string{"", "2024-02-29T12:00:00Z"} {
			info := content.Info{Digest: img.Manifest.Digest, Labels: map[string]string{label: before}}
			if _, err := blobs.Update(inK8s(t), info, "labels."+label); err != nil {
				t.Fatal(err)
			}
			session, err := s.Open(t.Context(), "artifact")
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				err := session.Keep(t.Context(), []string{"example.com/weights:v1"}, img.Manifest, img.Manifest.Digest)
				if err != nil {
					t.Fatal(err)
				}
			}
			kept, err := blobs.Info(inK8s(t), img.Manifest.Digest)
			if got := kept.Labels[label]; err != nil || got == "" || before != "" && got != before {
				t.Errorf("kept: %q, %v; before it was %q", got, err, before)
			}
			if err := session.Close(t.Context(), false); err != nil {
				t.Error(err)
			}
			if err := s.Sweep(t.Context(), func(key string) bool { return key == "holder" }); err != nil {
				t.Fatal(err)
			}
			swept, err := blobs.Info(inK8s(t), img.Manifest.Digest)
			if got := swept.Labels[label]; err != nil || got != before {
				t.Errorf("swept: %q, %v; before it was %q", got, err, before)
			}
		}
	})
}

func TestAWatchEndsWithTheDaemon(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		s, ended := storeOf(d)(t), make(chan error, 1)
		changed := make(chan struct{}, 1)
		go func() {
			ended <- s.Watch(t.Context(), func() {
				select {
				case changed <- struct{}{}:
				default:
				}
			})
		}()
		img := prefetchtest.Build(t, 43, 1000)
		until(t, "the watch has begun", func() bool {
			present(t, s, img, "example.com/watched:v1")
			if err := s.Remove(t.Context(), img.Config.Digest); err != nil {
				t.Fatal(err)
			}
			return len(changed) > 0
		})
		if err := d.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, prefetch.ErrAway) {
			t.Errorf("%v, want ErrAway", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := backAgain(ctx, s); !errors.Is(err, context.Canceled) {
			t.Errorf("Back without a daemon: %v", err)
		}
	})
}

func TestSpace(t *testing.T) {
	forEachLine(t, func(t *testing.T, d *rig.Containerd) {
		s := storeOf(d)(t)
		if _, err := s.Way(t.Context()); err != nil { // some lines make their content root late
			t.Fatal(err)
		}
		space, err := s.Space(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []prefetch.Volume{space.Content, space.Snapshots} {
			if v.Path == "" || v.Device == 0 || v.Free <= 0 || v.Free > v.Size || v.FreeInodes > v.Inodes {
				t.Errorf("%+v", v)
			}
		}
		if space.Content.Device != space.Snapshots.Device {
			t.Errorf("one filesystem has two devices: %+v", space)
		}
	})
}

// TestAnImageOfAPodIsNotRemoved has a container of CRI whose tag points at another image by now.
func TestAnImageOfAPodIsNotRemoved(t *testing.T) {
	const pause, ref = "registry.invalid/models/pause:v1", "example.com/moved:v1"
	for _, line := range rigtest.Lines(t) {
		t.Run(line, func(t *testing.T) {
			d := rigtest.Containerd(t, rig.ContainerdConfig{
				Line: line, HostsDir: pushPause(t), ExtraConfig: sandboxConfig(line, pause),
			})
			s, cri := storeOf(d)(t), rigtest.CRI(t, d)
			if _, err := cri.PullImage(t.Context(), pause, nil); err != nil {
				t.Fatal(err)
			}
			old, now := prefetchtest.Build(t, 44, 1000), prefetchtest.Build(t, 45, 2000)
			present(t, s, old, ref)
			id := createContainer(t, cri, ref)
			present(t, s, now, ref)
			if err := s.Remove(t.Context(), old.Config.Digest); !errors.Is(err, prefetch.ErrInUse) || !strings.Contains(err.Error(), id) {
				t.Errorf("%v, want ErrInUse by %s", err, id)
			}
			_, err := cri.Runtime.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Remove(t.Context(), old.Config.Digest); err != nil {
				t.Errorf("used no more: %v", err)
			}
		})
	}
}

// pushPause makes an image whose entry point waits for ever, as a sandbox's must, and returns a hosts directory for it.
func pushPause(t *testing.T) string {
	t.Helper()
	reg := rigtest.Registry(t, rig.RegistryConfig{})
	img, err := rig.BuildModelImage(rig.ModelSpec{Seed: 1, RawSize: 1 << 20, ShardSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rig.Push(t.Context(), reg.Host()+"/models/pause:v1", img, rig.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	hosts := t.TempDir()
	rigtest.Mirror{Host: "registry.invalid", URL: reg.URL()}.Write(t, hosts)
	return hosts
}

func sandboxConfig(line, ref string) string {
	if strings.HasPrefix(line, "1.") {
		return fmt.Sprintf("[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = %q\n", ref)
	}
	return fmt.Sprintf("[plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = %q\n", ref)
}

// createContainer makes a pod on the node's network with one container.
func createContainer(t *testing.T, cri *rig.CRI, ref string) (id string) {
	t.Helper()
	pod := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: "default", Uid: "1"},
		LogDirectory: t.TempDir(),
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
		}},
	}
	sandbox, err := cri.Runtime.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: pod})
	if err != nil {
		t.Fatal(err)
	}
	made, err := cri.Runtime.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{
		PodSandboxId: sandbox.GetPodSandboxId(), SandboxConfig: pod,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "serve"}, Image: &runtimeapi.ImageSpec{Image: ref},
			Command: []string{"/serve"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return made.GetContainerId()
}
