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
	asked map[string]time.Time // of those, what a host has asked us for; guarded by mu
}

func newGate(longest time.Duration) *gate {
	return &gate{max: longest, until: make(map[string]time.Time), asked: make(map[string]time.Time)}
}

// Throttle lets nobody ask host, which is host[:port] as in a URL, for d, as if it had sent Retry-After: somebody else was
// asked to leave it alone.
func (c *Client) Throttle(host string, d time.Duration) { c.gate.hold(host, d) }

// Throttled are the hosts that have sent Retry-After, and for how much longer that counts. What Throttle said is not among
// them.
func (c *Client) Throttled() map[string]time.Duration {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	out := make(map[string]time.Duration)
	for host, until := range c.gate.asked {
		if left := time.Until(until); left > 0 {
			out[host] = left
		}
	}
	return out
}

type eagerKey struct{}

// eagerly makes requests that are eager wait no longer than eagerHold, because there is another host.
func eagerly(ctx context.Context, eager bool) context.Context {
	return context.WithValue(ctx, eagerKey{}, eager)
}

// wait returns when host may be asked, or with errHeld if that is too long for a request that is eager.
func (g *gate) wait(ctx context.Context, host string) error {
	eager, _ := ctx.Value(eagerKey{}).(bool)
	for {
		d := g.left(host)
		if d <= 0 {
			return nil
		}
		if eager && d > eagerHold {
			return fmt.Errorf("%w for another %s", errHeld, d.Round(time.Second))
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

func (g *gate) hold(host string, d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	extend(g.until, host, min(d, g.max))
}

// refused holds a host that has asked for it itself.
func (g *gate) refused(host string, d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	extend(g.until, host, min(d, g.max))
	extend(g.asked, host, min(d, g.max))
}

// extend makes until name a time that is d from now, or later. It holds maxHeld hosts at most.
func extend(until map[string]time.Time, host string, d time.Duration) {
	now := time.Now()
	if len(until) >= maxHeld {
		for h, t := range until {
			if t.Before(now) || len(until) >= maxHeld {
				delete(until, h)
			}
		}
	}
	if t := now.Add(d); t.After(until[host]) {
		until[host] = t
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
	switch d := retryAfter(resp, time.Now()); {
	case d > 0:
		t.gate.refused(req.URL.Host, d)
	case resp.StatusCode == http.StatusTooManyRequests:
		t.gate.hold(req.URL.Host, holdUnsaid)
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
