//go:build e2e

package e2e

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// ownDirs are the directories in which hotplate keeps partial blobs and layers, and how many levels of directories in them
// may stay while there is nothing.
func (n *node) ownDirs() map[string]int {
	root := n.containerd.Root()
	return map[string]int{
		filepath.Join(root, "io.containerd.content.v1.content/hotplate"):       3, // owner/staging/blobs
		filepath.Join(root, "io.containerd.snapshotter.v1.overlayfs/hotplate"): 2, // owner/trees
		n.path("state", "staging"): 2, // owner/blobs
	}
}

// ownFiles lists what hotplate has of partial blobs and layers.
func (n *node) ownFiles() (files []string) {
	n.t.Helper()
	for top, frame := range n.ownDirs() {
		err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // there is none, or it went meanwhile
			}
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(top, path)
			if !e.IsDir() || strings.Count(rel, "/") >= frame {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			n.t.Fatal(err)
		}
	}
	return files
}

// checkEnded checks that a program that has ended left no process of its group.
func checkEnded(t *testing.T, p *process) {
	t.Helper()
	group := p.cmd.Process.Pid
	waitFor(t, "every process of the group to end", func() string {
		if err := unix.Kill(-group, 0); errors.Is(err, unix.ESRCH) {
			return ""
		}
		return "group " + strconv.Itoa(group) + " has processes"
	})
}

// openFiles lists the files that a process has open below dir, but for the directory of hotplate's own that it has locked.
func openFiles(t *testing.T, pid int, dir string) (open []string) {
	t.Helper()
	fds := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(fds)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(fds, e.Name()))
		if err == nil && strings.HasPrefix(to, dir+"/") && filepath.Base(to) != "trees" {
			open = append(open, to)
		}
	}
	return open
}
