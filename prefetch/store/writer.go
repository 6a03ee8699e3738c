package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// maxMessage is how much is sent to containerd at once. Messages may have 16 MiB; smaller ones make less garbage.
const maxMessage = 1 << 20

// blobWriter writes one blob through containerd's content API, which hashes as it writes.
type blobWriter struct {
	store  *Store
	w      content.Writer
	desc   ocispec.Descriptor
	ref    string
	offset int64
	cancel context.CancelFunc // ends the stream
}

var _ prefetch.BlobWriter = (*blobWriter)(nil)

func (b *blobWriter) Offset() int64 { return b.offset }

func (b *blobWriter) Write(p []byte) (done int, err error) {
	defer away(&err)
	for piece := range slices.Chunk(p, maxMessage) {
		n, err := b.w.Write(piece)
		b.offset += int64(n)
		done += n
		if err != nil {
			return done, fmt.Errorf("write ingest %s at %d: %w", b.ref, b.offset, err)
		}
	}
	return done, nil
}

// Reset makes the next Write start at 0: containerd truncates when it is sent that offset.
func (b *blobWriter) Reset() (err error) {
	defer away(&err)
	if err := b.w.Truncate(0); err != nil {
		return fmt.Errorf("truncate ingest %s: %w", b.ref, err)
	}
	b.offset = 0
	return nil
}

func (b *blobWriter) Commit(ctx context.Context) (err error) {
	defer away(&err)
	err = b.w.Commit(ctx, b.desc.Size, b.desc.Digest)
	switch {
	case err == nil, errdefs.IsAlreadyExists(err):
		return nil
	case errdefs.IsFailedPrecondition(err):
		// containerd keeps the ingest, and a later pull of anyone would continue it.
		if aerr := b.store.abort(ctx, b.ref); aerr != nil {
			b.store.cfg.Log.Warn("ingest with wrong content was not removed", "ref", b.ref, "error", aerr)
		}
		return fmt.Errorf("%w: %w", prefetch.ErrDigest, err)
	}
	return fmt.Errorf("commit ingest %s: %w", b.ref, err)
}

func (b *blobWriter) Close() error {
	defer b.cancel()
	return b.w.Close()
}

// abort removes an ingest. Right after a stream was closed, containerd may still be writing a time stamp into the
// ingest's directory and then fails to remove it, so it is asked again.
func (s *Store) abort(ctx context.Context, ref string) error {
	for wait := firstWait; ; wait *= 2 {
		err := s.content().Abort(s.in(ctx), ref)
		switch {
		case err == nil, errdefs.IsNotFound(err):
			return nil
		case wait > longestWait:
			return fmt.Errorf("abort ingest %s: %w", ref, err)
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// sleep waits, or returns why the context ended.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
