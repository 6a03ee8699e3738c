package link

import (
	"context"
	"math/rand/v2"
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

// Rhythm is when one node reports. It is for one goroutine.
type Rhythm struct {
	retry *backoff.ExponentialBackOff
	apart time.Time // since when the coordinator goes by another config; zero while it does not
}

// NewRhythm is that of a node that has had no answer yet.
func NewRhythm() *Rhythm {
	return &Rhythm{retry: backoff.NewExponentialBackOff(backoff.WithInitialInterval(retryMin), backoff.WithMaxInterval(retryMax),
		backoff.WithRandomizationFactor(jitter), backoff.WithMultiplier(2), backoff.WithMaxElapsedTime(0))}
}

// Answered is how long to wait after the answer d to r, if nothing changes.
func (h *Rhythm) Answered(d report.Directive, r report.NodeReport) time.Duration {
	h.retry.Reset()
	wait := idleInterval
	if busy(r) {
		wait = busyInterval
	}
	if d.NextReport > 0 {
		wait = d.NextReport
	}
	switch {
	case d.ConfigHash == r.Config.Hash:
		h.apart = time.Time{}
	case h.apart.IsZero():
		h.apart = time.Now()
		fallthrough
	case time.Since(h.apart) < apartFor:
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

// Failed is how long to wait where there was no answer, and at least as long as the coordinator wants to be left alone, within
// bounds.
func (h *Rhythm) Failed(alone time.Duration) time.Duration {
	return max(h.retry.NextBackOff(), min(alone, mostInterval))
}

// Moved forgets how often the coordinator was asked where it is no more.
func (h *Rhythm) Moved() { h.retry.Reset() }

// Change waits before a change is reported: until a second after the last report, which began then, and a moment of this node's own.
func Change(ctx context.Context, began time.Time) { soon(ctx, began, spread) }

// Move waits before a coordinator is asked that is somewhere else, as Change does, but longer.
func Move(ctx context.Context, began time.Time) { soon(ctx, began, movedSpread) }

func soon(ctx context.Context, began time.Time, within time.Duration) {
	timer := time.NewTimer(max(time.Until(began.Add(leastInterval)), 0) + rand.N(within))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
