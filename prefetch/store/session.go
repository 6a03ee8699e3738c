package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// How the writer of someone else is waited for, as containerd itself does (core/content/helpers.go, OpenWriter, 2.4.2).
const (
	firstWait   = 20 * time.Millisecond
	longestWait = 2 * time.Second
)

// session is the work on one image under one lease.
type session struct {
	store *Store
	key   string
	lease leases.Lease
	older []leases.Lease // of earlier runs; lease holds what they hold
	// at is where things are, nil if the direct way was closed when the session was opened. It stays: a later look at the way
	// that fails must not end direct work under way.
	at *layout
}

var _ prefetch.Session = (*session)(nil)

func (s *session) in(ctx context.Context) context.Context {
	return leases.WithLease(s.store.in(ctx), s.lease.ID)
}

// Has implements prefetch.Session. The blob is looked for again when it is leased: a collection between the two calls may
// have taken it, and containerd leases what is not there as well (core/metadata/leases.go, AddResource, 2.4.2).
func (s *session) Has(ctx context.Context, desc ocispec.Descriptor) (_ bool, err error) {
	defer away(&err)
	ctx = s.in(ctx)
	if has, err := s.look(ctx, desc); err != nil || !has {
		return false, err
	}
	if damaged, err := s.store.damaged(ctx, s.at, desc); err != nil || damaged {
		return false, err
	}
	err = s.store.client.LeasesService().AddResource(ctx, s.lease,
		leases.Resource{Type: "content", ID: desc.Digest.String()})
	if err != nil {
		return false, fmt.Errorf("lease %s: %w", desc.Digest, err)
	}
	return s.look(ctx, desc)
}

// look tells whether the blob is there, with the size that it should have.
func (s *session) look(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	info, err := s.store.content().Info(ctx, desc.Digest)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", desc.Digest, err)
	}
	if desc.Size != 0 && info.Size != desc.Size {
		return false, fmt.Errorf("containerd has %s with %d bytes, the manifest says %d: delete it with \"ctr content rm\"",
			desc.Digest, info.Size, desc.Size)
	}
	return true, nil
}

// Read implements prefetch.Session.
func (s *session) Read(ctx context.Context, desc ocispec.Descriptor, limit int64) (_ []byte, err error) {
	defer away(&err)
	return s.store.read(s.in(ctx), desc.Digest, limit)
}

// Blob implements prefetch.Session. The ingest's name is the one that containerd's own pulls use, so that of two pulls of
// the same blob one waits for the other.
func (s *session) Blob(ctx context.Context, desc ocispec.Descriptor, waiting func()) (_ prefetch.BlobWriter, err error) {
	defer away(&err)
	// The writer's stream lives as long as this context.
	ctx, cancel := context.WithCancel(s.in(ctx))
	ref := remotes.MakeRefKey(ctx, desc)
	w, err := s.openWriter(ctx, ref, desc, s.store.cfg.MaxResume, waiting)
	if err != nil {
		cancel()
		return nil, err
	}
	bw := &blobWriter{store: s.store, w: w, desc: desc, ref: ref, cancel: cancel}
	st, err := w.Status()
	if err != nil {
		bw.Close()
		return nil, fmt.Errorf("open ingest %s: %w", ref, err)
	}
	bw.offset = st.Offset
	return bw, nil
}

// openWriter opens the ingest ref, and continues what is there of it up to resume bytes.
func (s *session) openWriter(ctx context.Context, ref string, desc ocispec.Descriptor, resume int64, waiting func()) (
	content.Writer, error) {
	told := false
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		if err := s.store.repair(ctx, s.at, desc); err != nil {
			return nil, err
		}
		busy, err := s.discardLarge(ctx, ref, resume)
		if err != nil {
			return nil, err
		}
		if !busy {
			w, err := s.store.content().Writer(ctx, content.WithRef(ref), content.WithDescriptor(desc))
			switch {
			case err == nil:
				return w, nil
			case errdefs.IsAlreadyExists(err):
				return nil, prefetch.ErrPresent
			case !isLocked(err):
				return nil, fmt.Errorf("open ingest %s: %w", ref, err)
			}
		}
		if !told && waiting != nil {
			waiting()
			told = true
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// isLocked tells a locked ingest from a daemon that is away, which has the same code (plugins/content/local/locks.go).
func isLocked(err error) bool {
	return errdefs.IsUnavailable(err) && strings.Contains(err.Error(), "locked")
}

// discardLarge throws a partial ingest of more than limit bytes away, which is too large to be continued. It tells whether
// someone has it open: containerd would let it be aborted under the kubelet's hands. So it is opened first, which locks it.
// With a size that is not the one it was begun with, containerd does not read what is there of it
// (plugins/content/local/store.go, resumeStatus, 2.4.2, and the same in 1.6 and 1.7).
func (s *session) discardLarge(ctx context.Context, ref string, limit int64) (busy bool, err error) {
	st, err := s.store.content().Status(ctx, ref)
	switch {
	case errdefs.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look at ingest %s: %w", ref, err)
	case st.Offset <= limit:
		return false, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	other := ocispec.Descriptor{Size: st.Total + 1}
	w, err := s.store.content().Writer(ctx, content.WithRef(ref), content.WithDescriptor(other))
	switch {
	case isLocked(err):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("open ingest %s to throw it away: %w", ref, err)
	}
	defer w.Close()
	s.store.cfg.Log.Info("partial layer is too large to be continued without stalling containerd, fetching it anew",
		"ref", ref, "bytes", st.Offset)
	return false, s.store.abort(ctx, ref)
}

// Link implements prefetch.Session, with the labels that containerd's own pull sets (client/pull.go, fetch, 2.4.2).
func (s *session) Link(ctx context.Context, ref string, desc ocispec.Descriptor, children []ocispec.Descriptor) (err error) {
	defer away(&err)
	ctx = s.in(ctx)
	label := images.SetChildrenMappedLabels(s.store.content(), images.HandlerFunc(
		func(context.Context, ocispec.Descriptor) ([]ocispec.Descriptor, error) { return children, nil }), nil)
	if _, err := label(ctx, desc); err != nil {
		return fmt.Errorf("label %s: %w", desc.Digest, err)
	}
	source, err := docker.AppendDistributionSourceLabel(s.store.content(), ref)
	if err != nil {
		return fmt.Errorf("label %s: %w", desc.Digest, err)
	}
	if _, err := source(ctx, desc); err != nil {
		return fmt.Errorf("label %s: %w", desc.Digest, err)
	}
	return nil
}

// Unpack implements prefetch.Session. containerd's client looks for each snapshot, reads a layer only where there is none,
// and always labels the config (client/image.go, Unpack, 2.4.2).
func (s *session) Unpack(ctx context.Context, ref string, target ocispec.Descriptor, p platforms.MatchComparer) (
	_ digest.Digest, err error) {
	defer away(&err)
	ctx = s.in(ctx)
	name := s.store.cfg.Snapshotter
	img := containerd.NewImageWithPlatform(s.store.client, images.Image{Name: ref, Target: target}, p)
	withSync := containerd.WithUnpackApplyOpts(diff.WithSyncFs(s.store.syncs.Load()))
	if err := img.Unpack(ctx, name, withSync); err != nil {
		return "", fmt.Errorf("unpack into %s: %w", name, err)
	}
	diffIDs, err := img.RootFS(ctx)
	if err != nil {
		return "", fmt.Errorf("read diff IDs: %w", err)
	}
	chain := identity.ChainID(diffIDs)
	// containerd has been seen to label an image with a chain that does not exist.
	if _, err := s.store.client.SnapshotService(name).Stat(ctx, chain.String()); err != nil {
		return "", fmt.Errorf("look for snapshot %s after unpacking: %w", chain, err)
	}
	return chain, nil
}

// Publish implements prefetch.Session. CRI's labels are left to CRI: with its label on it, it would not make the record
// that is named by the image ID.
func (s *session) Publish(ctx context.Context, names []string, target ocispec.Descriptor) (err error) {
	defer away(&err)
	ctx = s.in(ctx)
	for _, name := range names {
		if err := s.publish(ctx, images.Image{Name: name, Target: target}); err != nil {
			return fmt.Errorf("record image %s: %w", name, err)
		}
	}
	return nil
}

func (s *session) publish(ctx context.Context, img images.Image) error {
	service := s.store.client.ImageService()
	for range 3 { // someone may remove or create the record between two calls
		have, err := service.Get(ctx, img.Name)
		switch {
		case errdefs.IsNotFound(err):
			if _, err = service.Create(ctx, img); !errdefs.IsAlreadyExists(err) {
				return err
			}
		case err != nil:
			return err
		case have.Target.Digest == img.Target.Digest:
			return nil
		default:
			if _, err = service.Update(ctx, img, "target"); !errdefs.IsNotFound(err) {
				return err
			}
		}
	}
	return errors.New("someone else keeps changing it")
}

// Close implements prefetch.Session.
func (s *session) Close(ctx context.Context, keep bool) (err error) {
	defer away(&err)
	ctx = s.store.in(ctx)
	var errs []error
	if keep {
		held, err := s.store.client.LeasesService().ListResources(ctx, s.lease)
		keep = err != nil || len(held) > 0
	}
	if !keep {
		errs = append(errs, s.store.drop(ctx, s.lease))
	}
	for _, old := range s.older {
		errs = append(errs, s.store.drop(ctx, old))
	}
	return errors.Join(errs...)
}
