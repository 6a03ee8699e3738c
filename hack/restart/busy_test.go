//go:build e2e

package restart_test

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

const busy = "4 node busy"

// deferred runs a row that is put off, and done when its cause is gone.
func (s *site) deferred(fault, reason string, gone func()) {
	s.Helper()
	before := s.daemonPID()
	s.check(busy, fault, s.restart(), restart.Deferred, reason)
	s.untouched(before)
	gone()
	s.check(busy, fault+"; then no more", s.restart(), restart.Restarted, "")
}

// TestPull has the kubelet pull an image whose registry sends nothing more.
func TestPull(t *testing.T) {
	oldAndNew(t, func(t *testing.T, line string) {
		s := newSite(t, unset(t, line))
		image, goOn := s.slowRegistry()
		cri, err := s.node.CRI(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer cri.Close()
		pulled := make(chan error, 1)
		go func() {
			_, err := cri.PullImage(t.Context(), image, nil)
			pulled <- err
		}()
		s.eventually("containerd to have begun", func() bool {
			return strings.Contains(s.exec("ctr", "-n", "k8s.io", "content", "active"), "layer-")
		})
		s.deferred("an image is being pulled by CRI", "images are being pulled", func() {
			goOn()
			if err := <-pulled; err != nil {
				t.Error("the pull did not end well:", err)
			}
		})
	})
}

// slowRegistry serves an image on the node's network, but of each blob no more than the first megabyte until it is told to go on.
func (s *site) slowRegistry() (image string, goOn func()) {
	s.Helper()
	const address = "127.0.0.1:5000"
	registry := rigtest.Registry(s.T, rig.RegistryConfig{Dir: s.TempDir()})
	img, err := rig.BuildImage(1, []rig.LayerSpec{{Content: rig.Weights, Size: 4 << 20}})
	if err != nil {
		s.Fatal(err)
	}
	if _, err := rig.Push(s.Context(), registry.Host()+"/slow:v1", img, rig.PushOptions{Insecure: true}); err != nil {
		s.Fatal(err)
	}
	release := make(chan struct{})
	proxy := rigtest.Proxy(s.T, rig.ProxyConfig{Upstream: registry.URL()})
	proxy.SetScript(func(r *http.Request) rig.Fault {
		if strings.Contains(r.URL.Path, "/blobs/") {
			return rig.Fault{StallAfter: rig.At(1 << 20), Release: release}
		}
		return rig.Fault{}
	})
	target, err := url.Parse(proxy.URL())
	if err != nil {
		s.Fatal(err)
	}
	listener, err := s.node.Listen(address)
	if err != nil {
		s.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(target)
	forward.FlushInterval = -1 // what has come goes on at once
	server := &http.Server{Handler: forward}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) }) // it ends with Close
	s.Cleanup(func() {
		server.Close()
		serving.Wait()
	})
	return address + "/slow:v1", sync.OnceFunc(func() { close(release) })
}

// TestBlob has containerd take a blob for CRI that does not come to its end, which is what a pull looks like to it.
func TestBlob(t *testing.T) {
	t.Parallel()
	s := newSite(t, unset(t, "2.4"))
	c, err := containerd.New(s.node.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	w, err := c.ContentStore().Writer(ctx, content.WithRef("layer-sha256:test"), content.WithDescriptor(ocispec.Descriptor{Size: 1 << 20}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 1<<16)); err != nil {
		t.Fatal(err)
	}
	s.deferred("a client of containerd writes a layer for CRI", "images are being pulled", func() {
		w.Close()
		// While containerd closes the stream, it cannot remove what belongs to it.
		s.eventually("the blob to be given up", func() bool { return c.ContentStore().Abort(ctx, "layer-sha256:test") == nil })
	})
}

func TestContainerNotStarted(t *testing.T) {
	oldAndNew(t, func(t *testing.T, line string) {
		s := newSite(t, unset(t, line))
		cri, err := s.node.CRI(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer cri.Close()
		pod := s.pods[0].PodID
		status, err := cri.Runtime.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod})
		if err != nil {
			t.Fatal(err)
		}
		created, err := cri.Runtime.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{
			PodSandboxId: pod,
			Config: &runtimeapi.ContainerConfig{
				Metadata: &runtimeapi.ContainerMetadata{Name: "waits"},
				Image:    &runtimeapi.ImageSpec{Image: rig.CounterImage}, Command: []string{"/usr/bin/busybox", "sleep", "1000"},
			},
			SandboxConfig: &runtimeapi.PodSandboxConfig{
				Metadata: status.GetStatus().GetMetadata(), Linux: &runtimeapi.LinuxPodSandboxConfig{},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		s.deferred("a container is created and not started", "created and not started", func() {
			_, err := cri.Runtime.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: created.ContainerId})
			if err != nil {
				t.Fatal(err)
			}
		})
	})
}

// TestRecordWithoutTask makes what CRI makes first for a container.
func TestRecordWithoutTask(t *testing.T) {
	oldAndNew(t, func(t *testing.T, line string) {
		s := newSite(t, unset(t, line))
		s.exec("ctr", "-n", "k8s.io", "containers", "create", rig.CounterImage, "half", "/usr/bin/busybox")
		s.deferred("a container's record without a task", "half", func() { s.exec("ctr", "-n", "k8s.io", "containers", "delete", "half") })
	})
}

func TestJustStarted(t *testing.T) {
	oldAndNew(t, func(t *testing.T, line string) {
		s := newSite(t, unset(t, line))
		for range 4 {
			s.exec("systemctl", "restart", "containerd")
		}
		s.deferred("four restarts in ten seconds, of five that are allowed", "ago: it must have run for", s.age)
	})
}
