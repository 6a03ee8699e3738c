package prefetch

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/hotplate-dev/hotplate/prefetch/staging"
)

// extras brings the blobs that no snapshot has, several at once.
func (d *direct) extras(ctx context.Context, extras []ocispec.Descriptor) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(d.p.cfg.MaxParallel)
	for _, e := range extras {
		g.Go(func() error {
			if d.staged == nil || e.Size <= d.p.budget.chunk {
				return d.content(ctx, e)
			}
			return d.extra(ctx, &stacked{desc: e})
		})
	}
	return g.Wait()
}

// extra stages a blob, verifies it and puts it into the store.
func (d *direct) extra(ctx context.Context, l *stacked) (err error) {
	defer func() { d.ended(ctx, l, err) }()
	unlock, err := d.p.keys.lock(ctx, "blob "+l.desc.Digest.String())
	if err != nil {
		return err
	}
	defer unlock()
	hold, err := d.hold(ctx, l)
	if errors.Is(err, ErrPresent) {
		return d.steady(ctx, func() error { return d.session.Link(ctx, d.ref, l.desc, nil) })
	}
	if err != nil {
		return err
	}
	defer hold.Release()
	staged, err := d.staged.Blob(ctx, l.desc, d.p.budget.chunk, func() { d.waiting(l, "another process that fetches it") })
	if err != nil {
		return err
	}
	defer staged.Close()
	b := &blob{run: d.run, desc: l.desc, staged: staged, open: func(context.Context) (sink, error) {
		return newHashed(l.desc.Digest, staged), nil
	}}
	if err := b.bring(ctx); err != nil {
		return err
	}
	return d.adopt(ctx, l, hold, staged)
}

// hashed is the sink of a blob that is only hashed: it is in the staging file.
type hashed struct {
	desc   digest.Digest
	hash   hasher
	staged *staging.Blob
}

var _ sink = (*hashed)(nil)

func newHashed(desc digest.Digest, staged *staging.Blob) *hashed {
	h := &hashed{desc: desc, hash: hasher{staged: staged}, staged: staged}
	h.hash.h, h.hash.skip = staged.Hashed()
	return h
}

func (h *hashed) Offset() int64 { return h.hash.seen }

func (h *hashed) Write(_ context.Context, p []byte, release func()) error {
	defer release()
	_, err := h.hash.Write(p)
	return err
}

// Commit also makes what is staged durable.
func (h *hashed) Commit(context.Context) error {
	if err := h.hash.check(h.desc); err != nil {
		return err
	}
	return h.staged.Sync()
}

func (h *hashed) Close() {}
