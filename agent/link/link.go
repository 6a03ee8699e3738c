package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/hotplate-dev/hotplate/agent/report"
)

const (
	// leastInterval is between two reports at least, whatever happens, mostInterval at most.
	leastInterval = time.Second
	mostInterval  = time.Minute
	// busyInterval and idleInterval are between two reports where the coordinator says nothing else.
	busyInterval = 5 * time.Second
	idleInterval = 30 * time.Second
	// apartFor is for how long a node asks often because the coordinator goes by another config than itself. After that the two
	// are probably of different versions.
	apartFor = time.Minute
	// spread is how long at most a change waits more, so that a change that all nodes see does not bring all of them at once.
	spread = 500 * time.Millisecond
	// movedSpread is the same for a coordinator that is somewhere else: every node has to connect to it, and to have its token
	// looked at.
	movedSpread = 10 * time.Second
	// Without an answer it is asked again after retryMin, then less and less often, down to every retryMax.
	retryMin = time.Second
	retryMax = 30 * time.Second
	// jitter is by how much waits are random, as a share, each way.
	jitter = 0.2
)

// Config is what a Link needs. All fields are required.
type Config struct {
	// Where returns the coordinator's URL, https://host:port, and the PEM of what its certificate is verified against; an
	// error says why that is not known. It is called from Run's goroutine.
	Where func() (url, ca string, err error)
	// Moved tells that Where may return something else now.
	Moved <-chan struct{}
	// TokenFile holds the token by which this node proves who it is.
	TokenFile string
	Log       *slog.Logger
}

// Link reports to the coordinator. Run is for one goroutine at a time; Wake may be called from any.
type Link struct {
	cfg   Config
	woken chan struct{} // capacity 1

	// The rest belongs to the goroutine of Run.
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	client *http.Client // for url and ca; nil before there was one
	url    string
	ca     string
	silent bool // that there is no answer is in the log
	retry  *backoff.ExponentialBackOff
	apart  time.Time // since when the coordinator goes by another config; zero while it does not
	since  time.Time // when Run began
}

// New checks cfg.
func New(cfg Config) (*Link, error) {
	if cfg.Where == nil || cfg.Moved == nil || cfg.TokenFile == "" || cfg.Log == nil {
		return nil, errors.New("link: Where, Moved, TokenFile and Log are required")
	}
	return &Link{cfg: cfg, woken: make(chan struct{}, 1), dial: (&net.Dialer{Timeout: dialTimeout}).DialContext,
		retry: backoff.NewExponentialBackOff(backoff.WithInitialInterval(retryMin), backoff.WithMaxInterval(retryMax),
			backoff.WithRandomizationFactor(jitter), backoff.WithMultiplier(2), backoff.WithMaxElapsedTime(0))}, nil
}

// Wake lets Run report soon, because something has changed. It never blocks.
func (l *Link) Wake() {
	select {
	case l.woken <- struct{}{}:
	default:
	}
}

// Run reports what state returns until ctx ends, and calls took, from its own goroutine, with every answer.
func (l *Link) Run(ctx context.Context, state func() report.NodeReport, took func(report.Directive)) {
	l.since = time.Now()
	for ctx.Err() == nil {
		began := time.Now()
		now := state()
		d, err := l.ask(ctx, now)
		if ctx.Err() != nil {
			return
		}
		l.tell(err)
		if err != nil {
			l.pause(ctx, began, max(l.retry.NextBackOff(), after(err)), nil)
			continue
		}
		l.retry.Reset()
		took(d)
		l.pause(ctx, began, l.interval(d, now), l.woken)
	}
}

// interval is until the next report, if nothing changes.
func (l *Link) interval(d report.Directive, r report.NodeReport) time.Duration {
	wait := idleInterval
	if busy(r) {
		wait = busyInterval
	}
	if d.NextReport > 0 {
		wait = d.NextReport
	}
	switch {
	case d.ConfigHash == r.Config.Hash:
		l.apart = time.Time{}
	case l.apart.IsZero():
		l.apart = time.Now()
		fallthrough
	case time.Since(l.apart) < apartFor:
		wait = min(wait, busyInterval) // one of the two will see the new config any moment
	}
	wait = time.Duration(float64(wait) * (1 - jitter + 2*jitter*rand.Float64()))
	return min(max(wait, leastInterval), mostInterval)
}

// busy reports whether the node's state changes by itself just now.
func busy(r report.NodeReport) bool {
	for _, i := range r.Images {
		switch i.Phase {
		case report.ImageResolving, report.ImageFetching, report.ImageUnpacking:
			return true
		}
	}
	return r.Restart.Slot != report.SlotNone
}

// pause waits, after a report that began then, for as long as given, or less when woken or moved.
func (l *Link) pause(ctx context.Context, began time.Time, wait time.Duration, woken <-chan struct{}) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for waits := true; waits; {
		waits = false
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-woken:
			wait = rand.N(spread)
		case <-l.cfg.Moved:
			if wait = l.moved(); wait == 0 {
				waits = true
			}
		}
	}
	soon := time.NewTimer(max(time.Until(began.Add(leastInterval)), 0) + wait)
	defer soon.Stop()
	select {
	case <-ctx.Done():
	case <-soon.C:
	}
}

// moved is how long to wait before the coordinator is asked that is said to be somewhere else; 0 if that is only said again. A node
// that has just started, and hears for the first time where it is, does so at a moment of its own.
func (l *Link) moved() time.Duration {
	url, ca, err := l.cfg.Where()
	if err == nil && l.client != nil && url == l.url && ca == l.ca && !l.silent {
		return 0
	}
	l.retry.Reset()
	if l.client == nil && time.Since(l.since) < busyInterval {
		return rand.N(spread)
	}
	return rand.N(movedSpread)
}

// tell logs when the answers stop and when they come again.
func (l *Link) tell(err error) {
	switch {
	case err != nil && !l.silent:
		l.cfg.Log.Warn("the coordinator does not answer; what it said last counts, and restarts of containerd wait", "err", err)
	case err != nil:
		l.cfg.Log.Debug("the coordinator does not answer", "err", err)
	case l.silent:
		l.cfg.Log.Info("the coordinator answers again", "url", l.url)
	}
	l.silent = err != nil
}

// connect makes a client for where the coordinator is now.
func (l *Link) connect() error {
	url, ca, err := l.cfg.Where()
	if err != nil {
		return err
	}
	if l.client != nil && url == l.url && ca == l.ca {
		return nil
	}
	transport, err := newTransport(ca, l.dial)
	if err != nil {
		return fmt.Errorf("trust the coordinator at %s: %w", url, err)
	}
	l.url, l.ca = url, ca
	l.client = &http.Client{Transport: transport, Timeout: askTimeout,
		// The token is for nobody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return nil
}
