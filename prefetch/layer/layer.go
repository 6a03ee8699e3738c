package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"

	"github.com/hotplate-dev/hotplate/prefetch/internal/tee"
)

// Spec says what a layer is and where its tree goes.
type Spec struct {
	// MediaType is that of the blob's descriptor.
	MediaType string
	// DiffID is what the uncompressed tar must hash to. Empty: the blob itself is the tar, and the caller verifies its
	// digest.
	DiffID digest.Digest
	// Base is true for the first layer of an image.
	Base bool
	// Dir is made by Apply, on the filesystem of the snapshots. It must not exist.
	Dir string
	// Window is the largest zstd window, in bytes, that may be used; 0 and everything above it stand for MaxWindow.
	Window int64
	// Lowers are the directories of the parents, the nearest first, if they are there already. They are only needed
	// after an ErrNeedsLowers.
	Lowers []string
}

// Tree is a layer that has been laid out and verified. It belongs to one goroutine. One that is not moved is removed with
// Remove(Dir).
type Tree struct {
	Dir string
	// Size is the length of the uncompressed tar in bytes, Entries how many headers it has.
	Size, Entries int64

	base bool
	// unlisted is how many directories have been made that lack what is below, replaced whether some may be gone again.
	unlisted int64
	replaced bool
}

// Apply reads r to its end and lays out the tree. It returns when all that it started has ended. Errors:
//   - what r returned, if that was not io.EOF, or the cause of ctx's end;
//   - a FormatError for what is broken in the blob, or an error that is ErrDiffID or ErrWindow;
//   - anything else is the filesystem's: no room, no permission.
//
// After an error Dir is gone. If r has a method CloseWithError(error) error, as io.PipeReader has, it is called when Apply
// ends early, so that a Read that waits returns; otherwise the caller has to end such a Read when ctx ends.
func Apply(ctx context.Context, spec Spec, r io.Reader) (_ *Tree, err error) {
	if err := os.Mkdir(spec.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a directory for the layer: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, Remove(spec.Dir))
		}
	}()
	// containerd would log each xattr that the filesystem does not know.
	ctx, cancel := context.WithCancelCause(log.WithLogger(ctx, &log.Entry{Logger: like(log.L.Logger)}))
	src := &source{r: r}
	stop := context.AfterFunc(ctx, func() { src.giveUp(context.Cause(ctx)) })
	defer cancel(nil)
	defer stop()

	a := &applier{spec: spec, src: src, fail: cancel}
	err = a.run(ctx)
	if err == nil && src.failed() {
		// Between two frames a zstd decoder takes an unexpected end for the end.
		err = src.blame(io.ErrUnexpectedEOF)
	}
	if err != nil {
		// What went wrong first is why the rest did.
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("lay out layer: %w", err)
	}
	return &Tree{
		Dir: spec.Dir, Size: a.size, Entries: a.seen.entries,
		base: spec.Base, unlisted: a.seen.made, replaced: a.seen.replaced,
	}, nil
}

// like makes a new value of the type that its argument points to: a zero logrus.Logger logs nothing but panics.
func like[T any](*T) *T { return new(T) }

// applier is one Apply.
type applier struct {
	spec Spec
	src  *source
	seen watcher
	size int64
	// fail ends everything; its first call says why.
	fail context.CancelCauseFunc
}

func (a *applier) run(ctx context.Context) error {
	in, err := open(a.src, a.spec)
	if err != nil {
		a.fail(err)
		return err
	}
	defer in.Close()
	switch {
	case a.spec.DiffID != "":
		return a.inParallel(ctx, in)
	case in.compressed:
		// The config says that tar and blob are the same.
		err = fmt.Errorf("%w: the blob is compressed, and the diff ID is that of the blob", ErrDiffID)
	default:
		err = a.unpack(ctx, in)
	}
	if err != nil {
		a.fail(err)
	}
	return err
}

// inParallel inflates, hashes and lays out at the same time.
func (a *applier) inParallel(ctx context.Context, in io.Reader) error {
	t := tee.New(2, blocks)
	hash := digest.Canonical.Digester()
	var wg sync.WaitGroup
	var pumped, hashed error
	wg.Go(func() {
		pumped = a.pump(ctx, in, t)
		t.Close(pumped)
	})
	wg.Go(func() { _, hashed = t.Reader(0).WriteTo(hash.Hash()) })
	err := a.unpack(ctx, t.Reader(1))
	if err != nil {
		a.fail(err)
		_ = t.Reader(1).CloseWithError(err)
	}
	wg.Wait()
	if err := errors.Join(err, pumped, hashed); err != nil {
		return err
	}
	if got := hash.Digest(); got != a.spec.DiffID {
		err := fmt.Errorf("%w: the tar is %s, the config says %s; %s", ErrDiffID, got, a.spec.DiffID, rebuild)
		a.fail(err)
		return err
	}
	return nil
}

// pump fills blocks from in and hands them to t.
func (a *applier) pump(ctx context.Context, in io.Reader, t *tee.Tee) error {
	free := make(chan []byte, blocks)
	for range blocks {
		free <- nil // made when it is needed: many layers are small
	}
	for {
		var block []byte
		select {
		case block = <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if block == nil {
			block = make([]byte, blockSize)
		}
		n, err := fill(in, block)
		if n > 0 {
			if err := t.Write(ctx, block[:n], func() { free <- block }); err != nil {
				return err
			}
		}
		if err == io.EOF { //nolint:errorlint // one that is wrapped is the reader's, and not the end
			return nil
		}
		if err != nil {
			// The readers must not be the first to say it.
			err = a.src.blame(err)
			a.fail(err)
			return err
		}
	}
}

// fill reads until p is full. Unlike io.ReadFull it keeps io.ErrUnexpectedEOF for what the reader says.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	return n, err
}

// unpack lays out the tar in r and reads the rest.
func (a *applier) unpack(ctx context.Context, r io.Reader) error {
	a.seen.root = a.spec.Dir
	// With nothing below, or with what is below at hand, containerd needs no help.
	a.seen.marks = !a.spec.Base && a.spec.Lowers == nil
	opts := []archive.ApplyOpt{archive.WithFilter(a.seen.see)}
	if !a.spec.Base {
		opts = append(opts, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(a.spec.Lowers))
	}
	counted := &counter{r: r}
	_, err := archive.Apply(ctx, a.spec.Dir, counted, opts...)
	if err == nil {
		_, err = io.Copy(io.Discard, counted)
	}
	a.size = counted.n
	if err == nil {
		return nil
	}
	if a.src.failed() {
		return a.src.blame(err)
	}
	return a.seen.blame(err)
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
