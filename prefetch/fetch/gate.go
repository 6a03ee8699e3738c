package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// maxHeld bounds how many hosts are remembered; redirects can name any number of them.
const maxHeld = 1024

// holdUnsaid is how long a host is left alone that answers 429 without Retry-After: short, because the request itself
// waits longer and longer, and the limit shrinks.
const holdUnsaid = 250 * time.Millisecond

// eagerHold is how long a host may be held behind which there is another one.
const eagerHold = 3 * time.Second

// errHeld says that a host wants to be left alone for longer than it is waited for.
var errHeld = errors.New("the registry wants to be left alone")

// gate keeps requests back from hosts that have asked to be left alone (429 or 503 with Retry-After). It holds for the
// whole host, not only for the request that was refused, and also for the requests of containerd's resolver, which
// retries a 429 at once (core/remotes/docker/resolver.go, retryRequest, 2.4.2).
type gate struct {
	max time.Duration // a longer Retry-After counts as this

	mu    sync.Mutex
	until map[string]time.Time // by host:port; guarded by mu
}

func newGate(longest time.Duration) *gate {
	return &gate{max: longest, until: make(map[string]time.Time)}
}

// wait returns when host may be asked.
func (g *gate) wait(ctx context.Context, host string) error {
	for {
		d := g.left(host)
		if d <= 0 {
			return nil
		}
		t := time.NewTimer(d)
		select {
		case <-t.C: // the host may have been held anew meanwhile
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}

// left is for how long host still wants to be left alone, or less than 0.
func (g *gate) left(host string) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Until(g.until[host])
}

// pass is wait, but does not wait long if eager.
func (g *gate) pass(ctx context.Context, host string, eager bool) error {
	if d := g.left(host); eager && d > eagerHold {
		return fmt.Errorf("%w for another %s", errHeld, d.Round(time.Second))
	}
	return g.wait(ctx, host)
}

func (g *gate) hold(host string, d time.Duration) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.until) >= maxHeld {
		for h, t := range g.until {
			if t.Before(now) || len(g.until) >= maxHeld {
				delete(g.until, h)
			}
		}
	}
	if t := now.Add(min(d, g.max)); t.After(g.until[host]) {
		g.until[host] = t
	}
}

// wrap returns a RoundTripper that keeps requests back.
func (g *gate) wrap(next http.RoundTripper) http.RoundTripper {
	return &gated{gate: g, next: next}
}

type gated struct {
	gate *gate
	next http.RoundTripper
}

func (t *gated) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.gate.wait(req.Context(), req.URL.Host); err != nil {
		return nil, err
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	d := retryAfter(resp, time.Now())
	if d == 0 && resp.StatusCode == http.StatusTooManyRequests {
		d = holdUnsaid
	}
	if d > 0 {
		t.gate.hold(req.URL.Host, d)
	}
	return resp, nil
}

func (t *gated) CloseIdleConnections() { closeIdle(t.next) }

// closeIdle passes CloseIdleConnections on, as http.Client does.
func closeIdle(rt http.RoundTripper) {
	if c, ok := rt.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
