package prefetch

import (
	"context"
)

// sink takes the bytes of one blob in order. It is used by one goroutine.
type sink interface {
	// Offset is how many bytes it has taken.
	Offset() int64
	// Write takes the next bytes. It may return before it has used them; release is called, once, when p may be changed
	// again, also after an error.
	Write(ctx context.Context, p []byte, release func()) error
	// Commit waits until all bytes are used and verified. An error that is ErrDigest says that they were not the blob's;
	// the sink is closed then.
	Commit(ctx context.Context) error
	// Close ends the work and waits for its end. It may be called after Commit.
	Close()
}

// writerSink passes bytes on to a store that takes them through a BlobWriter.
type writerSink struct{ w BlobWriter }

var _ sink = writerSink{}

func (s writerSink) Offset() int64 { return s.w.Offset() }

func (s writerSink) Write(_ context.Context, p []byte, release func()) error {
	defer release()
	_, err := s.w.Write(p)
	return err
}

func (s writerSink) Commit(ctx context.Context) error { return s.w.Commit(ctx) }

func (s writerSink) Close() { s.w.Close() }
