//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

// pinLabel is CRI's, on the record of an image.
const pinLabel = "io.cri-containerd.pinned"

// setPin sets or takes off CRI's pin of an image, as somebody who is not hotplate.
func (n *node) setPin(img image, value string) {
	n.t.Helper()
	_, err := n.ctrd().ImageService().Update(namespaces.WithNamespace(n.t.Context(), "k8s.io"),
		images.Image{Name: img.id, Labels: map[string]string{pinLabel: value}}, "labels."+pinLabel)
	if err != nil {
		n.t.Fatal(err)
	}
}

// requirePins skips a test of pins where containerd knows none.
func (n *node) requirePins() {
	n.t.Helper()
	if !n.knowsPins() {
		n.t.Skipf("containerd %s knows no pins", n.containerd.Version())
	}
}

// untilPinnedAgain waits until a pin that was taken off is back.
func (n *node) untilPinnedAgain(img image) {
	n.t.Helper()
	client := n.ctrd()
	// CRI has its own view, which follows the record: it may not have seen yet that the pin was off.
	waitFor(n.t, "the pin to be back", func() string {
		record, err := client.ImageService().Get(namespaces.WithNamespace(n.t.Context(), "k8s.io"), img.id)
		if err != nil || record.Labels[pinLabel] == "" {
			return fmt.Sprintf("the record has labels %v; %v", record.Labels, err)
		}
		return ""
	})
	n.untilPinned(img, true)
}

// untilPinned waits until CRI says that an image is pinned, or that it is not.
func (n *node) untilPinned(img image, want bool) {
	n.t.Helper()
	waitFor(n.t, fmt.Sprintf("CRI to say of %s: pinned=%v", img.tag, want), func() string {
		status, err := n.cri.ImageStatus(n.t.Context(), img.id)
		if err != nil {
			return err.Error()
		}
		if status == nil || status.GetPinned() != want {
			return fmt.Sprintf("it says %v", status)
		}
		return ""
	})
}

func TestPinComesBackAtOnce(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "agent: somebody takes the pin off, five times: it is back within moments")
		mirror := newMirror(t)
		img := mirror.push(t, small())
		n := newNode(t, line, nil)
		n.requirePins()
		n.writeConfig(n.wanting(img, mirror))
		n.start()
		n.until(ready, imageIs("model", report.ImageReady))
		began := time.Now()
		for range 5 {
			n.setPin(img, "")
			n.untilPinnedAgain(img)
		}
		// Ready images are looked at once a minute without an event.
		if took := time.Since(began); took > time.Minute {
			t.Errorf("five times took %s, which is no faster than looking now and then", took)
		}
		n.until(ready, imageIs("model", report.ImageReady))
		n.checkImage(mirror, img, allNames(img)...)
		row.saw("5 times, no blob asked for")
	})
}

func TestPinsOfOthers(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "agent: an image that leaves the config is unpinned, but not if the pin is somebody else's")
		mirror := newMirror(t)
		ours, theirs := mirror.push(t, small()), mirror.push(t, small())
		n := newNode(t, line, nil)
		n.requirePins()
		n.prepare(mirror)
		n.mustPull(theirs.under(mirrored), theirs)
		n.setPin(theirs, "pinned")
		n.untilPinned(theirs, true)
		c := n.wanting(ours, mirror)
		c.Images = append(c.Images, config.Image{Name: "theirs", Ref: theirs.under(mirrored)})
		n.writeConfig(c)
		n.start()
		n.until(ready, imageIs("model", report.ImageReady), imageIs("theirs", report.ImageReady))
		n.checkPinned(ours, true)
		c.Images = nil
		n.configure(c)
		n.untilPinned(ours, false)
		// Pins are let go of in one pass, so that theirs would be off by now, or with the next image that leaves.
		n.checkPinned(theirs, true)
		n.stop()
		n.uninstall()
		n.checkPinned(theirs, true)
		row.saw("ours unpinned, theirs still pinned, also after uninstall")
	})
}

func TestUnwantedImageIsDeleted(t *testing.T) {
	t.Parallel()
	row := shows(t, newest, "agent, whenUnwanted Delete: an image that leaves the config goes, but not while a container uses it")
	mirror := newMirror(t)
	used, unused, sandbox := mirror.push(t, small()), mirror.push(t, small()), mirror.push(t, small())
	n := newNode(t, newest, func(c *rig.ContainerdConfig) {
		c.ExtraConfig = fmt.Sprintf("[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = %q\n", sandbox.under(mirrored))
	})
	c := n.wanting(used, mirror)
	c.Prefetch.WhenUnwanted = config.Delete
	c.Images[0].Name = "used"
	c.Images = append(c.Images, config.Image{Name: "unused", Ref: unused.under(mirrored)})
	n.writeConfig(c)
	n.start()
	n.until(ready, imageIs("used", report.ImageReady), imageIs("unused", report.ImageReady))
	n.mustPull(sandbox.under(mirrored), sandbox)
	id := n.createContainer(used)

	c.Images = nil
	n.configure(c)
	n.untilGone(unused)
	n.untilPinned(used, true)
	row.saw("the unused one is gone, the used one stays")
	if _, err := n.cri.Runtime.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	n.untilGone(used)
	row.saw("its container removed: it goes too")
}

// createContainer makes a pod on the node's network with one container of an image.
func (n *node) createContainer(img image) (id string) {
	n.t.Helper()
	pod := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: "default", Uid: "1"},
		LogDirectory: n.t.TempDir(),
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
		}},
	}
	sandbox, err := n.cri.Runtime.RunPodSandbox(n.t.Context(), &runtimeapi.RunPodSandboxRequest{Config: pod})
	if err != nil {
		n.t.Fatal(err)
	}
	made, err := n.cri.Runtime.CreateContainer(n.t.Context(), &runtimeapi.CreateContainerRequest{
		PodSandboxId: sandbox.GetPodSandboxId(), SandboxConfig: pod,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "serve"}, Image: &runtimeapi.ImageSpec{Image: img.under(mirrored)},
		},
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return made.GetContainerId()
}

// untilGone waits until CRI does not know an image any more.
func (n *node) untilGone(img image) {
	n.t.Helper()
	waitFor(n.t, "the image to go", func() string {
		status, err := n.cri.ImageStatus(n.t.Context(), img.id)
		if err != nil {
			return err.Error()
		}
		if status != nil {
			return fmt.Sprintf("CRI has %v", status)
		}
		return ""
	})
}
