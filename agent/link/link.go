package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
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
	rhythm *Rhythm
	since  time.Time // when Run began
}

// New checks cfg.
func New(cfg Config) (*Link, error) {
	if cfg.Where == nil || cfg.Moved == nil || cfg.TokenFile == "" || cfg.Log == nil {
		return nil, errors.New("link: Where, Moved, TokenFile and Log are required")
	}
	return &Link{cfg: cfg, woken: make(chan struct{}, 1), dial: (&net.Dialer{Timeout: dialTimeout}).DialContext, rhythm: NewRhythm()}, nil
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
			l.pause(ctx, began, l.rhythm.Failed(after(err)), nil)
			continue
		}
		took(d)
		l.pause(ctx, began, l.rhythm.Answered(d, now), l.woken)
	}
}

// pause waits, after a report that began then, for as long as given, or less when woken or moved.
func (l *Link) pause(ctx context.Context, began time.Time, wait time.Duration, woken <-chan struct{}) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-woken:
			Change(ctx, began)
			return
		case <-l.cfg.Moved:
			if l.isThere() {
				continue
			}
			l.rhythm.Moved()
			// A node that has just started, and hears for the first time where it is, does so at a moment of its own.
			if l.client == nil && time.Since(l.since) < busyInterval {
				Change(ctx, began)
			} else {
				Move(ctx, began)
			}
			return
		}
	}
}

// isThere tells whether the coordinator is where it has just answered: that it has moved is only said again.
func (l *Link) isThere() bool {
	url, ca, err := l.cfg.Where()
	return err == nil && l.client != nil && url == l.url && ca == l.ca && !l.silent
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
