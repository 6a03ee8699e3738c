package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/bench/proc"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

// The hosts of the images' names. certs.d says where they are.
const (
	modelHost = "models.invalid"
	tinyHost  = "tiny.invalid"
)

// line is the containerd that everybody is measured with.
const line = "2.4"

// snapshotter is CRI's default.
const snapshotter = "overlayfs"

// node is a daemon that has never held anything.
type node struct {
	dir, hosts string
	daemon     *rig.Containerd
	cri        *rig.CRI
}

// startNode starts a daemon below dir, which must not exist, with models from the link's host and tiny images from the
// registry's.
func startNode(ctx context.Context, dir, config, modelAddr, tinyAddr string) (*node, error) {
	n := &node{dir: dir, hosts: filepath.Join(dir, "certs.d")}
	for host, addr := range map[string]string{modelHost: modelAddr, tinyHost: tinyAddr} {
		if err := writeHosts(filepath.Join(n.hosts, host), addr); err != nil {
			return nil, fmt.Errorf("write the hosts directory: %w", err)
		}
	}
	var err error
	n.daemon, err = rig.StartContainerd(ctx, rig.ContainerdConfig{
		Line: line, Dir: filepath.Join(dir, "containerd"), HostsDir: n.hosts, ExtraConfig: config,
	})
	if err != nil {
		return nil, err
	}
	if n.cri, err = rig.DialCRI(ctx, n.daemon.Address()); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func writeHosts(dir, addr string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("server = \"http://%[1]s\"\n\n[host.\"http://%[1]s\"]\ncapabilities = [\"pull\", \"resolve\"]\n", addr)
	return os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644)
}

// Close ends the daemon and removes everything that it held.
func (n *node) Close() error {
	var err error
	if n.cri != nil {
		err = n.cri.Close()
	}
	return errors.Join(err, n.daemon.Close(), os.RemoveAll(n.dir))
}

func (n *node) contentDir() string {
	return filepath.Join(n.daemon.Root(), "io.containerd.content.v1.content", "blobs")
}

// checkCold returns an error if the daemon has an image, a blob or a snapshot.
func (n *node) checkCold(ctx context.Context) error {
	images, err := n.cri.ListImages(ctx)
	if err != nil {
		return err
	}
	if len(images) > 0 {
		return fmt.Errorf("the daemon is not cold: it has %d images", len(images))
	}
	for _, dir := range []string{
		n.contentDir(),
		filepath.Join(n.daemon.Root(), "io.containerd.content.v1.content", "ingest"),
		filepath.Join(n.daemon.Root(), "io.containerd.snapshotter.v1."+snapshotter, "snapshots"),
	} {
		count, _, err := files(dir)
		if err != nil {
			return err
		}
		if count > 0 {
			return fmt.Errorf("the daemon is not cold: %d files are in %s", count, dir)
		}
	}
	return nil
}

// contentBytes is the size of all blobs.
func (n *node) contentBytes() (int64, error) {
	_, size, err := files(n.contentDir())
	return size, err
}

// files counts what is below dir and adds up its size. A dir that is not there has none.
func files(dir string) (count int, size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went meanwhile
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		count++
		size += info.Size()
		return nil
	})
	return count, size, err
}

// checkReady returns an error unless CRI has the image under ref, it is the one with the digest, and its snapshots are
// there.
func (n *node) checkReady(ctx context.Context, ref, digest string) error {
	status, err := n.cri.ImageStatus(ctx, ref)
	if err != nil {
		return err
	}
	if status == nil {
		return errors.New("CRI does not have the image")
	}
	c, err := client.New(n.daemon.Address())
	if err != nil {
		return fmt.Errorf("ask containerd: %w", err)
	}
	defer c.Close()
	ctx = namespaces.WithNamespace(ctx, "k8s.io")
	img, err := c.GetImage(ctx, ref)
	if err != nil {
		return fmt.Errorf("ask containerd: %w", err)
	}
	if got := img.Target().Digest.String(); got != digest {
		return fmt.Errorf("containerd has %s instead of %s", got, digest)
	}
	unpacked, err := img.IsUnpacked(ctx, snapshotter)
	if err != nil {
		return fmt.Errorf("ask containerd for the snapshots: %w", err)
	}
	if !unpacked {
		return errors.New("a snapshot is missing")
	}
	return nil
}

// spread has ext4 put each new directory in dir into a part of the disk of its own (FS_TOPDIR_FL, chattr +T). Where many files
// were removed a moment ago it makes new ones at half the speed, for it does not use their inodes again for some minutes, but
// looks at each of them every time (fs/ext4/ialloc.c, recently_deleted): a daemon in the place of the last one would be
// measured by what that had. It is no loss where dir is on another filesystem.
func spread(dir string) {
	const topDir = 0x00020000 // include/uapi/linux/fs.h
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	if flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|topDir)
	}
}

// settle writes everything out and drops the page cache, if that is permitted.
func settle() (dropped bool) {
	unix.Sync()
	return proc.DropCaches() == nil
}
