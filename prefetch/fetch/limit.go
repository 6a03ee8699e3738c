package fetch

import (
	"context"
	"io"
	"sync"

	"golang.org/x/sync/semaphore"
)

// limited bounds how many requests are under way at once. A request counts until its body is closed; it does not count
// while it waits to be repeated.
type limited struct {
	next  RangeFetcher
	slots *semaphore.Weighted
}

func (l *limited) FetchRange(ctx context.Context, c Chunk) (io.ReadCloser, error) {
	if err := l.slots.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	body, err := l.next.FetchRange(ctx, c)
	if err != nil {
		l.slots.Release(1)
		return nil, err
	}
	return &slotBody{ReadCloser: body, release: sync.OnceFunc(func() { l.slots.Release(1) })}, nil
}

type slotBody struct {
	io.ReadCloser
	release func()
}

func (b *slotBody) Close() error {
	defer b.release()
	return b.ReadCloser.Close()
}
