package agent

import (
	"context"
	"errors"
	"time"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

const (
	// drainGrace is for how long pulls of hotplate's own may go on when they are in the way of a restart.
	drainGrace = time.Minute
	// quietFor is for how long images wait after that for the node to come to rest: what a pull has left in containerd
	// counts as one under way for two minutes (hostconfig/restart). It is tried every quietInterval meanwhile.
	quietFor      = 3 * time.Minute
	quietInterval = 15 * time.Second
	// interruptInterval is how often at most pulls are interrupted: on a node that others keep busy nothing is gained.
	interruptInterval = time.Hour
)

// pulls are the images, as far as a restart must know of them. images.Worker has them, and says what the methods do.
type pulls interface {
	Pause(why string)
	Resume()
	Idle() bool
	Drain(ctx context.Context, grace time.Duration) error
}

// errNoSlot means that a restart waits for the leave.
var errNoSlot = errors.New("there is no leave to restart yet")

// try restarts the daemon if that can be done now. The leave for it is asked for when nothing else stands in the way, and
// nothing stops meanwhile. Then it leaves images in a pause, in which none gets in the way; one that is under way is interrupted
// only where it is, and only so often. The caller has the turn.
func (r *restarts) try(ctx context.Context, settings config.Restart) (restart.Outcome, error) {
	t, err := r.restarter(ctx, settings)
	if err != nil {
		return restart.Outcome{}, err
	}
	inTheWay, taken := false, r.slots.take()
	if !taken && r.asked {
		return r.waitForSlot()
	}
	if idle := r.pulls.Idle(); r.refused || !idle || !taken {
		a, err := t.Assess(ctx)
		if err != nil {
			return restart.Outcome{}, err
		}
		o, over := a.Outcome()
		inTheWay = o.Kind == restart.Deferred && !idle && time.Since(r.interrupted) >= interruptInterval
		if over && !inTheWay {
			return o, nil
		}
	}
	if !taken && !r.slots.take() {
		return r.waitForSlot()
	}
	r.pulls.Pause("waits for a restart of containerd")
	if inTheWay {
		return r.interrupt(ctx, t)
	}
	return t.Run(ctx)
}

// waitForSlot asks for the leave. It is looked for again whenever the coordinator has said something about it.
func (r *restarts) waitForSlot() (restart.Outcome, error) {
	r.asked = true
	r.need.say(report.WaitsForSlot, "hotplate restarts it when the coordinator gives the leave: "+r.slots.ask(), time.Time{})
	return restart.Outcome{}, errNoSlot
}

// interrupt lets pulls of hotplate's own end, or ends them, and restarts the daemon when the node has come to rest.
func (r *restarts) interrupt(ctx context.Context, t Restarter) (restart.Outcome, error) {
	r.interrupted = time.Now()
	r.need.say(report.RestartDeferred, "pulls of hotplate's own are in the way: they may end within a minute, and go on "+
		"after the restart", time.Now().Add(drainGrace))
	if err := r.pulls.Drain(ctx, drainGrace); err != nil {
		return restart.Outcome{}, err
	}
	for end := time.Now().Add(quietFor); ; {
		o, err := t.Run(ctx)
		if err != nil || o.Kind != restart.Deferred || !time.Now().Before(end) {
			return o, err
		}
		select {
		case <-time.After(quietInterval):
		case <-ctx.Done():
			return restart.Outcome{}, ctx.Err()
		}
	}
}
