//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
)

func TestLayersThatAreNotKept(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "agent, keepLayers Never: the image is as containerd makes it, and no blob of a layer is on the disk")
		mirror := newMirror(t)
		img := mirror.put(t, odd(t, model()), newName())
		n := newNode(t, line, nil)
		c := n.wanting(img, mirror)
		c.Prefetch.KeepLayers = config.KeepNever
		n.writeConfig(c)
		mirror.SetScript(slowly())
		n.start()
		n.until(fetched(1 << 20))
		if files := n.ownFiles(); len(n.layerBlobs(img)) > 0 || len(files) == 0 {
			t.Errorf("in the middle of the pull there are the blobs %q and the files %q", n.layerBlobs(img), files)
		}
		mirror.SetScript(nil)
		n.until(ready, imageIs("model", report.ImageReady))
		n.stop()
		n.checkNotKept(mirror, img, line)
		row.saw("%d layers, no blob of theirs; kubelet's pulls: %d blobs", len(img.layers), mirror.blobs())
	})
}

// checkNotKept checks an image whose layers are not kept.
func (n *node) checkNotKept(mirror *site, img image, line string) {
	n.t.Helper()
	n.checkImage(mirror, img, allNames(img)...)
	n.checkSame(newReference(n.t, line), img)
	n.checkOnly(img)
	if got := n.layerBlobs(img); len(got) > 0 {
		n.t.Errorf("blobs of layers are there: %q", got)
	}
}

// layerBlobs lists the image's layers that are in the content store.
func (n *node) layerBlobs(img image) (paths []string) {
	n.t.Helper()
	for _, l := range img.layers {
		path := filepath.Join(n.containerd.Root(), "io.containerd.content.v1.content/blobs/sha256", l.Hex)
		if _, err := os.Stat(path); err == nil {
			paths = append(paths, path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			n.t.Fatal(err)
		}
	}
	return paths
}

func TestPinnedBytesAreBounded(t *testing.T) {
	t.Parallel()
	row := shows(t, newest, "agent, maxPinned: an image that would exceed it is refused with numbers before its first layer; with "+
		"more room it comes")
	mirror := newMirror(t)
	first, second := mirror.push(t, model()), mirror.push(t, model())
	n := newNode(t, newest, nil)
	c := n.wanting(first, mirror)
	c.Images[0].Priority = 10
	c.Images = append(c.Images, config.Image{Name: "second", Ref: second.under(mirrored)})
	c.Prefetch.MaxImages = 1
	c.Prefetch.MaxPinned = config.Bytes(3 * first.size) // one image takes its blobs and its unpacked layers, about twice its size
	n.writeConfig(c)
	n.start()
	n.until(notReady, imageIs("model", report.ImageReady),
		imageIs("second", report.ImageFailed, "too many bytes are pinned", "maxPinned is", "raise maxPinned"))
	n.checkPinned(first, true)
	if got := mirror.layerBytes(second); got > 0 {
		t.Errorf("%d bytes of layers were fetched for an image that may not be pinned", got)
	}
	row.saw("refused with \"too many bytes are pinned\"")
	c.Prefetch.MaxPinned = 0
	n.configure(c)
	n.until(ready, imageIs("second", report.ImageReady))
	n.checkPinned(second, true)
	n.checkOnly(first, second)
	row.saw("without the limit: Ready")
}

func TestLowPriority(t *testing.T) {
	t.Parallel()
	row := shows(t, newest, "agent, lowPriority: every thread gives way for CPU and disk, also while an image is pulled")
	mirror := newMirror(t)
	img := mirror.push(t, model())
	n := newNode(t, newest, nil)
	c := n.wanting(img, mirror)
	c.Prefetch.LowPriority = true
	n.writeConfig(c)
	mirror.SetScript(slowly())
	n.start()
	n.until(fetched(1 << 20))
	threads := n.checkPriority()
	mirror.SetScript(nil)
	n.until(ready)
	row.saw("%d threads at nice 10 and the lowest best-effort I/O; Ready", threads)
}

// checkPriority checks the priorities of the agent's threads, and returns how many there are.
func (n *node) checkPriority() int {
	n.t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", n.agent.cmd.Process.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			n.t.Fatal(err)
		}
		// The system call returns 20 less the niceness (getpriority(2)).
		if prio, err := unix.Getpriority(unix.PRIO_PROCESS, tid); prio != 10 && !errors.Is(err, unix.ESRCH) {
			n.t.Errorf("thread %d has niceness %d: %v", tid, 20-prio, err)
		}
		const process, bestEffort, lowest = 1, 2, 7 // include/uapi/linux/ioprio.h
		io, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, process, uintptr(tid), 0)
		if io != bestEffort<<13|lowest && errno != unix.ESRCH {
			n.t.Errorf("thread %d has I/O priority %#x: %v", tid, io, errno)
		}
	}
	return len(tasks)
}
