package prefetch

import (
	"context"
	"errors"
	"slices"
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
	has, err := r.has(ctx, pl.layers)
	if err != nil {
		return err
	}
	giveBack, err := r.claim(ctx, slices.DeleteFunc(slices.Clone(pl.stack), func(l stacked) bool { return has[l.desc.Digest] }),
		slices.DeleteFunc(slices.Clone(pl.extras), func(l ocispec.Descriptor) bool { return has[l.Digest] }))
	if err != nil {
		return err
	}
	defer giveBack()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.p.cfg.MaxParallel)
	for _, l := range pl.layers {
		g.Go(func() error { return r.content(ctx, l) })
	}
	return g.Wait()
}

// has tells which of the blobs are complete in the store.
func (r *run) has(ctx context.Context, blobs []ocispec.Descriptor) (map[digest.Digest]bool, error) {
	has := make(map[digest.Digest]bool)
	for _, b := range blobs {
		there, err := steadily(ctx, r, func() (bool, error) { return r.session.Has(ctx, b) })
		if err != nil {
			return nil, err
		}
		if has[b.Digest] = there; there {
			r.progress.layer(b.Digest, func(l *Layer) { l.Phase, l.Done = Fetching, l.Size })
		}
	}
	return has, nil
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
