package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/hotplate-dev/hotplate/hack/bench/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

const (
	slowRate      = 40_000_000 // bytes per second of each connection
	stragglerRate = 2_000_000
)

// linkSpec is a way to reach the registry.
type linkSpec struct {
	name, description string
	start             func(*library) (link, error)
}

func (s linkSpec) label() string { return s.name }

// link is one that was started.
type link interface {
	// Host is host:port to pull from.
	Host() string
	// Begin starts counting, and what the link does by chance again from the seed.
	Begin(seed uint64) error
	// Used is what was asked since Begin. The one that asked must have closed its connections, or be about to.
	Used(ctx context.Context) (bytes, requests int64, err error)
	Close() error
}

func linkSpecs() []linkSpec {
	return []linkSpec{
		{report.LinkUnlimited, "the registry itself on this machine", func(l *library) (link, error) {
			return &direct{log: l.log, host: l.registry.Host()}, nil
		}},
		{report.LinkSlow, "40 MB/s for each connection", func(l *library) (link, error) {
			path, err := rig.StartLink(rig.LinkConfig{Upstream: l.registry.Host(), BytesPerSecond: slowRate})
			return &slow{Link: path, log: l.log}, err
		}},
		{report.LinkFlawed, "40 MB/s for each connection, one answer in twenty at 2 MB/s, and 1 % answers of 429 or 503",
			func(l *library) (link, error) {
				proxy, err := rig.StartProxy(rig.ProxyConfig{Upstream: l.registry.URL()})
				return &flawed{Proxy: proxy}, err
			}},
	}
}

// direct is the registry, which counts by its log.
type direct struct {
	log  *accessLog
	host string
}

var _ link = (*direct)(nil)

func (d *direct) Host() string                                   { return d.host }
func (d *direct) Begin(uint64) error                             { return d.log.mark() }
func (d *direct) Used(ctx context.Context) (int64, int64, error) { return d.log.since(ctx) }
func (d *direct) Close() error                                   { return nil }

// slow counts the bytes that came through, and the requests in the registry's log.
type slow struct {
	*rig.Link
	log    *accessLog
	before int64
}

var _ link = (*slow)(nil)

func (s *slow) Begin(uint64) error {
	s.before = s.Received()
	return s.log.mark()
}

func (s *slow) Used(ctx context.Context) (int64, int64, error) {
	err := await(ctx, settleTime, func() bool { _, open := s.Connections(); return open == 0 })
	if err != nil {
		return 0, 0, fmt.Errorf("count the bytes of the link: connections are still open: %w", err)
	}
	_, requests, err := s.log.since(ctx)
	return s.Received() - s.before, requests, err
}

// flawed counts what its proxy sent.
type flawed struct{ *rig.Proxy }

var _ link = (*flawed)(nil)

func (f *flawed) Begin(seed uint64) error {
	d := &dice{r: rand.New(rand.NewPCG(seed, 0))}
	f.SetScript(func(*http.Request) rig.Fault { return d.next() })
	f.Reset()
	return nil
}

func (f *flawed) Used(ctx context.Context) (int64, int64, error) {
	var bytes, requests int64
	err := await(ctx, settleTime, func() bool {
		bytes, requests = 0, 0
		done := true
		for _, r := range f.Requests() {
			bytes, requests, done = bytes+r.Sent, requests+1, done && r.Done
		}
		return done
	})
	if err == nil && f.Lost() > 0 {
		err = errors.New("there were too many requests")
	}
	if err != nil {
		return 0, 0, fmt.Errorf("count the bytes of the flawed link: %w", err)
	}
	return bytes, requests, nil
}

// dice chooses the faults: exactly one answer of each twenty is slow and one of each hundred a refusal, so that luck has
// as little to say as it can.
type dice struct {
	mu      sync.Mutex
	r       *rand.Rand
	count   int
	slow    int // which of this twenty
	refusal int // which of this hundred
	other   bool
}

// next is the fault for the next request.
func (d *dice) next() rig.Fault {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.count%20 == 0 {
		d.slow = d.count + d.r.IntN(20)
	}
	if d.count%100 == 0 {
		d.refusal = d.count + d.r.IntN(100)
	}
	n := d.count
	d.count++
	switch n {
	case d.refusal:
		d.other = !d.other
		if d.other {
			return rig.TooManyRequests(time.Second)
		}
		return rig.Answer(http.StatusServiceUnavailable)
	case d.slow:
		return rig.Fault{BytesPerSecond: stragglerRate}
	}
	return rig.Fault{BytesPerSecond: slowRate}
}

// settleTime is how long counters may take to have everything.
const settleTime = 30 * time.Second

// await returns when the condition holds, with an error if that takes too long.
func await(ctx context.Context, limit time.Duration, condition func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
