package prefetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch/fetch"
)

// storeError is an error of the store, which another registry host would not mend.
type storeError struct{ error }

func (e storeError) Unwrap() error { return e.error }

// layer makes one layer complete in the store.
func (r *run) layer(ctx context.Context, desc ocispec.Descriptor) error {
	err := r.blob(ctx, desc)
	if err == nil {
		err = r.session.Link(ctx, r.ref, desc, nil)
	}
	r.progress.layer(desc.Digest, func(l *Layer) {
		l.WaitingFor = ""
		switch {
		case err == nil:
			l.Done = l.Size
		case context.Cause(ctx) == nil:
			l.Phase = Failed
		}
	})
	return err
}

// blob asks one host after the other. A host that breaks off is followed by the next from the byte that was reached. When
// the digest is wrong in the end, everything is forgotten and asked for anew: from the same host, if there were bytes of
// others among them, else from the next one.
func (r *run) blob(ctx context.Context, desc ocispec.Descriptor) error {
	w, err := r.open(ctx, desc)
	if errors.Is(err, ErrPresent) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() {
		if w != nil {
			w.Close()
		}
	}()
	doing := fmt.Sprintf("fetch layer %s of %s", desc.Digest, r.ref)
	var errs []error
	mixed := w.Offset() > 0 // an earlier run's bytes, of a host that nobody remembers
	for sources, i := r.repo.Sources(), 0; i < len(sources); {
		src, patient := sources[i], fetch.Patient(sources, i)
		r.progress.layer(desc.Digest, func(l *Layer) { l.Phase, l.Host, l.Done = Fetching, src.Name(), w.Offset() })
		from := w.Offset()
		err := r.pour(ctx, src, patient, desc, w)
		if err == nil {
			if err = w.Commit(ctx); err == nil {
				return nil
			}
			if !errors.Is(err, ErrDigest) {
				return storeError{err}
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if se := (storeError{}); errors.As(err, &se) {
			return err
		}
		errs = append(errs, src.Failed(doing, err))
		if !errors.Is(err, ErrDigest) {
			mixed = mixed || w.Offset() > from
			i++
			continue
		}
		w.Close()
		if w, err = r.open(ctx, desc); err != nil {
			if errors.Is(err, ErrPresent) {
				return nil
			}
			return err
		}
		if !mixed {
			i++
		}
		mixed = false
	}
	return errors.Join(errs...)
}

// open opens the blob for writing.
func (r *run) open(ctx context.Context, desc ocispec.Descriptor) (BlobWriter, error) {
	w, err := r.session.Blob(ctx, desc, func() {
		r.progress.layer(desc.Digest, func(l *Layer) { l.WaitingFor = "another pull that fetches the same layer" })
	})
	switch {
	case errors.Is(err, ErrPresent):
		return nil, err
	case err != nil:
		return nil, storeError{err}
	case w.Offset() <= desc.Size:
		return w, nil
	}
	if err := w.Reset(); err != nil {
		w.Close()
		return nil, storeError{err}
	}
	return w, nil
}

// pour brings everything from w.Offset() on from one host.
func (r *run) pour(ctx context.Context, src *fetch.Source, patient bool, desc ocispec.Descriptor, w BlobWriter) error {
	onRetry := func(err error, wait time.Duration) {
		r.progress.layer(desc.Digest, func(l *Layer) {
			l.WaitingFor = fmt.Sprintf("next try in %s after: %v", wait.Round(time.Millisecond), err)
		})
	}
	if desc.Size <= r.p.budget.chunk {
		return r.chunks(ctx, src.Whole(patient, onRetry), desc, w)
	}
	if src.Ranges() {
		err := r.chunks(ctx, src.Ranged(patient, onRetry), desc, w)
		if !errors.Is(err, fetch.ErrRangeIgnored) {
			return err
		}
		err = src.Failed("ask for a range", err) // from now on src.Ranges is false, for the other layers too
		r.p.cfg.Log.Info("registry host does not honour ranges, fetching in one stream",
			"host", src.Name(), "digest", desc.Digest, "cause", err)
	}
	return r.stream(ctx, src.Whole(patient, onRetry), desc, w)
}

// part is one chunk on its way. It has its place in memory from the beginning.
type part struct {
	chunk fetch.Chunk
	buf   []byte
	done  chan struct{} // closed when buf is full or err is set
	err   error
}

func (p *part) fill(body io.ReadCloser, err error) {
	defer close(p.done)
	if err != nil {
		p.err = err
		return
	}
	defer body.Close()
	_, p.err = io.ReadFull(body, p.buf)
}

// chunks fetches several chunks at once and writes them in order.
//
// It cannot run dry of memory: one goroutine per blob asks for the places of its chunks in the blob's order, and a chunk
// has its place before it is queued to be written. So whatever chunk is next to be written, it has its place and needs
// only the network; when it is written, its place is free for anyone. A request slot is taken after the place and
// given back without needing another place.
func (r *run) chunks(ctx context.Context, f fetch.RangeFetcher, desc ocispec.Descriptor, w BlobWriter) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan *part, r.p.cfg.MaxParallel)
	start := w.Offset()
	var fetchers sync.WaitGroup
	fetchers.Go(func() {
		defer close(queue)
		r.dispatch(ctx, f, desc, start, queue, &fetchers)
	})
	var err error
	for pt := range queue {
		<-pt.done
		if err == nil {
			err = pt.err
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err == nil {
			r.fetched(int64(len(pt.buf)))
			err = r.write(desc, w, pt.buf)
		}
		if err != nil {
			cancel(err)
		}
		r.p.budget.put(pt.buf)
	}
	fetchers.Wait()
	if err == nil && w.Offset() < desc.Size {
		err = context.Cause(ctx) // no place in memory came in time
	}
	return err
}

// dispatch queues the chunks in order and starts a fetcher for each.
func (r *run) dispatch(ctx context.Context, f fetch.RangeFetcher, desc ocispec.Descriptor, start int64,
	queue chan<- *part, fetchers *sync.WaitGroup) {
	for off := start; off < desc.Size; {
		n := min(r.p.budget.chunk, desc.Size-off)
		buf, err := r.p.budget.get(ctx, n)
		if err != nil {
			return
		}
		pt := &part{chunk: fetch.Chunk{Blob: desc, Offset: off, Length: n}, buf: buf, done: make(chan struct{})}
		select {
		case queue <- pt:
		case <-ctx.Done():
			r.p.budget.put(buf)
			return
		}
		if off == start {
			// The head of the first answer shows whether the host honours ranges; until then one request is enough.
			body, err := f.FetchRange(ctx, pt.chunk)
			if err != nil {
				pt.fill(nil, err)
				return
			}
			fetchers.Go(func() { pt.fill(body, nil) })
		} else {
			fetchers.Go(func() { pt.fill(f.FetchRange(ctx, pt.chunk)) })
		}
		off += n
	}
}

// stream fetches in one request. It holds one place in memory, taken before the request, to the end.
func (r *run) stream(ctx context.Context, f fetch.RangeFetcher, desc ocispec.Descriptor, w BlobWriter) error {
	buf, err := r.p.budget.get(ctx, r.p.budget.chunk)
	if err != nil {
		return err
	}
	defer r.p.budget.put(buf)
	if w.Offset() == desc.Size {
		return nil
	}
	body, err := f.FetchRange(ctx, fetch.Chunk{Blob: desc, Offset: w.Offset(), Length: desc.Size - w.Offset()})
	if err != nil {
		return err
	}
	defer body.Close()
	for w.Offset() < desc.Size {
		n := min(int64(len(buf)), desc.Size-w.Offset())
		if _, err := io.ReadFull(body, buf[:n]); err != nil {
			return err
		}
		r.fetched(n)
		if err := r.write(desc, w, buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) write(desc ocispec.Descriptor, w BlobWriter, p []byte) error {
	if _, err := w.Write(p); err != nil {
		return storeError{fmt.Errorf("write layer %s: %w", desc.Digest, err)}
	}
	r.progress.layer(desc.Digest, func(l *Layer) { l.Done, l.WaitingFor = w.Offset(), "" })
	return nil
}
