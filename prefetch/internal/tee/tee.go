package tee

import (
	"context"
	"io"
	"sync"
)

// Tee takes blocks from one writer. Write is called by one goroutine at a time; Close may be called by any.
type Tee struct {
	depth   int
	readers []*Reader

	mu sync.Mutex
	// changed tells of every change of what follows; mu guards it, and the fields of the readers that say so.
	changed *sync.Cond
	// blocks are those that some reader still needs, the oldest first. blocks[0] has the number first.
	blocks []block
	first  int
	closed bool
	err    error // what Close was called with
}

type block struct {
	data    []byte
	release func()
}

// New returns a Tee with as many readers, of which the slowest may be depth blocks (at least 1) behind the writer. Each
// of them has to be read to its end or closed.
func New(readers, depth int) *Tee {
	t := &Tee{depth: max(depth, 1)}
	t.changed = sync.NewCond(&t.mu)
	for range readers {
		t.readers = append(t.readers, &Reader{t: t})
	}
	return t
}

// Reader returns the reader with this index.
func (t *Tee) Reader(i int) *Reader { return t.readers[i] }

// Write hands p to the readers. It blocks while one of them is depth blocks behind. p must not be changed until release
// is called, which happens exactly once, whatever Write returns; release may be nil, must not block, and may be called by
// any goroutine. The error is what a reader has given up with, what the Tee was closed with (io.ErrClosedPipe for nil),
// or the cause of ctx's end; after any of them p has not been handed to anyone.
func (t *Tee) Write(ctx context.Context, p []byte, release func()) error {
	b := block{data: p, release: release}
	stop := context.AfterFunc(ctx, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.changed.Broadcast()
	})
	defer stop()
	t.mu.Lock()
	for t.refusal(ctx) == nil && t.full() {
		t.changed.Wait()
	}
	if err := t.refusal(ctx); err != nil || len(p) == 0 {
		t.mu.Unlock()
		free([]block{b})
		return err
	}
	t.blocks = append(t.blocks, b)
	t.changed.Broadcast()
	done := t.trim()
	t.mu.Unlock()
	free(done)
	return nil
}

// refusal says why no block is taken, if so. mu is held.
func (t *Tee) refusal(ctx context.Context) error {
	for _, r := range t.readers {
		if r.err != nil {
			return r.err
		}
	}
	switch {
	case t.closed && t.err == nil:
		return io.ErrClosedPipe
	case t.closed:
		return t.err
	default:
		return context.Cause(ctx)
	}
}

// full tells whether a reader is depth blocks behind. mu is held.
func (t *Tee) full() bool {
	for _, r := range t.readers {
		if t.first+len(t.blocks)-r.next >= t.depth {
			return true
		}
	}
	return false
}

// Close ends the stream: for nil, the readers read what is queued and then io.EOF; else they get err at once. Only the
// first call counts. It does not wait for the readers.
func (t *Tee) Close(err error) {
	t.mu.Lock()
	if !t.closed {
		t.closed, t.err = true, err
		t.changed.Broadcast()
	}
	done := t.trim()
	t.mu.Unlock()
	free(done)
}

// trim takes away the blocks that nobody needs any more. mu is held; the caller frees them without it, so that a release
// function may call whatever it likes.
func (t *Tee) trim() []block {
	needed := t.first + len(t.blocks)
	for _, r := range t.readers {
		if r.busy || (r.err == nil && t.err == nil) {
			needed = min(needed, r.next)
		}
	}
	n := needed - t.first
	if n == 0 {
		return nil
	}
	done := append([]block(nil), t.blocks[:n]...)
	rest := copy(t.blocks, t.blocks[n:])
	clear(t.blocks[rest:])
	t.blocks, t.first = t.blocks[:rest], needed
	return done
}

func free(blocks []block) {
	for _, b := range blocks {
		if b.release != nil {
			b.release()
		}
	}
}
