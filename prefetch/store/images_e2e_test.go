//go:build e2e

package store_test

import (
	"context"
	"errors"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hotplate-dev/hotplate/hack/rig"
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
		if err := s.Back(ctx); !errors.Is(err, context.Canceled) {
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
