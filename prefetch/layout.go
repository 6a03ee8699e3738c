package prefetch

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/hotplate-dev/hotplate/prefetch/internal/tee"
	"github.com/hotplate-dev/hotplate/prefetch/layer"
	"github.com/hotplate-dev/hotplate/prefetch/staging"
)

// depth is how many chunks the faster of a layer's two readers may be ahead of the slower one.
const depth = 2

// errGivenUp ends the work on a layer that nobody wants to its end.
var errGivenUp = errors.New("given up")

// layout is the sink of the direct way: the bytes of a blob are hashed and, beside that, laid out as a directory tree.
// Nothing is copied on the way to the two readers.
type layout struct {
	d      *direct
	desc   digest.Digest
	tee    *tee.Tee
	offset int64
	staged *staging.Blob // nil if chunks are kept nowhere

	readers  sync.WaitGroup
	hash     hasher // after readers
	hashErr  error
	tree     *layer.Tree // after readers; nil if applyErr is not
	applyErr error
	verified bool // Commit was successful: the tree is the caller's
}

var _ sink = (*layout)(nil)

// newLayout begins to lay out l in a new directory. The bytes that are staged and hashed already are not hashed again.
func (d *direct) newLayout(ctx context.Context, l *stacked, staged *staging.Blob) *layout {
	lo := &layout{d: d, desc: l.desc.Digest, tee: tee.New(2, depth), staged: staged}
	lo.hash = hasher{h: l.desc.Digest.Algorithm().Hash(), staged: staged}
	if staged != nil {
		lo.hash.h, lo.hash.skip = staged.Hashed()
	}
	hashed, applied := lo.tee.Reader(0), lo.tee.Reader(1)
	lo.readers.Go(func() {
		_, lo.hashErr = hashed.WriteTo(&lo.hash)
		_ = hashed.CloseWithError(lo.hashErr) // always nil
	})
	lo.readers.Go(func() {
		diffID := l.diffID
		if diffID == l.desc.Digest {
			diffID = "" // the blob is the tar: one hash is enough
		}
		lo.tree, lo.applyErr = d.apply(ctx, l, applied, diffID)
		if blames(lo.applyErr) {
			// It may be the bytes that are wrong rather than the image: the hash at the end tells.
			_, _ = io.Copy(io.Discard, applied)
		}
		_ = applied.CloseWithError(lo.applyErr) // always nil
	})
	return lo
}

// Broken tells whether an error of Ensure says that the image itself is broken: fetching it again does not help.
func Broken(err error) bool { return blames(err) }

// blames tells whether err is about the content of a blob, and not about this node.
func blames(err error) bool {
	format := (*layer.FormatError)(nil)
	return errors.Is(err, layer.ErrDiffID) || errors.As(err, &format)
}

func (lo *layout) Offset() int64 { return lo.offset }

func (lo *layout) Write(ctx context.Context, p []byte, release func()) error {
	if err := lo.tee.Write(ctx, p, release); err != nil {
		return err
	}
	lo.offset += int64(len(p))
	return nil
}

// Commit also makes what is staged durable, while the last bytes are being laid out.
func (lo *layout) Commit(context.Context) error {
	lo.tee.Close(nil)
	synced := make(chan error, 1)
	go func() {
		if lo.staged == nil {
			synced <- nil
			return
		}
		synced <- lo.staged.Sync()
	}()
	lo.readers.Wait()
	syncErr := <-synced
	if lo.hashErr != nil {
		return fmt.Errorf("hash %s: %w", lo.desc, lo.hashErr)
	}
	if err := lo.hash.check(lo.desc); err != nil {
		return err
	}
	if lo.hash.skip > 0 && blames(lo.applyErr) {
		// An earlier run hashed the first bytes. Either the disk has lost them since, or the image is broken: without them it
		// shows, so that it is not to blame yet.
		return fmt.Errorf("%w: what was staged of %s does not unpack: %s", ErrDigest, lo.desc, lo.applyErr.Error())
	}
	if err := errors.Join(lo.applyErr, syncErr); err != nil {
		return err
	}
	lo.verified = true
	return nil
}

// Close also removes the tree, unless it was verified.
func (lo *layout) Close() {
	lo.tee.Close(errGivenUp)
	lo.readers.Wait()
	if lo.tree != nil && !lo.verified {
		lo.d.discard(lo.tree)
	}
}

// hasher hashes a blob. The first skip bytes are in h already.
type hasher struct {
	h          hash.Hash
	seen, skip int64
	staged     *staging.Blob
}

func (h *hasher) Write(p []byte) (int, error) {
	n := int64(len(p))
	if h.seen+n > h.skip {
		h.h.Write(p[max(h.skip-h.seen, 0):]) // never fails: hash.Hash
	}
	if h.seen += n; h.staged == nil || h.seen <= h.skip {
		return len(p), nil
	}
	if err := h.staged.Progress(h.h, h.seen); err != nil {
		return len(p), fmt.Errorf("save the state of the hash: %w", err)
	}
	return len(p), nil
}

// check compares the digest of what was hashed.
func (h *hasher) check(want digest.Digest) error {
	if got := digest.NewDigest(want.Algorithm(), h.h); got != want {
		return fmt.Errorf("%w: the bytes of %s have digest %s", ErrDigest, want, got)
	}
	return nil
}

// timedReader measures how long its reader waited for bytes, and tells how many came.
type timedReader struct {
	r      io.Reader
	waited time.Duration
	told   func(n int64)
}

// CloseWithError is called when laying out ends early. When the content is to blame, the rest is still wanted.
func (t *timedReader) CloseWithError(err error) error {
	if c, ok := t.r.(interface{ CloseWithError(error) error }); ok && !blames(err) {
		return c.CloseWithError(err)
	}
	return nil
}

func (t *timedReader) Read(p []byte) (int, error) {
	start := time.Now()
	n, err := t.r.Read(p)
	t.waited += time.Since(start)
	if n > 0 {
		t.told(int64(n))
	}
	return n, err
}
