package fetch

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"
)

// attempt is one request for a chunk with a clock that runs only while somebody waits for the network: not while nobody
// reads, while the gate or the bandwidth holds it back, or while a token is fetched. It is safe for concurrent use.
type attempt struct {
	peers  *peers
	length int64
	rescue func()
	final  bool // it is not rescued; set before it begins

	mu      sync.Mutex
	begun   time.Time     // guarded by mu, as all below
	since   time.Time     // when the clock was started last
	running bool          // whether the clock runs
	waited  time.Duration // up to since
	got     int64
	timer   *time.Timer
}

func newAttempt(p *peers, length int64, rescue func()) *attempt {
	return &attempt{peers: p, length: length, rescue: rescue}
}

type attemptKey struct{}

func withAttempt(ctx context.Context, a *attempt) context.Context {
	return context.WithValue(ctx, attemptKey{}, a)
}

// start starts the clock.
func (a *attempt) start() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.since, a.running = time.Now(), true
	if a.begun.IsZero() {
		a.begun = a.since
	}
	if a.final {
		return
	}
	if d := max(a.due()-a.waited, 0); a.timer == nil {
		a.timer = time.AfterFunc(d, a.look)
	} else {
		a.timer.Reset(d)
	}
}

// stop stops the clock; n bytes have come.
func (a *attempt) stop(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waited += time.Since(a.since)
	a.running = false
	a.got += int64(n)
	if a.timer != nil {
		a.timer.Stop()
	}
}

// due is the time on the clock at which the chunk, if no more bytes come, has become far slower than its peers:
//
//   - at least 250 ms, and as long as its peers take for all of theirs;
//   - its speed is less than a quarter of their median;
//   - at that speed the rest takes longer than a chunk of theirs, so that a rescue gains something.
//
// The caller holds mu.
func (a *attempt) due() time.Duration {
	t := a.peers.typical()
	if t == nil {
		return a.waited + soonest // look again
	}
	got := float64(a.got)
	slow := time.Duration(farSlower * got / t.speed * float64(time.Second))
	gain := time.Duration(float64(t.took) * got / max(float64(a.length)-got, 1))
	return max(soonest, t.took, slow, gain)
}

// look is called when the chunk may have become slow. The clock may have been stopped or started anew since.
func (a *attempt) look() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.running {
		return
	}
	waited := a.waited + time.Since(a.since)
	switch d := a.due() - waited; {
	case a.peers.typical() == nil:
		a.timer.Reset(soonest)
	case d > 0:
		a.timer.Reset(d)
	case a.peers.spend():
		a.rescue()
	default:
		a.timer.Reset(soonest)
	}
}

// mostPaused is how long the reader of a chunk that becomes a peer may have paused, or a third of the time it waited.
const mostPaused = 100 * time.Millisecond

// ended makes the attempt, whose last byte has come, a peer of others, unless it was too short or its reader paused for
// long: what came meanwhile makes it look faster than it was.
func (a *attempt) ended(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if paused := now.Sub(a.begun) - a.waited; a.length < leastRescued || paused > max(mostPaused, a.waited/3) {
		return
	}
	took := max(a.waited, time.Microsecond)
	a.peers.add(sample{took: took, speed: float64(a.length) / took.Seconds()})
}

// clocked runs the clock of a request's attempt.
type clocked struct{ next http.RoundTripper }

func (c *clocked) RoundTrip(req *http.Request) (*http.Response, error) {
	a, ok := req.Context().Value(attemptKey{}).(*attempt)
	if !ok {
		return c.next.RoundTrip(req)
	}
	a.start()
	resp, err := c.next.RoundTrip(req)
	a.stop(0)
	if err == nil && resp.StatusCode == http.StatusPartialContent {
		resp.Body = &clockedBody{ReadCloser: resp.Body, attempt: a}
	}
	return resp, err
}

func (c *clocked) CloseIdleConnections() { closeIdle(c.next) }

type clockedBody struct {
	io.ReadCloser
	attempt *attempt
}

func (b *clockedBody) Read(p []byte) (int, error) {
	b.attempt.start()
	n, err := b.ReadCloser.Read(p)
	b.attempt.stop(n)
	return n, err
}
