package prefetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch/fetch"
	"github.com/hotplate-dev/hotplate/prefetch/staging"
)

// storeError is an error of the store, which another registry host would not mend.
type storeError struct{ error }

func (e storeError) Unwrap() error { return e.error }

// smallBlob is up to where a blob is not worth a range: a request that is not one for a range is not begun anew when its
// connection is a slow one.
const smallBlob = 256 << 10

// blob brings one layer's blob to where its bytes go.
type blob struct {
	*run
	desc ocispec.Descriptor
	// open begins anew. It returns ErrPresent if the blob is complete.
	open func(ctx context.Context) (sink, error)
	// staged keeps chunks on the disk until the blob is complete; nil if nothing does.
	staged *staging.Blob
	sink   sink
	errs   []error // of the hosts that have failed
	// mixed is set when the bytes came from more than one host, or from an earlier run's, whom nobody remembers.
	mixed bool
}

// bring asks one host after the other. A host that breaks off is followed by the next from the byte that was reached. When
// the digest is wrong in the end, everything is forgotten and asked for anew: from the same host, if there were bytes of
// others among them, else from the next one. A daemon that goes away costs what its writer held.
func (b *blob) bring(ctx context.Context) error {
	if err := b.begin(ctx); err != nil {
		return err
	}
	defer func() {
		if b.sink != nil {
			b.sink.Close()
		}
	}()
	b.mixed = b.here() > 0
	for sources, i := b.repo.Sources(), 0; i < len(sources); {
		next, err := b.ask(ctx, sources, i)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if away := errors.Is(err, ErrAway); away || errors.Is(err, ErrDigest) {
			if err := b.again(ctx, away); err != nil {
				return err
			}
		} else if se := (storeError{}); errors.As(err, &se) {
			return err
		}
		i = next
	}
	return errors.Join(b.errs...)
}

// ask brings the rest from sources[i] and returns which one to ask next, if it could not.
func (b *blob) ask(ctx context.Context, sources []*fetch.Source, i int) (next int, err error) {
	src, from := sources[i], b.here()
	b.progress.layer(b.desc.Digest, func(l *Layer) { l.Phase, l.Host, l.Done = Fetching, src.Name(), from })
	err = b.pour(ctx, src, fetch.Patient(sources, i))
	if err == nil {
		b.progress.layer(b.desc.Digest, func(l *Layer) { l.Phase = Unpacking })
		if err = b.sink.Commit(ctx); err == nil {
			return i, nil
		}
		if !errors.Is(err, ErrDigest) {
			err = storeError{err}
		}
	}
	se := storeError{}
	if ctx.Err() != nil || errors.As(err, &se) {
		return i, err
	}
	b.errs = append(b.errs, src.Failed(fmt.Sprintf("fetch layer %s of %s", b.desc.Digest, b.ref), err))
	if !errors.Is(err, ErrDigest) {
		b.mixed = b.mixed || b.here() > from
		return i + 1, err
	}
	if !b.mixed {
		i++
	}
	return i, err
}

// here is how many of the blob's bytes need not be fetched any more.
func (b *blob) here() int64 {
	if b.staged != nil {
		return max(b.sink.Offset(), b.desc.Size-b.staged.Missing())
	}
	return b.sink.Offset()
}

// again begins anew with another sink. What is staged stays only if away, that is, if nothing is wrong with it.
func (b *blob) again(ctx context.Context, away bool) error {
	b.sink.Close()
	b.sink = nil
	if !away {
		b.mixed = false
		if b.staged != nil {
			if err := b.staged.Reset(); err != nil {
				return storeError{err}
			}
		}
	}
	return b.begin(ctx)
}

// begin opens a sink.
func (b *blob) begin(ctx context.Context) (err error) {
	b.sink, err = steadily(ctx, b.run, func() (sink, error) { return b.open(ctx) })
	return err
}

// pour brings everything from the sink's offset on from one host.
func (b *blob) pour(ctx context.Context, src *fetch.Source, patient bool) error {
	onRetry := func(err error, wait time.Duration) {
		if status := (*fetch.StatusError)(nil); errors.As(err, &status) &&
			(status.Code == http.StatusTooManyRequests || status.Code == http.StatusServiceUnavailable) {
			b.pace.heldBack(wait)
		}
		b.progress.layer(b.desc.Digest, func(l *Layer) {
			l.WaitingFor = fmt.Sprintf("next try in %s after: %v", wait.Round(time.Millisecond), err)
		})
	}
	if b.desc.Size <= min(b.chunk(), smallBlob) {
		return b.chunks(ctx, src.Whole(patient, onRetry))
	}
	if src.Ranges() || b.here() == b.desc.Size {
		err := b.chunks(ctx, src.Ranged(patient, onRetry))
		if !errors.Is(err, fetch.ErrRangeIgnored) {
			return err
		}
		err = src.Failed("ask for a range", err) // from now on src.Ranges is false, for the other layers too
		b.p.cfg.Log.Info("registry host does not honour ranges, fetching in one stream",
			"host", src.Name(), "digest", b.desc.Digest, "cause", err)
	}
	return b.stream(ctx, src.Whole(patient, onRetry))
}

// chunk is the size of the blob's chunks.
func (b *blob) chunk() int64 {
	if b.staged != nil {
		return b.staged.ChunkSize()
	}
	return b.p.budget.chunk
}
