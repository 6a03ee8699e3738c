package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// adoptTries is how often a file is linked and registered again that containerd's collection took between the two.
const adoptTries = 6

// holdResume is the largest partial ingest, in bytes, that a hold opens: containerd hashes it in a transaction, and a hold
// has no use for it.
const holdResume = 16 << 20

// errUnseen says that containerd did not take a file for the blob, however often it was put there.
var errUnseen = errors.New("containerd does not see the file")

// errNotDirect says that a method of the direct way was called in a session that was opened without it.
var errNotDirect = errors.New("the direct way is closed")

// blob is the path of a blob's file.
func (l *layout) blob(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("digest %q: %w", d, err)
	}
	return filepath.Join(l.content, "blobs", d.Algorithm().String(), d.Encoded()), nil
}

// hold is an open ingest with the name that containerd's own pulls use.
type hold struct {
	session *session
	desc    ocispec.Descriptor
	ref     string
	w       content.Writer
	cancel  context.CancelFunc // ends the stream
}

var _ prefetch.Hold = (*hold)(nil)

// Hold implements prefetch.DirectSession.
func (s *session) Hold(ctx context.Context, desc ocispec.Descriptor, waiting func()) (_ prefetch.Hold, err error) {
	defer away(&err)
	if s.at == nil {
		return nil, errNotDirect
	}
	ctx, cancel := context.WithCancel(s.in(ctx))
	h := &hold{session: s, desc: desc, ref: remotes.MakeRefKey(ctx, desc), cancel: cancel}
	if h.w, err = s.openWriter(ctx, h.ref, desc, holdResume, waiting); err != nil {
		cancel()
		return nil, err
	}
	if err := h.complete(ctx); err != nil {
		h.Release()
		return nil, err
	}
	return h, nil
}

// complete makes a blob known whose file somebody has put in its place without that, just now or before a crash, and
// returns ErrPresent then. containerd opens an ingest for it, with all of the bytes (core/metadata/content.go, Writer, 2.4.2).
func (h *hold) complete(ctx context.Context) error {
	st, err := h.w.Status()
	if err != nil {
		return fmt.Errorf("open ingest %s: %w", h.ref, err)
	}
	if st.Offset != h.desc.Size {
		return nil
	}
	err = h.w.Commit(ctx, h.desc.Size, h.desc.Digest)
	switch {
	case err == nil, errdefs.IsAlreadyExists(err):
		return prefetch.ErrPresent
	case errdefs.IsFailedPrecondition(err): // somebody has written as many wrong bytes
		err = errors.Join(err, h.session.store.abort(ctx, h.ref))
	}
	return fmt.Errorf("commit ingest %s: %w", h.ref, err)
}

// Adopt implements prefetch.Hold. The file is put in its place first; from then on every pull that asks for the blob
// finds it. Then our ingest, if the daemon has not restarted meanwhile, can go: without the hold it may be
// somebody else's.
func (h *hold) Adopt(ctx context.Context, path string, diffID digest.Digest) (err error) {
	defer away(&err)
	defer h.Release()
	target, err := h.session.at.blob(h.desc.Digest)
	if err != nil {
		return err
	}
	ctx = h.session.in(ctx)
	if err := place(path, target); err != nil {
		return fmt.Errorf("link %s into containerd's content store: %w", h.desc.Digest, err)
	}
	if _, err := h.w.Status(); err == nil {
		if err := h.session.store.abort(ctx, h.ref); err != nil {
			return err
		}
	}
	var with map[string]string
	if diffID != "" {
		with = map[string]string{labels.LabelUncompressed: diffID.String()}
	}
	return h.session.adopt(ctx, target, h.ref, h.desc, path, with)
}

// Release implements prefetch.Hold. containerd ends the ingest when the stream has ended.
func (h *hold) Release() {
	h.cancel()
	_ = h.w.Close() // what is there of it is nothing that is missed
}

// adopt puts the file at path in its place and registers it. GC may take it between the two.
func (s *session) adopt(ctx context.Context, target, ref string, desc ocispec.Descriptor, path string,
	with map[string]string) error {
	ctx = s.in(ctx)
	wait := firstWait
	for range adoptTries {
		if err := place(path, target); err != nil {
			return fmt.Errorf("link %s into containerd's content store: %w", desc.Digest, err)
		}
		ok, err := s.register(ctx, ref, desc, with)
		if ok || err != nil {
			return err
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		wait *= 2
	}
	return fmt.Errorf("register %s with containerd: %w", desc.Digest, errUnseen)
}

// register makes the blob whose file is in its place known. False means that containerd did not find the file: then the
// writer that it opened is an empty ingest.
func (s *session) register(ctx context.Context, ref string, desc ocispec.Descriptor, with map[string]string) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := s.store.content().Writer(ctx, content.WithRef(ref), content.WithDescriptor(desc))
	switch {
	case errdefs.IsAlreadyExists(err):
		return s.registered(ctx, desc, with)
	case isLocked(err):
		return false, nil // it was collected, and someone has begun to fetch it
	case err != nil:
		return false, fmt.Errorf("register %s: %w", desc.Digest, err)
	}
	defer w.Close()
	st, err := w.Status()
	if err != nil {
		return false, fmt.Errorf("register %s: %w", desc.Digest, err)
	}
	if st.Offset != desc.Size {
		return false, s.store.abort(ctx, ref)
	}
	err = w.Commit(ctx, desc.Size, desc.Digest, content.WithLabels(with))
	switch {
	case errdefs.IsAlreadyExists(err):
		return s.registered(ctx, desc, with)
	case err != nil:
		return false, fmt.Errorf("register %s: %w", desc.Digest, err)
	}
	return true, nil
}

// registered labels a blob that somebody else has made known. One with a wrong size in its record is made known anew.
func (s *session) registered(ctx context.Context, desc ocispec.Descriptor, with map[string]string) (bool, error) {
	var fields []string
	for k := range with {
		fields = append(fields, "labels."+k)
	}
	info, err := s.store.content().Info(ctx, desc.Digest)
	if err == nil && info.Size != desc.Size {
		err = s.store.content().Delete(ctx, desc.Digest)
		if err != nil && !errdefs.IsNotFound(err) {
			return false, fmt.Errorf("remove the record of %s, which says %d bytes: %w", desc.Digest, info.Size, err)
		}
		return false, nil
	}
	if err == nil && len(fields) > 0 {
		_, err = s.store.content().Update(ctx, content.Info{Digest: desc.Digest, Labels: with}, fields...)
	}
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("label %s: %w", desc.Digest, err)
	}
	return true, nil
}

// place makes target another name of the file at path, whatever was there before, and makes that durable. What was
// there is either the same bytes, or damaged.
func place(path, target string) error {
	if err := os.Chmod(path, 0o444); err != nil { // as containerd has its blobs
		return err
	}
	if err := makeDir(filepath.Dir(target)); err != nil {
		return err
	}
	err := os.Link(path, target)
	if errors.Is(err, os.ErrExist) {
		err = replace(path, target)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(target))
}

// replace is link that replaces target in one step.
func replace(path, target string) error {
	ours, err := os.Stat(path)
	if err != nil {
		return err
	}
	if theirs, err := os.Lstat(target); err == nil && os.SameFile(ours, theirs) {
		return nil // renaming one name of a file to another does nothing
	}
	tmp := filepath.Join(filepath.Dir(path), fmt.Sprintf("link-%d", time.Now().UnixNano()))
	if err := os.Link(path, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, target); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}

// makeDir makes blobs/sha256 below a fresh content root, as containerd does (plugins/content/local/writer.go, 2.4.2).
func makeDir(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	blobs := filepath.Dir(dir)
	return errors.Join(syncDir(blobs), syncDir(filepath.Dir(blobs)))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// OpenBlob implements prefetch.DirectSession.
func (s *session) OpenBlob(ctx context.Context, desc ocispec.Descriptor) (_ io.ReadCloser, err error) {
	defer away(&err)
	if s.at != nil {
		path, err := s.at.blob(desc.Digest)
		if err != nil {
			return nil, err
		}
		if f, err := os.Open(path); err == nil {
			return f, nil
		}
	}
	ra, err := s.store.content().ReaderAt(s.in(ctx), desc)
	if err != nil {
		return nil, fmt.Errorf("read %s from containerd: %w", desc.Digest, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(ra, 0, ra.Size()), ra}, nil
}
