package fetch

import (
	"context"
	"io"
	"net/http"
	"time"

	"golang.org/x/time/rate"
)

// paceEvery is how often a body that is slowed down is read from, about.
const paceEvery = 50 * time.Millisecond

// paced bounds the bytes per second of all bodies together. It waits between reads, outside the watchdog and the
// rescue's clock: neither may take our own limit for a slow host.
type paced struct {
	next    http.RoundTripper
	limiter *rate.Limiter
}

// newLimiter returns a limiter for so many bytes per second, or nil for none.
func newLimiter(bandwidth int64) *rate.Limiter {
	if bandwidth <= 0 {
		return nil
	}
	burst := int64(float64(bandwidth) * paceEvery.Seconds())
	return rate.NewLimiter(rate.Limit(bandwidth), int(min(max(burst, 4<<10), 1<<20)))
}

func (t *paced) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err == nil {
		resp.Body = &pacedBody{ReadCloser: resp.Body, ctx: req.Context(), limiter: t.limiter}
	}
	return resp, err
}

func (t *paced) CloseIdleConnections() { closeIdle(t.next) }

type pacedBody struct {
	io.ReadCloser
	ctx     context.Context // the request's
	limiter *rate.Limiter
}

func (b *pacedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.limiter.Burst())])
	if n == 0 {
		return n, err
	}
	if waiting := b.limiter.WaitN(b.ctx, n); waiting != nil && err == nil {
		err = waiting
	}
	return n, err
}
