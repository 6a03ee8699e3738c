package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// headerStalls is how many stall timeouts an answer may take to begin. containerd's transport gives up earlier on each
// of the steps (30 s to connect, 10 s for TLS, 30 s for the headers: core/remotes/docker/registry.go, 2.4.2).
const headerStalls = 3

// leastProgress is how many bytes must arrive within a stall timeout, half a kilobyte per second by default: a host that
// gives a byte now and then would hold a pull for ever. What is shorter has one stall timeout for all of it.
const leastProgress = 16 << 10

// watchdog cancels a request when fewer than leastProgress bytes arrive within a time. There is no deadline for the whole:
// a large blob over a slow line is no fault. Time in which nobody reads does not count.
type watchdog struct {
	next  http.RoundTripper
	stall time.Duration
}

func (w *watchdog) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(headerStalls*w.stall, func() { cancel(ErrStalled) })
	resp, err := w.next.RoundTrip(req.WithContext(ctx))
	timer.Stop()
	if err != nil {
		err = w.cause(ctx, err)
		cancel(nil)
		return nil, err
	}
	resp.Body = &watchedBody{body: resp.Body, dog: w, ctx: ctx, cancel: cancel, timer: timer, left: w.stall}
	return resp, nil
}

// cause names the watchdog where it was the watchdog that ended the request.
func (w *watchdog) cause(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), ErrStalled) {
		return fmt.Errorf("%w for %s", ErrStalled, w.stall)
	}
	return err
}

func (w *watchdog) CloseIdleConnections() { closeIdle(w.next) }

type watchedBody struct {
	body   io.ReadCloser
	dog    *watchdog
	ctx    context.Context // the request's own; the body outlives RoundTrip
	cancel context.CancelCauseFunc
	timer  *time.Timer
	left   time.Duration // of the stall timeout
	came   int           // since left was as long as it
}

func (b *watchedBody) Read(p []byte) (int, error) {
	start := time.Now()
	b.timer.Reset(b.left)
	n, err := b.body.Read(p)
	b.timer.Stop()
	if b.came += n; b.came >= leastProgress {
		b.came, b.left = 0, b.dog.stall
	} else {
		b.left -= time.Since(start)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.dog.cause(b.ctx, err)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.timer.Stop()
	err := b.body.Close()
	b.cancel(nil)
	return err
}
