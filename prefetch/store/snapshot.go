package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// The labels of our snapshots that are not complete.
const (
	snapshotOwner = "hotplate.dev/owner"
	snapshotImage = "hotplate.dev/image"
)

// The labels that containerd's own unpack sets (core/unpack/unpacker.go, 2.4.2). The first makes Prepare fail if there
// is a snapshot of that name already.
const (
	snapshotRef    = snapshots.LabelSnapshotRef
	snapshotDiffID = snapshots.LabelSnapshotDiffID
	snapshotParent = "containerd.io/snapshot/parent-chain-id"
)

var _ prefetch.DirectSession = (*session)(nil)

func (s *Store) snapshots() snapshots.Snapshotter { return s.client.SnapshotService(s.cfg.Snapshotter) }

// activeKey is a new name for a snapshot that is not complete, in the form that containerd's own have.
func (s *Store) activeKey(name string) string {
	return fmt.Sprintf(snapshots.UnpackKeyFormat, fmt.Sprintf("%s-%d", s.cfg.Owner, time.Now().UnixNano()), name)
}

// HasSnapshot implements prefetch.Session.
func (s *session) HasSnapshot(ctx context.Context, chain digest.Digest) (_ bool, err error) {
	defer away(&err)
	ctx = s.in(ctx)
	if has, err := s.lookForSnapshot(ctx, chain); err != nil || !has {
		return false, err
	}
	err = s.store.client.LeasesService().AddResource(ctx, s.lease,
		leases.Resource{Type: "snapshots/" + s.store.cfg.Snapshotter, ID: chain.String()})
	if err != nil {
		return false, fmt.Errorf("lease snapshot %s: %w", chain, err)
	}
	return s.lookForSnapshot(ctx, chain) // as in Has
}

func (s *session) lookForSnapshot(ctx context.Context, chain digest.Digest) (bool, error) {
	info, err := s.store.snapshots().Stat(ctx, chain.String())
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for snapshot %s: %w", chain, err)
	}
	if info.Kind != snapshots.KindCommitted {
		return false, fmt.Errorf("snapshot %s is %s, not committed", chain, info.Kind)
	}
	return true, nil
}

// AddSnapshot implements prefetch.DirectSession.
func (s *session) AddSnapshot(ctx context.Context, layer prefetch.LayerSnapshot,
	fill func(upper string, lowers []string) error) (err error) {
	defer away(&err)
	if s.at == nil {
		return errNotDirect
	}
	ctx = s.in(ctx)
	sn, name := s.store.snapshots(), layer.Chain.String()
	key, with := s.store.activeKey(name), labelsOf(layer)
	mounts, err := sn.Prepare(ctx, key, layer.Parent.String(), snapshots.WithLabels(with),
		snapshots.WithLabels(map[string]string{snapshotOwner: s.store.cfg.Owner, snapshotImage: s.key}))
	if errdefs.IsAlreadyExists(err) {
		return s.checkSnapshot(ctx, layer) // it is leased now (core/metadata/snapshot.go, createSnapshot, 2.4.2)
	}
	if err != nil {
		return fmt.Errorf("prepare snapshot %s: %w", name, err)
	}
	if err = s.fillAndCommit(ctx, layer, key, mounts, with, fill); err != nil && !isAway(err) {
		s.store.clean(ctx, "half-made snapshot "+key, func(ctx context.Context) error { return sn.Remove(ctx, key) })
	}
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	ours := err == nil
	err = s.checkSnapshot(ctx, layer)
	if errors.Is(err, errWrongSnapshot) && ours {
		s.store.clean(ctx, "wrong snapshot "+name, func(ctx context.Context) error { return sn.Remove(ctx, name) })
	}
	return err
}

func (s *session) fillAndCommit(ctx context.Context, layer prefetch.LayerSnapshot, key string, mounts []mount.Mount,
	with map[string]string, fill func(string, []string) error) error {
	upper, lowers, err := directories(mounts)
	if err != nil {
		return fmt.Errorf("prepare snapshot %s: %w", layer.Chain, err)
	}
	if (layer.Parent == "") != (len(lowers) == 0) {
		return fmt.Errorf("prepare snapshot %s on %q: it has %d parents", layer.Chain, layer.Parent, len(lowers))
	}
	err = fill(upper, lowers)
	if err == nil && s.store.syncs.Load() {
		err = s.store.syncFS(upper)
	}
	if err != nil {
		return fmt.Errorf("fill snapshot %s: %w", layer.Chain, fillError{err})
	}
	commit := func() error {
		return s.store.snapshots().Commit(ctx, layer.Chain.String(), key, snapshots.WithLabels(with))
	}
	if err = commit(); err != nil && isAway(err) && s.store.back(ctx) == nil {
		err = commit() // the lease has kept what is filled
	}
	switch {
	case errdefs.IsNotFound(err):
		return s.committedOrLost(ctx, layer, err)
	case err != nil:
		return fmt.Errorf("commit snapshot %s: %w", layer.Chain, err)
	}
	return nil
}

// syncFS makes the filesystem with dir on it durable, as containerd's own unpack does where that is set
// (core/diff/apply/apply_linux.go, doSyncFs, 2.4.2).
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

// committedOrLost is for a snapshot that the daemon does not know any more, because it was away meanwhile: it had carried out
// a commit that it could not answer, or has lost the snapshot.
func (s *session) committedOrLost(ctx context.Context, layer prefetch.LayerSnapshot, cause error) error {
	err := s.checkSnapshot(ctx, layer)
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("commit snapshot %s: %w", layer.Chain, errors.Join(cause, prefetch.ErrAway))
	}
	return err
}

// fillError is an error of somebody else's, which says nothing about the daemon.
type fillError struct{ error }

func (e fillError) Unwrap() error { return e.error }

// errWrongSnapshot is a snapshot that is not what its name says.
var errWrongSnapshot = errors.New("snapshot is wrong")

// checkSnapshot looks at a snapshot that has been made: a parent may have been dropped silently.
func (s *session) checkSnapshot(ctx context.Context, layer prefetch.LayerSnapshot) error {
	info, err := s.store.snapshots().Stat(ctx, layer.Chain.String())
	if err != nil {
		return fmt.Errorf("look at snapshot %s: %w", layer.Chain, err)
	}
	if info.Name != layer.Chain.String() || info.Parent != layer.Parent.String() || info.Kind != snapshots.KindCommitted {
		return fmt.Errorf("%w: %s is %s on %q, not committed on %q", errWrongSnapshot, info.Name, info.Kind, info.Parent,
			layer.Parent)
	}
	return nil
}

// labelsOf are the labels of a layer's snapshot.
func labelsOf(layer prefetch.LayerSnapshot) map[string]string {
	with := snapshots.FilterInheritedLabels(layer.Annotations)
	if with == nil {
		with = make(map[string]string)
	}
	// A manifest must not say who owns what is unpacked (core/unpack/unpacker.go, layerSnapshotLabels, 2.4.2).
	delete(with, snapshots.LabelSnapshotUIDMapping)
	delete(with, snapshots.LabelSnapshotGIDMapping)
	with[snapshotRef], with[snapshotDiffID] = layer.Chain.String(), layer.DiffID.String()
	if layer.Parent != "" {
		with[snapshotParent] = layer.Parent.String()
	}
	return with
}

// directories are those of overlayfs's mounts: a bind mount where there is no parent, else an overlay with
// the parents' directories, nearest first (plugins/snapshots/overlay/overlay.go, mounts, 2.4.2).
func directories(mounts []mount.Mount) (upper string, lowers []string, err error) {
	if len(mounts) != 1 {
		return "", nil, fmt.Errorf("the snapshotter wants %d mounts, not one", len(mounts))
	}
	m := mounts[0]
	switch m.Type {
	case "bind":
		return m.Source, nil, nil
	case "overlay":
		for _, o := range m.Options {
			name, value, _ := strings.Cut(o, "=")
			switch name {
			case "upperdir":
				upper = value
			case "lowerdir":
				lowers = strings.Split(value, ":")
			}
		}
		if upper != "" && len(lowers) > 0 {
			return upper, lowers, nil
		}
	}
	return "", nil, fmt.Errorf("the snapshotter wants a mount of type %q that is not known here", m.Type)
}

// Unpacked implements prefetch.DirectSession.
func (s *session) Unpacked(ctx context.Context, config ocispec.Descriptor, chain digest.Digest) (err error) {
	defer away(&err)
	label := snapshotLabel + s.store.cfg.Snapshotter
	_, err = s.store.content().Update(s.in(ctx),
		content.Info{Digest: config.Digest, Labels: map[string]string{label: chain.String()}}, "labels."+label)
	if err != nil {
		return fmt.Errorf("label config %s: %w", config.Digest, err)
	}
	return nil
}

// removeHalfMade removes snapshots that earlier runs did not complete, of images that which chooses.
func (s *Store) removeHalfMade(ctx context.Context, which func(key string) bool) error {
	var keys []string
	err := s.snapshots().Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind == snapshots.KindActive && which(info.Labels[snapshotImage]) {
			keys = append(keys, info.Name)
		}
		return nil
	}, fmt.Sprintf("labels.%q==%q", snapshotOwner, s.cfg.Owner))
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("look for half-made snapshots: %w", err)
	}
	var errs []error
	for _, key := range keys {
		if err := s.snapshots().Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("remove half-made snapshot %s: %w", key, err))
		}
	}
	return errors.Join(errs...)
}
