package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// probeLife is when containerd removes what a probe that died has left.
const probeLife = time.Minute

// probeTime is more than any probe takes: one that is older has died.
const probeTime = 10 * time.Second

// prove shows that the directories that we see are the daemon's and that files get in by link and rename: it adopts a
// blob of random bytes, and moves files into a snapshot and lets the daemon count them. It is closed if not.
func (s *Store) prove(ctx context.Context, at *layout) error {
	if err := s.dropProbes(ctx, s.probeTime); err != nil {
		return err
	}
	lease, err := s.client.LeasesService().Create(ctx, leases.WithID(s.cfg.Owner+"-probe-"+rand.Text()),
		leases.WithLabels(map[string]string{probeOwner: s.cfg.Owner, probeProcess: s.process}),
		leases.WithExpiration(probeLife))
	if err != nil {
		return fmt.Errorf("create a lease for probing: %w", err)
	}
	defer s.clean(ctx, "a lease for probing", func(ctx context.Context) error { return s.drop(ctx, lease) })
	probe := &session{store: s, lease: lease}
	if err := probe.makeRoot(ctx, at); err != nil {
		return err
	}
	for root, dir := range map[string]string{at.content: at.staging, at.snapshots: at.trees} {
		if _, err := os.Stat(root); err != nil {
			return closedBy("containerd's directory cannot be seen from here", err)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return closedBy("containerd's directory cannot be written from here", err)
		}
	}
	if err := mayLayOut(at.trees); err != nil {
		return err
	}
	if err := probe.proveContent(ctx, at); err != nil {
		return err
	}
	return probe.proveSnapshots(ctx, at)
}

// makeRoot lets the daemon make its content root, which 1.7 to 2.2 do only when they write the first time.
func (s *session) makeRoot(ctx context.Context, at *layout) error {
	if _, err := os.Stat(at.content); !errors.Is(err, os.ErrNotExist) {
		return nil
	}
	ctx, cancel := context.WithCancel(s.in(ctx))
	defer cancel()
	ref := "hotplate-probe-" + rand.Text()
	w, err := s.store.content().Writer(ctx, content.WithRef(ref))
	if err != nil {
		return fmt.Errorf("open an ingest for probing: %w", err)
	}
	defer w.Close()
	return s.store.abort(ctx, ref)
}

func (s *session) proveContent(ctx context.Context, at *layout) error {
	data := []byte(rand.Text())
	desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	path := filepath.Join(at.staging, prefetch.ProbePrefix+desc.Digest.Encoded())
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return probeFails("containerd's content root cannot be written from here", err)
	}
	defer os.Remove(path)
	target, err := at.blob(desc.Digest)
	if err != nil {
		return err
	}
	defer os.Remove(target)
	err = s.adopt(ctx, target, "hotplate-probe-"+desc.Digest.Encoded(), desc, path, nil)
	var file *os.LinkError
	switch {
	case errors.As(err, &file):
		return probeFails("files cannot be linked into containerd's content store", err)
	case errors.Is(err, errUnseen):
		return closedf("%s is not the content root of the containerd at %s", at.content, s.store.cfg.Address)
	case err != nil:
		return fmt.Errorf("adopt a blob for probing: %w", err)
	}
	defer s.store.clean(ctx, "a blob for probing", func(ctx context.Context) error {
		return s.store.content().Delete(ctx, desc.Digest)
	})
	if _, err := s.store.read(ctx, desc.Digest, desc.Size); err != nil {
		return fmt.Errorf("read a blob for probing: %w", err)
	}
	return nil
}

// proveSnapshots moves a directory with some files into an active snapshot. Its usage is what the daemon counts.
func (s *session) proveSnapshots(ctx context.Context, at *layout) error {
	ctx = s.in(ctx)
	tree, err := os.MkdirTemp(at.trees, prefetch.ProbePrefix)
	if err != nil {
		return probeFails("the snapshotter's root cannot be written from here", err)
	}
	defer os.RemoveAll(tree)
	const files = 3
	for i := range files {
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprint(i)), nil, 0o600); err != nil {
			return probeFails("the snapshotter's root cannot be written from here", err)
		}
	}
	sn, key := s.store.snapshots(), s.store.activeKey("probe")
	mounts, err := sn.Prepare(ctx, key, "")
	if err != nil {
		return fmt.Errorf("prepare a snapshot for probing: %w", err)
	}
	defer s.store.clean(ctx, "a snapshot for probing", func(ctx context.Context) error { return sn.Remove(ctx, key) })
	upper, _, err := directories(mounts)
	if err != nil {
		return closed(err.Error())
	}
	if !strings.HasPrefix(upper, at.snapshots+"/") {
		return closedf("snapshots are in %s, not below %s", upper, at.snapshots)
	}
	info, err := os.Stat(upper)
	if err != nil {
		return closedBy(fmt.Sprintf("the snapshotter's root %s is not what the containerd at %s sees there",
			at.snapshots, s.store.cfg.Address), err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 {
		return closedf("containerd runs in a user namespace")
	}
	before, err := sn.Usage(ctx, key)
	if err != nil {
		return fmt.Errorf("count a snapshot for probing: %w", err)
	}
	if err := os.Rename(tree, filepath.Join(upper, "probe")); err != nil {
		return probeFails("directories cannot be moved into snapshots", err)
	}
	after, err := sn.Usage(ctx, key)
	if err != nil {
		return fmt.Errorf("count a snapshot for probing: %w", err)
	}
	if after.Inodes-before.Inodes != files+1 {
		return closedf("%s is not the snapshotter's root of the containerd at %s", at.snapshots, s.store.cfg.Address)
	}
	return nil
}

// closedBy is a closed error because of one of the filesystem. A disk that is full closes no way, it is full for the other
// one, too.
func closedBy(what string, err error) error {
	for _, full := range []error{unix.ENOSPC, unix.EDQUOT, unix.EMFILE, unix.ENFILE} {
		if errors.Is(err, full) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return closedf("%s: %v", what, err)
}

// probeFails is closedBy for what is done with a probe's own files. If they are gone, somebody who cleans up has taken them,
// as another process's sweep may. That says nothing about the way.
func probeFails(what string, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return closedBy(what, err)
}

// checkNamespace closes the way in a user namespace, where owners of files are not what they seem.
func checkNamespace() error {
	data, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return closedBy("it is not known whether this is a user namespace", err)
	}
	if f := strings.Fields(string(data)); len(f) != 3 || f[0] != "0" || f[1] != "0" || f[2] != "4294967295" {
		return closedf("hotplate runs in a user namespace")
	}
	return nil
}

// mayLayOut tries what laying out layers needs: giving files away, overlayfs's attributes, its whiteouts.
func mayLayOut(dir string) error {
	probe, err := os.MkdirTemp(dir, prefetch.ProbePrefix)
	if err != nil {
		return probeFails("containerd's directory cannot be written from here", err)
	}
	defer os.RemoveAll(probe)
	for what, err := range map[string]error{
		"give files away":             os.Chown(probe, 1, 1),
		"set attributes of overlayfs": unix.Setxattr(probe, "trusted.overlay.opaque", []byte("y"), 0),
		"make whiteouts of overlayfs": unix.Mknod(filepath.Join(probe, "whiteout"), unix.S_IFCHR, 0),
	} {
		if err != nil {
			return probeFails("hotplate may not "+what, err)
		}
	}
	return nil
}

// removeProbes removes what probes and replacements that died have left in our directories, whether the way is open now or
// not. A link that is made changes the file's status, so that its time is that of the link.
func (s *Store) removeProbes(ctx context.Context) error {
	d, err := s.introspect(ctx)
	if err != nil {
		return err
	}
	staging, trees := s.ours(d)
	var errs []error
	probes := prefetch.ProbePrefix + "*"
	for _, left := range []struct{ dir, names string }{{staging, probes}, {staging, "link-*"}, {trees, probes}} {
		if left.dir == "" {
			continue // or the pattern would be one of the root directory
		}
		paths, err := filepath.Glob(filepath.Join(left.dir, left.names))
		errs = append(errs, err)
		for _, path := range paths {
			var st unix.Stat_t
			if unix.Lstat(path, &st) == nil && time.Since(time.Unix(st.Ctim.Unix())) > s.probeLife {
				errs = append(errs, os.RemoveAll(path))
			}
		}
	}
	return errors.Join(errs...)
}

// clean does what must be done after ctx has ended, too, and whose failure harms nobody: everything expires by itself.
func (s *Store) clean(ctx context.Context, what string, remove func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	if err := remove(ctx); err != nil {
		s.cfg.Log.Warn("not removed: "+what, "error", err)
	}
}
