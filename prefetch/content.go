package prefetch

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/hotplate-dev/hotplate/prefetch/staging"
)

// contents makes all layers complete in the store, several at once. The first failure ends the others; what they have
// stays.
func (r *run) contents(ctx context.Context, pl plan) error {
	first, err := r.unpackedUpTo(ctx, pl.stack)
	if err != nil {
		return err
	}
	lacking, err := r.lacking(ctx, pl.layers)
	if err != nil {
		return err
	}
	if err := r.claim(ctx, lacking, pl.stack[first:]); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.p.cfg.MaxParallel)
	for _, l := range pl.layers {
		g.Go(func() error { return r.content(ctx, l) })
	}
	return g.Wait()
}

// lacking are those of the blobs that are not complete in the store, each once.
func (r *run) lacking(ctx context.Context, blobs []ocispec.Descriptor) (lacking []ocispec.Descriptor, err error) {
	seen := make(map[digest.Digest]bool)
	for _, b := range blobs {
		if seen[b.Digest] {
			continue
		}
		seen[b.Digest] = true
		has, err := steadily(ctx, r, func() (bool, error) { return r.session.Has(ctx, b) })
		if err != nil {
			return nil, err
		}
		if has {
			r.progress.layer(b.Digest, func(l *Layer) { l.Phase, l.Done = Fetching, l.Size })
		} else {
			lacking = append(lacking, b)
		}
	}
	return lacking, nil
}

// unpackedUpTo is the index of the first layer whose snapshot is not there. Those below are not looked at again, and their
// blobs are not missed, as with containerd's own pull (core/unpack/unpacker.go, 2.4.2).
func (r *run) unpackedUpTo(ctx context.Context, stack []stacked) (int, error) {
	for i := len(stack); i > 0; i-- {
		if has, err := r.hasSnapshot(ctx, &stack[i-1]); err != nil || has {
			return i, err
		}
	}
	return 0, nil
}

func (r *run) hasSnapshot(ctx context.Context, l *stacked) (bool, error) {
	return steadily(ctx, r, func() (bool, error) { return r.session.HasSnapshot(ctx, l.chain) })
}

// content makes one blob complete in the store through its writer.
func (r *run) content(ctx context.Context, desc ocispec.Descriptor) (err error) {
	defer func() {
		r.progress.layer(desc.Digest, func(l *Layer) {
			l.WaitingFor = ""
			switch {
			case err == nil:
				l.Done = l.Size
			case context.Cause(ctx) == nil:
				l.Phase = Failed
			}
		})
	}()
	staged, err := r.stagedBlob(ctx, desc)
	if err != nil {
		return err
	}
	b := &blob{run: r, desc: desc, staged: staged, open: func(ctx context.Context) (sink, error) {
		return r.openWriter(ctx, desc, staged != nil)
	}}
	if staged != nil {
		defer staged.Close()
	}
	if err := b.bring(ctx); err != nil && !errors.Is(err, ErrPresent) {
		return err
	}
	err = r.steady(ctx, func() error { return r.session.Link(ctx, r.ref, desc, nil) })
	if err == nil && staged != nil {
		err = staged.Remove()
	}
	return err
}

// stagedBlob is where chunks are kept until the blob is complete; nil if nothing keeps them.
func (r *run) stagedBlob(ctx context.Context, desc ocispec.Descriptor) (*staging.Blob, error) {
	path := r.stagingPath()
	if path == "" {
		return nil, nil
	}
	dir, err := r.p.stagingDir(path)
	if err != nil {
		return nil, err
	}
	return dir.Blob(ctx, desc, r.p.budget.chunk, func() {
		r.progress.layer(desc.Digest, func(l *Layer) { l.WaitingFor = "another process that fetches the same layer" })
	})
}

// openWriter opens the blob for writing, from its beginning if what is there need not be fetched again.
func (r *run) openWriter(ctx context.Context, desc ocispec.Descriptor, anew bool) (sink, error) {
	w, err := r.session.Blob(ctx, desc, func() {
		r.progress.layer(desc.Digest, func(l *Layer) { l.WaitingFor = "another pull that fetches the same layer" })
	})
	switch {
	case errors.Is(err, ErrPresent):
		return nil, err
	case err != nil:
		return nil, storeError{err}
	case w.Offset() == 0, !anew && w.Offset() <= desc.Size:
		return writerSink{w}, nil
	}
	if err := w.Reset(); err != nil {
		w.Close()
		return nil, storeError{err}
	}
	return writerSink{w}, nil
}

// awayFor is how long a daemon that does not answer is waited for.
const awayFor = 5 * time.Minute

// steadily is steady for what returns something.
func steadily[T any](ctx context.Context, r *run, op func() (T, error)) (v T, err error) {
	err = r.steady(ctx, func() (err error) {
		v, err = op()
		return err
	})
	return v, err
}

// steady repeats op while the daemon is away: that costs a pause, and not what was fetched.
func (r *run) steady(ctx context.Context, op func() error) error {
	policy := backoff.NewExponentialBackOff(backoff.WithInitialInterval(100*time.Millisecond),
		backoff.WithMaxInterval(2*time.Second), backoff.WithMaxElapsedTime(awayFor))
	told := false
	err := backoff.RetryNotify(func() error {
		err := op()
		if permanent := (*backoff.PermanentError)(nil); errors.As(err, &permanent) || errors.Is(err, ErrAway) {
			return err
		}
		return backoff.Permanent(err) // nil stays nil
	}, backoff.WithContext(policy, ctx), func(err error, _ time.Duration) {
		r.progress.waiting(ErrAway.Error())
		if !told {
			r.p.cfg.Log.Warn("waiting for containerd", "image", r.ref, "error", err)
		}
		told = true
	})
	if told {
		r.progress.waiting("")
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
