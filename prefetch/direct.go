package prefetch

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/hotplate-dev/hotplate/prefetch/layer"
	"github.com/hotplate-dev/hotplate/prefetch/staging"
)

// direct is the work on the layers of one image in the direct way.
type direct struct {
	*run
	session DirectSession
	stack   []stacked
	// committed are closed when the snapshot of a layer is there, by index into stack.
	committed []chan struct{}
	staged    *staging.Dir // nil if layers are not kept
}

// direct fetches, lays out and commits the layers: all at once, but for the commits, which go from below.
func (r *run) direct(ctx context.Context, session DirectSession, pl plan) (err error) {
	d := &direct{run: r, session: session, stack: pl.stack}
	if r.keep {
		if d.staged, err = r.p.stagingDir(r.way.Staging); err != nil {
			return err
		}
	}
	first, err := d.begin(ctx)
	if err != nil {
		return err
	}
	kept := slices.Clone(pl.extras)
	if r.keep {
		for _, l := range d.stack[first:] {
			kept = append(kept, l.desc)
		}
	}
	if kept, err = r.lacking(ctx, kept); err != nil {
		return err
	}
	if err := r.claim(ctx, kept, d.stack[first:]); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.extras(gctx, pl.extras) })
	for i := first; i < len(d.stack); i++ {
		g.Go(func() error { return d.layer(gctx, i) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// begin returns the first layer that is to be brought, and takes those below for done.
func (d *direct) begin(ctx context.Context) (first int, err error) {
	if first, err = d.unpackedUpTo(ctx, d.stack); err != nil {
		return 0, err
	}
	for i := range d.stack {
		c := make(chan struct{})
		d.committed = append(d.committed, c)
		if i < first {
			close(c)
			d.ended(ctx, &d.stack[i], nil)
		}
	}
	return first, nil
}

// place waits for the memory that laying out l takes, and returns what gives it back. A layer that takes more than all
// there is has it for itself.
func (d *direct) place(ctx context.Context, l *stacked) (giveBack func(), err error) {
	n := min(layer.Memory(l.desc.MediaType, l.window), d.p.pipeMemory)
	if err := d.p.pipes.Acquire(ctx, n); err != nil {
		return nil, context.Cause(ctx)
	}
	return func() { d.p.pipes.Release(n) }, nil
}

// layer makes the snapshot of one layer. Of two images with the same layers below, one waits for the other, without
// holding anything that the other may need.
func (d *direct) layer(ctx context.Context, i int) (err error) {
	l := &d.stack[i]
	defer func() { d.ended(ctx, l, err) }()
	unlock, err := d.p.keys.lock(ctx, "chain "+l.chain.String())
	if err != nil {
		return err
	}
	defer unlock()
	has, err := d.hasSnapshot(ctx, l)
	if err != nil {
		return err
	}
	for !has {
		tree, err := d.placed(ctx, l)
		if err == nil {
			err = d.commit(ctx, i, tree)
			d.discard(tree)
		}
		if err == nil {
			break
		}
		if !l.adapt(err) {
			return err
		}
	}
	close(d.committed[i])
	return nil
}

// placed lays l out when there is memory for that, and gives the memory back.
func (d *direct) placed(ctx context.Context, l *stacked) (*layer.Tree, error) {
	giveBack, err := d.place(ctx, l)
	if err != nil {
		return nil, err
	}
	defer giveBack()
	return d.tree(ctx, l)
}

// adapt tells whether to lay the layer out again after err, and how.
func (l *stacked) adapt(err error) bool {
	switch {
	case errors.Is(err, layer.ErrWindow) && l.window < layer.MaxWindow:
		l.window = layer.MaxWindow
	case errors.Is(err, layer.ErrNeedsLowers) && !l.onLowers:
		l.onLowers = true
	case errors.Is(err, ErrAway) && l.lost < 3:
		l.lost++ // its entries are in a snapshot that the daemon may no longer know
	default:
		return false
	}
	return true
}

// commit waits for the layer below and puts the tree on top of it. An error that is ErrAway means that it must be laid out
// again.
func (d *direct) commit(ctx context.Context, i int, tree *layer.Tree) error {
	l := &d.stack[i]
	if i > 0 {
		d.waiting(l, "the layer below")
		select {
		case <-d.committed[i-1]:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	moved := false
	return d.steady(ctx, func() error {
		snapshot := LayerSnapshot{Chain: l.chain, Parent: l.parent, DiffID: l.diffID, Annotations: l.desc.Annotations}
		err := d.session.AddSnapshot(ctx, snapshot, func(upper string, lowers []string) error {
			moved, l.lowers = true, lowers
			return tree.Move(upper, lowers)
		})
		if moved {
			return backoff.Permanent(err)
		}
		return err
	})
}

// ended shows what became of a layer.
func (d *direct) ended(ctx context.Context, l *stacked, err error) {
	d.progress.layer(l.desc.Digest, func(pl *Layer) {
		pl.WaitingFor = ""
		switch {
		case err == nil:
			pl.Done, pl.Unpacked, pl.Phase = pl.Size, pl.Size, Ready
		case context.Cause(ctx) == nil:
			pl.Phase = Failed
		}
	})
}

func (d *direct) waiting(l *stacked, what string) {
	d.progress.layer(l.desc.Digest, func(pl *Layer) { pl.WaitingFor = what })
}

// tree lays a layer out, verified, and sees to it that its blob is in the store if layers are kept.
func (d *direct) tree(ctx context.Context, l *stacked) (*layer.Tree, error) {
	unlock, err := d.p.keys.lock(ctx, "blob "+l.desc.Digest.String())
	if err != nil {
		return nil, err
	}
	defer unlock()
	hold, err := d.hold(ctx, l)
	if errors.Is(err, ErrPresent) {
		return d.reuse(ctx, l)
	}
	if err != nil {
		return nil, err
	}
	defer hold.Release()
	if d.staged == nil {
		return d.fetch(ctx, l, nil)
	}
	staged, err := d.staged.Blob(ctx, l.desc, d.p.budget.chunk, func() { d.waiting(l, "another process that fetches it") })
	if err != nil {
		return nil, err
	}
	defer staged.Close()
	tree, err := d.fetch(ctx, l, staged)
	if err != nil {
		return nil, err
	}
	if err := d.adopt(ctx, l, hold, staged); err != nil {
		d.discard(tree)
		return nil, err
	}
	return tree, nil
}

// fetch brings the blob and lays it out.
func (d *direct) fetch(ctx context.Context, l *stacked, staged *staging.Blob) (*layer.Tree, error) {
	var last *layout
	b := &blob{run: d.run, desc: l.desc, staged: staged, open: func(ctx context.Context) (sink, error) {
		last = d.newLayout(ctx, l, staged)
		return last, nil
	}}
	if err := b.bring(ctx); err != nil {
		return nil, err
	}
	return last.tree, nil
}

// hold keeps others from fetching the blob.
func (d *direct) hold(ctx context.Context, l *stacked) (Hold, error) {
	return steadily(ctx, d.run, func() (Hold, error) {
		return d.session.Hold(ctx, l.desc, func() { d.waiting(l, "another pull that fetches the same layer") })
	})
}

// adopt puts the staged blob, which is verified and durable, into the store. A daemon that was away has forgotten the hold.
func (d *direct) adopt(ctx context.Context, l *stacked, hold Hold, staged *staging.Blob) error {
	err := d.steady(ctx, func() (err error) {
		if hold == nil {
			hold, err = d.session.Hold(ctx, l.desc, nil)
		}
		if err == nil {
			err = hold.Adopt(ctx, staged.Path(), l.diffID)
			hold = nil
		}
		if err == nil || errors.Is(err, ErrPresent) {
			err = d.session.Link(ctx, d.ref, l.desc, nil)
		}
		return err
	})
	if err != nil {
		return err
	}
	return staged.Remove()
}

// reuse lays out a blob that is in the store. Its digest was verified when it came there, its diff ID is now.
func (d *direct) reuse(ctx context.Context, l *stacked) (*layer.Tree, error) {
	d.progress.layer(l.desc.Digest, func(pl *Layer) { pl.Done, pl.Phase, pl.WaitingFor = pl.Size, Unpacking, "" })
	body, err := d.openBlob(ctx, l)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	tree, err := d.apply(ctx, l, body, l.diffID)
	if blames(err) {
		return nil, d.blame(ctx, l, err)
	}
	return tree, err
}

func (d *direct) openBlob(ctx context.Context, l *stacked) (io.ReadCloser, error) {
	return steadily(ctx, d.run, func() (io.ReadCloser, error) { return d.session.OpenBlob(ctx, l.desc) })
}

// blame finds out whether a blob that is in the store has changed since it came there, or the image is to blame for err.
func (d *direct) blame(ctx context.Context, l *stacked, err error) error {
	body, openErr := d.openBlob(ctx, l)
	if openErr != nil {
		return openErr
	}
	defer body.Close()
	got, readErr := l.desc.Digest.Algorithm().FromReader(body)
	if readErr != nil {
		return fmt.Errorf("read layer %s: %w", l.desc.Digest, readErr)
	}
	if got == l.desc.Digest {
		return err
	}
	return fmt.Errorf("containerd's blob %s is damaged, its bytes have digest %s: delete it with \"ctr content rm\"",
		l.desc.Digest, got)
}

// apply lays out the bytes of a layer's blob in a new directory.
func (d *direct) apply(ctx context.Context, l *stacked, blob io.Reader, diffID digest.Digest) (*layer.Tree, error) {
	dir := filepath.Join(d.way.Trees, l.chain.Encoded()[:16]+"-"+rand.Text())
	d.p.trees.add(dir)
	start := time.Now()
	timed := &timedReader{r: blob, told: func(n int64) {
		d.progress.layer(l.desc.Digest, func(pl *Layer) { pl.Unpacked = min(pl.Unpacked+n, pl.Size) })
	}}
	d.progress.layer(l.desc.Digest, func(pl *Layer) { pl.Unpacked = 0 })
	spec := layer.Spec{MediaType: l.desc.MediaType, DiffID: diffID, Base: l.parent == "", Dir: dir, Window: l.window}
	if l.onLowers {
		spec.Lowers = l.lowers
	}
	tree, err := layer.Apply(ctx, spec, timed)
	if err != nil {
		d.p.trees.remove(dir)
		return nil, fmt.Errorf("unpack layer %s: %w", l.desc.Digest, err)
	}
	d.pace.unpacked(l.desc, tree.Size, time.Since(start)-timed.waited, timed.waited)
	d.p.ratios.learn(l.desc, tree.Size)
	return tree, nil
}

// discard removes what is left of a tree.
func (d *direct) discard(tree *layer.Tree) {
	if err := layer.Remove(tree.Dir); err != nil {
		d.p.cfg.Log.Warn("a layer's directory stays until the next sweep", "path", tree.Dir, "error", err)
	}
	d.p.trees.remove(tree.Dir)
}
