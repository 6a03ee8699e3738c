package prefetch

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// smallest is the least chunk size; below it requests cost more than they bring.
const smallest = 4 << 10

// budget is the memory that all images share. What holds a buffer gets its bytes from the network without needing
// another buffer, so a buffer always comes back.
type budget struct {
	chunk int64 // the size of pooled buffers
	bytes *semaphore.Weighted
	pool  sync.Pool // of *[]byte with cap chunk
}

func newBudget(memory, chunk int64) *budget {
	b := &budget{chunk: chunk, bytes: semaphore.NewWeighted(memory)}
	b.pool.New = func() any {
		buf := make([]byte, chunk)
		return &buf
	}
	return b
}

// chunkFor is the chunk size for a memory: so small that what is under way and as much again, waiting for its turn to be
// written, fits.
func chunkFor(chunk, memory int64, parallel int) int64 {
	return min(max(min(chunk, memory/int64(2*parallel)), smallest), memory)
}

// get waits for n bytes, at most chunk, and returns a buffer of that length.
func (b *budget) get(ctx context.Context, n int64) ([]byte, error) {
	size := b.chunk
	if n <= b.chunk/4 { // a full buffer would waste most of its place
		size = n
	}
	if err := b.bytes.Acquire(ctx, size); err != nil {
		return nil, context.Cause(ctx)
	}
	if size == n && n != b.chunk {
		return make([]byte, n), nil
	}
	return (*b.pool.Get().(*[]byte))[:n], nil
}

// put gives a buffer back. It must not be used any more.
func (b *budget) put(buf []byte) {
	size := int64(cap(buf))
	if size == b.chunk {
		buf = buf[:size]
		b.pool.Put(&buf)
	}
	b.bytes.Release(size)
}
