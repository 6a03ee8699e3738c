package prefetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hotplate-dev/hotplate/prefetch/fetch"
)

// part is one chunk on its way. It has its place in memory from the beginning.
type part struct {
	chunk fetch.Chunk
	buf   []byte
	done  chan struct{} // closed when buf is full or err is set
	err   error
}

// chunks fetches several chunks at once and gives them to the sink in order.
//
// It cannot run dry of memory: one goroutine per blob asks for the places of its chunks in the blob's order, and a chunk
// has its place before it is queued. So whatever chunk the sink takes next, it has its place and needs only the network
// or the disk; when the sink is done with it, its place is free for anyone. A request slot is taken after the place and
// given back without needing another place.
func (b *blob) chunks(ctx context.Context, f fetch.RangeFetcher) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	more, enough := context.WithCancelCause(ctx) // when it ends, no chunk is begun any more
	defer enough(nil)
	// As many as there are places, so that whoever limits the requests to a host sees what is wanted of it.
	queue, win := make(chan *part, b.p.budget.total/b.p.budget.chunk), newWindow()
	start := b.sink.Offset()
	var fetchers sync.WaitGroup
	var dispatchErr error // why not all chunks were queued; after queue was closed
	fetchers.Go(func() {
		defer close(queue)
		dispatchErr = b.dispatch(more, ctx, f, start, win, queue, &fetchers)
	})
	var err error
	for pt := range queue {
		<-pt.done
		release := func() {
			b.p.budget.put(pt.buf)
			win.leave()
		}
		if err == nil {
			err = pt.err
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			release()
		} else {
			err = win.handOver(func() error { return b.give(ctx, pt.buf, release) })
		}
		if err != nil {
			enough(err)
		}
		if err != nil && (b.staged == nil || !errors.Is(err, ErrAway)) {
			cancel(err) // else what is on its way is of use when the daemon is back
		}
	}
	fetchers.Wait()
	if err == nil {
		err = dispatchErr
	}
	return err
}

// dispatch queues the chunks in order and starts a goroutine for each that fills it. Its error is why it did not queue
// the rest, unless a queued chunk has that. When more ends, no chunk is begun any more; with ctx, those under way end too.
func (b *blob) dispatch(more, ctx context.Context, f fetch.RangeFetcher, start int64, win *window, queue chan<- *part,
	fetchers *sync.WaitGroup) error {
	asked := false
	for off := start; off < b.desc.Size; {
		n := min(b.chunk()-off%b.chunk(), b.desc.Size-off)
		if err := win.enter(more); err != nil {
			return err
		}
		buf, err := b.p.budget.get(more, n)
		if err != nil {
			return storeError{err}
		}
		pt := &part{chunk: fetch.Chunk{Blob: b.desc, Offset: off, Length: n}, buf: buf, done: make(chan struct{})}
		select {
		case queue <- pt:
		case <-more.Done():
			b.p.budget.put(buf)
			return context.Cause(more)
		}
		switch {
		case b.has(off):
			fetchers.Go(func() { b.recall(pt) })
		case !asked:
			// The head of the first answer shows whether the host honours ranges; until then one request is enough.
			asked = true
			body, err := f.FetchRange(ctx, pt.chunk)
			fetchers.Go(func() { b.fill(pt, body, err) })
			if err != nil {
				return err
			}
		default:
			fetchers.Go(func() {
				body, err := f.FetchRange(ctx, pt.chunk)
				b.fill(pt, body, err)
			})
		}
		off += n
	}
	return nil
}

// has tells whether the chunk at off is on the disk.
func (b *blob) has(off int64) bool { return b.staged != nil && b.staged.Has(int(off/b.chunk())) }

// recall reads a chunk that an earlier try has staged.
func (b *blob) recall(pt *part) {
	defer close(pt.done)
	if err := b.staged.ReadChunk(int(pt.chunk.Offset/b.chunk()), pt.buf); err != nil {
		pt.err = storeError{fmt.Errorf("read %s again: %w", pt.chunk, err)}
	}
}

// fill reads a chunk and stages it.
func (b *blob) fill(pt *part, body io.ReadCloser, err error) {
	defer close(pt.done)
	if pt.err = err; err != nil {
		return
	}
	_, pt.err = io.ReadFull(b.counted(body), pt.buf)
	body.Close()
	if pt.err == nil {
		pt.err = b.stage(pt.chunk.Offset, pt.buf)
	}
}

// stage keeps a chunk for the next try, if anything keeps them.
func (b *blob) stage(off int64, p []byte) error {
	if b.staged == nil {
		return nil
	}
	if err := b.staged.WriteChunk(int(off/b.chunk()), p); err != nil {
		return storeError{fmt.Errorf("stage layer %s at %d: %w", b.desc.Digest, off, err)}
	}
	return nil
}

// stream fetches in one request. It takes all the places that it will need before it asks, and keeps them.
func (b *blob) stream(ctx context.Context, f fetch.RangeFetcher) error {
	start := b.sink.Offset()
	if start == b.desc.Size {
		return nil
	}
	bufs, err := b.p.budget.several(ctx, ahead, b.chunk())
	if err != nil {
		return err
	}
	free := make(chan []byte, len(bufs))
	for _, buf := range bufs {
		free <- buf
	}
	defer func() {
		for range bufs {
			b.p.budget.put(<-free) // the sink gives back what it has, whatever happens
		}
	}()
	body, err := f.FetchRange(ctx, fetch.Chunk{Blob: b.desc, Offset: start, Length: b.desc.Size - start})
	if err != nil {
		return err
	}
	defer body.Close()
	for off := start; off < b.desc.Size; {
		buf := <-free
		n := min(b.chunk()-off%b.chunk(), b.desc.Size-off)
		if err := b.read(body, off, buf[:n]); err != nil {
			free <- buf
			return err
		}
		if err := b.give(ctx, buf[:n], func() { free <- buf }); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// read reads the next chunk of a stream, and stages it. One that is staged already, by a host that was asked before, is
// taken from there: what is hashed has to be what is on the disk.
func (b *blob) read(body io.Reader, off int64, buf []byte) error {
	if _, err := io.ReadFull(b.counted(body), buf); err != nil {
		return err
	}
	if !b.has(off) {
		return b.stage(off, buf)
	}
	if err := b.staged.ReadChunk(int(off/b.chunk()), buf); err != nil {
		return storeError{fmt.Errorf("read layer %s at %d again: %w", b.desc.Digest, off, err)}
	}
	return nil
}

// give hands the next bytes over to the sink.
func (b *blob) give(ctx context.Context, p []byte, release func()) error {
	if err := b.sink.Write(ctx, p, release); err != nil {
		return storeError{fmt.Errorf("write layer %s: %w", b.desc.Digest, err)}
	}
	return nil
}

// counted tells the progress of bytes as they come.
func (b *blob) counted(body io.Reader) io.Reader { return countedReader{body, b} }

type countedReader struct {
	io.Reader
	blob *blob
}

func (c countedReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if n > 0 {
		c.blob.came(int64(n))
	}
	return n, err
}

// came counts bytes from the network.
func (b *blob) came(n int64) {
	b.p.came(b.way.Name, n)
	b.pace.came()
	b.progress.came(b.desc.Digest, n)
}
