package tee

import "io"

// Reader reads what is written to its Tee. Read and WriteTo are called by one goroutine at a time; CloseWithError may be
// called by any.
type Reader struct {
	t   *Tee
	off int // in the block next; only the reading goroutine uses it

	// Guarded by t.mu.
	next int   // number of the block that it reads, or waits for
	busy bool  // it is reading the block next, which must stay
	err  error // it has given up
}

var (
	_ io.Reader   = (*Reader)(nil)
	_ io.WriterTo = (*Reader)(nil)
)

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	data, err := r.begin()
	if err != nil {
		return 0, err
	}
	n := copy(p, data)
	r.end(n, len(data))
	return n, nil
}

// WriteTo implements io.WriterTo: w gets each block as it is, without a copy, and must not keep it. If w fails, the rest
// of the block is still to be read.
func (r *Reader) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		data, err := r.begin()
		if err == io.EOF { //nolint:errorlint // one that is wrapped is what Close was called with
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := w.Write(data)
		if err == nil && n < len(data) {
			err = io.ErrShortWrite
		}
		r.end(n, len(data))
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// begin waits for a block and returns what is unread of it, which stays valid until end.
func (r *Reader) begin() ([]byte, error) {
	t := r.t
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		switch {
		case r.err != nil:
			return nil, r.err
		case t.err != nil:
			return nil, t.err
		case r.next < t.first+len(t.blocks):
			r.busy = true
			return t.blocks[r.next-t.first].data[r.off:], nil
		case t.closed:
			return nil, io.EOF
		}
		t.changed.Wait()
	}
}

// end says that n of the unread bytes have been read.
func (r *Reader) end(n, unread int) {
	t := r.t
	t.mu.Lock()
	r.busy = false
	r.off += n
	if n == unread {
		r.next, r.off = r.next+1, 0
		t.changed.Broadcast()
	}
	done := t.trim()
	t.mu.Unlock()
	free(done)
}

// CloseWithError gives up: the writer's next Write, or the one that waits, returns err, and so does a Read or WriteTo
// from now on. nil stands for io.ErrClosedPipe. Only the first call counts; after the writer has closed the Tee it
// changes nothing for the writer. The result is always nil, as that of io.PipeReader.
func (r *Reader) CloseWithError(err error) error {
	if err == nil {
		err = io.ErrClosedPipe
	}
	t := r.t
	t.mu.Lock()
	if r.err == nil {
		r.err = err
		t.changed.Broadcast()
	}
	done := t.trim()
	t.mu.Unlock()
	free(done)
	return nil
}
