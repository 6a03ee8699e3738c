//go:build e2e

package restart_test

import (
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hotplate-dev/hotplate/hack/rig"
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

// TestPull has containerd take a blob for CRI that does not come to its end, which is what a pull looks like to it.
func TestPull(t *testing.T) {
	t.Parallel()
	s := newSite(t, rig.NodeConfig{Line: "2.4", ConfigTOML: base(t, "2.4", 3)})
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
	s.deferred("an image is being pulled", "images are being pulled", func() {
		w.Close()
		// While containerd closes the stream, it cannot remove what belongs to it.
		s.eventually("the blob to be given up", func() bool { return c.ContentStore().Abort(ctx, "layer-sha256:test") == nil })
	})
}

func TestContainerNotStarted(t *testing.T) {
	t.Parallel()
	s := newSite(t, rig.NodeConfig{Line: "2.4", ConfigTOML: base(t, "2.4", 3)})
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
}

// TestRecordWithoutTask makes what CRI makes first for a container.
func TestRecordWithoutTask(t *testing.T) {
	t.Parallel()
	s := newSite(t, rig.NodeConfig{Line: "2.4", ConfigTOML: base(t, "2.4", 3)})
	s.exec("ctr", "-n", "k8s.io", "containers", "create", rig.CounterImage, "half", "/usr/bin/busybox")
	s.deferred("a container's record without a task", "half", func() { s.exec("ctr", "-n", "k8s.io", "containers", "delete", "half") })
}

func TestJustStarted(t *testing.T) {
	t.Parallel()
	s := newSite(t, rig.NodeConfig{Line: "2.4", ConfigTOML: base(t, "2.4", 3)})
	for range 4 {
		s.exec("systemctl", "restart", "containerd")
	}
	s.deferred("four restarts in ten seconds, of five that are allowed", "ago: it must have run for", s.age)
}
