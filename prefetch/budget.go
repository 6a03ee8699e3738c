package prefetch

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

// smallest is the least chunk size; below it requests cost more than they bring.
const smallest = 4 << 10

// budget is the memory that the chunks of all images share. What holds a buffer gets its bytes from the network or the
// disk without needing another buffer, so a buffer always comes back.
//
// Buffers of a whole chunk are mapped and not made: in Go's heap as much again would be garbage at times, and the process
// would take twice what it was allowed. They go back to the system when nobody has one.
type budget struct {
	chunk   int64 // the size of whole buffers
	total   int64
	bytes   *semaphore.Weighted
	waiting atomic.Int64 // callers of get
	used    atomic.Int64

	mu   sync.Mutex
	out  int      // whole buffers in use; guarded by mu, as is
	free [][]byte // mapped buffers that nobody uses
}

func newBudget(memory, chunk int64) *budget {
	return &budget{chunk: chunk, total: memory, bytes: semaphore.NewWeighted(memory)}
}

// chunkFor is the chunk size for a memory: so small that what is under way and half as much again, waiting for its turn,
// fits. Large ones end where pages do, so that no two are written into the same page.
func chunkFor(chunk, memory int64, parallel int) int64 {
	n := min(max(min(chunk, memory*2/int64(3*parallel)), smallest), memory)
	const even = 64 << 10
	if n > even {
		n -= n % even
	}
	return n
}

// get waits for n bytes, and returns a buffer of that length. n is at most chunk, but for blobs that were begun with
// larger chunks: when the limits were other ones.
func (b *budget) get(ctx context.Context, n int64) ([]byte, error) {
	size := b.chunk
	if n <= b.chunk/4 || n > b.chunk { // a full buffer would waste most of its place, or is too small
		size = n
	}
	if err := b.acquire(ctx, size); err != nil {
		return nil, err
	}
	if size == n && n != b.chunk {
		return make([]byte, n), nil
	}
	buf, err := b.take()
	if err != nil {
		b.release(size)
		return nil, err
	}
	return buf[:n], nil
}

// several waits for as many buffers of at least size as there may be, up to n, and at least for one.
func (b *budget) several(ctx context.Context, n int, size int64) ([][]byte, error) {
	if size > b.chunk {
		buf, err := b.get(ctx, size)
		return [][]byte{buf}, err
	}
	n = max(1, min(n, int(b.total/b.chunk)))
	if err := b.acquire(ctx, int64(n)*b.chunk); err != nil {
		return nil, err
	}
	bufs := make([][]byte, 0, n)
	for range n {
		buf, err := b.take()
		if err != nil {
			for _, had := range bufs {
				b.put(had)
			}
			b.release(int64(n-len(bufs)) * b.chunk)
			return nil, err
		}
		bufs = append(bufs, buf)
	}
	return bufs, nil
}

// put gives a buffer back. It must not be used any more.
func (b *budget) put(buf []byte) {
	size := int64(cap(buf))
	if size == b.chunk {
		b.leave(buf[:size])
	}
	b.release(size)
}

// acquire waits for n bytes, or for all that there are.
func (b *budget) acquire(ctx context.Context, n int64) error {
	b.waiting.Add(1)
	defer b.waiting.Add(-1)
	n = min(n, b.total)
	if err := b.bytes.Acquire(ctx, n); err != nil {
		return context.Cause(ctx)
	}
	b.used.Add(n)
	return nil
}

func (b *budget) release(n int64) {
	n = min(n, b.total)
	b.used.Add(-n)
	b.bytes.Release(n)
}

// take returns a whole buffer; its place has been acquired.
func (b *budget) take() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.free); n > 0 {
		buf := b.free[n-1]
		b.free = b.free[:n-1]
		b.out++
		return buf, nil
	}
	buf, err := unix.Mmap(-1, 0, int(b.chunk), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("get %d bytes of memory: %w", b.chunk, err)
	}
	b.out++
	return buf, nil
}

// leave keeps a whole buffer for the next one who needs it, or gives all of them back when nobody has one.
func (b *budget) leave(buf []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free = append(b.free, buf)
	if b.out--; b.out > 0 {
		return
	}
	for _, f := range b.free {
		_ = unix.Munmap(f) // of what was mapped in take; it can only fail if that is not so
	}
	b.free = nil
}
