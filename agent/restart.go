package agent

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

const (
	// A restart that the node is too busy for is tried again after about deferMin, then less and less often, down to every
	// deferMax.
	deferMin = time.Minute
	deferMax = 10 * time.Minute
	// refusedInterval is how often it is looked whether one that was not safe has become so although nothing was told.
	refusedInterval = 10 * time.Minute
	// slotLook is how often it is looked for a leave that was asked for, although nothing was heard of it.
	slotLook = 15 * time.Second
	// recoverInterval is how often an earlier restart that could not be ended is taken up again.
	recoverInterval = time.Minute
	// idleLook bounds how long nothing is looked at: windows are told by the clock, which may be set.
	idleLook = time.Minute
	// firstVerdict bounds how long images wait at the start to see whether containerd must be restarted first.
	firstVerdict = time.Minute
	// recoverHead bounds how long the first pass waits for the end of an earlier restart. Mostly there is none.
	recoverHead = 5 * time.Second
)

// Restarter restarts containerd in a transaction. restart.Restarter is one, and says what the methods do.
type Restarter interface {
	Recover(ctx context.Context) (*restart.Outcome, error)
	Assess(ctx context.Context) (restart.Assessment, error)
	Run(ctx context.Context) (restart.Outcome, error)
	Records() ([]restart.Outcome, error)
}

var _ Restarter = (*restart.Restarter)(nil)

// RestarterConfig is what a Restarter is made for.
type RestarterConfig struct {
	// Settings are those of the config in force, or the defaults before there is one.
	Settings config.Restart
	// Probe is the agent's own: probes must not run at once.
	Probe func(context.Context) (probe.Verdict, error)
	// Slot must be called right before the daemon is touched, when nothing else stands in the way; release when the restart
	// has ended. Its error means that it is not to be done any more.
	Slot func(context.Context) (release func(), err error)
}

// restarts restarts containerd where only that makes it read the hosts directory, when the config lets it. Its fields
// belong to the goroutine that calls step, but for need, stats and the channels.
type restarts struct {
	cfg   Config
	log   *slog.Logger
	need  *need
	pulls pulls
	slots slots
	probe func(context.Context) (probe.Verdict, error)
	stats *restartStats

	recovered chan struct{} // closed when what an earlier agent left has been looked at

	turn chan struct{} // holds one token; whoever has it may use the next two
	made Restarter     // nil before there is one
	is   config.Restart

	retry       *backoff.ExponentialBackOff
	due         time.Time // when it is tried next
	refused     bool      // it was not safe when it was last looked at
	stuck       bool      // containerd does not work since an earlier one: a person has to look
	open        bool      // an earlier one may not have ended
	openAt      time.Time // when that is looked at again
	asked       bool      // the leave is asked for: nothing else stood in the way
	interrupted time.Time // when pulls were interrupted last
	started     time.Time
}

func newRestarts(cfg Config, n *need, p pulls, s slots, probe func(context.Context) (probe.Verdict, error)) *restarts {
	r := &restarts{
		cfg: cfg, log: cfg.Log, need: n, pulls: p, slots: s, probe: probe, stats: newRestartStats(),
		recovered: make(chan struct{}), turn: make(chan struct{}, 1), started: time.Now(),
		retry: backoff.NewExponentialBackOff(backoff.WithInitialInterval(deferMin), backoff.WithMaxInterval(deferMax),
			backoff.WithMultiplier(2), backoff.WithMaxElapsedTime(0)),
	}
	r.turn <- struct{}{}
	return r
}

// run works until ctx ends. A restart that has begun goes on to a point from which the node heals by itself.
func (r *restarts) run(ctx context.Context) {
	r.pulls.Pause("waits until it is known whether containerd must be restarted first")
	_ = r.recover(ctx) // tried again
	close(r.recovered)
	for ctx.Err() == nil {
		timer := time.NewTimer(r.step(ctx))
		select {
		case <-ctx.Done():
		case <-r.need.kick:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// awaitRecovered waits until what an earlier agent left has been looked at. Where that takes long, passes may begin; they
// conclude nothing about the daemon.
func (r *restarts) awaitRecovered(ctx context.Context) {
	select {
	case <-r.recovered:
	case <-time.After(recoverHead):
		r.need.tell()
	case <-ctx.Done():
	}
}

// step does what there is to do now, and returns when to look again.
func (r *restarts) step(ctx context.Context) time.Duration {
	f := r.need.take()
	if f.fresh {
		r.retry.Reset()
		r.due, r.refused, r.interrupted = time.Time{}, false, time.Time{}
	}
	if r.open && !time.Now().Before(r.openAt) {
		_ = r.recover(ctx) // tried again
	}
	if !f.known && time.Since(r.started) < firstVerdict {
		return firstVerdict - time.Since(r.started)
	}
	wait := r.act(ctx, f)
	r.pulls.Resume()
	if r.open {
		wait = min(wait, time.Until(r.openAt))
	}
	return max(wait, 0)
}

// act restarts the daemon if that is needed and may be done now, and returns when to look again.
func (r *restarts) act(ctx context.Context, f facts) time.Duration {
	now := time.Now()
	if may := f.why != "" && f.settings != nil && !r.stuck && f.settings.Policy != config.RestartNever &&
		f.settings.Window.Contains(now); !may {
		r.giveBack()
	}
	switch {
	case f.why == "" || f.settings == nil || r.stuck:
		return idleLook
	case f.settings.Policy == config.RestartNever:
		r.need.say(report.RestartForbidden, "hotplate does not restart it, because restart.policy is Never. "+f.byHand+
			", or set restart.policy to WhenNeeded", time.Time{})
		return idleLook
	case !f.settings.Window.Contains(now):
		opens := f.settings.Window.Opens(now)
		r.due = opens // and not later, whatever came of it when the window was open last
		r.need.say(report.OutsideWindow, "hotplate restarts it when restart.window opens, on "+
			opens.Format("Mon 2006-01-02 15:04 MST"), opens)
		return min(opens.Sub(now), idleLook)
	case !now.Before(r.due):
		if r.attempt(ctx, f); r.asked {
			return slotLook // or when the coordinator has said something about it
		}
	}
	return min(time.Until(r.due), idleLook)
}

// attempt restarts the daemon if that can be done now, and takes note of what came of it.
func (r *restarts) attempt(ctx context.Context, f facts) {
	if r.open {
		if err := r.recover(ctx); err != nil {
			r.conclude(restart.Outcome{}, err)
		}
		if time.Now().Before(r.due) || r.stuck {
			return
		}
	}
	if !r.enter(ctx) {
		return
	}
	o, err := r.try(ctx, *f.settings)
	r.readRecords()
	r.leave()
	if errors.Is(err, errNoSlot) || ctx.Err() != nil { // else the next start goes on
		return
	}
	r.conclude(o, err)
	r.giveBack() // now that it is told what came of it
}

// giveBack gives the leave back, or asks no more.
func (r *restarts) giveBack() {
	r.asked = false
	r.slots.free()
}

// recover ends what an earlier agent has left, whatever the policy. An error means that this was not possible.
func (r *restarts) recover(ctx context.Context) error {
	if !r.enter(ctx) {
		return ctx.Err()
	}
	settings := defaults()
	if s := r.need.facts().settings; s != nil {
		settings = *s
		settings.Soak = defaults().Soak // the node's own timer is under way, and does not wait for ours
	}
	settings.WithoutRescue = true // where there is no systemd, what was begun was allowed
	t, err := r.restarter(ctx, settings)
	var o *restart.Outcome
	if err == nil {
		end := r.need.begin("hotplate ends an earlier restart of containerd")
		o, err = t.Recover(ctx)
		same := r.stuck && o != nil && o.Kind == restart.Failed // it was only looked at
		end((o != nil || err != nil) && !same)
		r.readRecords()
		if errors.Is(err, restart.ErrNeedsSystemd) {
			r.made = nil // it may be there the next time
		}
		if err != nil && ctx.Err() == nil {
			r.log.Error("an earlier restart of containerd is not ended; trying again every minute", "err", err)
		}
	}
	r.leave()
	r.open, r.openAt = err != nil, time.Now().Add(recoverInterval)
	switch {
	case o != nil && ctx.Err() == nil:
		r.conclude(*o, nil)
	case err == nil:
		r.stuck = false
	}
	return err
}

// errNotNow means that a restart is not to be done any more when it could begin.
var errNotNow = errors.New("the config or the window does not let it begin any more, or it is not needed any more")

// slot lets everybody know that the daemon may be away until release. Since it was decided, much time may have gone by. The
// leave is there already.
func (r *restarts) slot(context.Context) (release func(), err error) {
	f := r.need.facts()
	if f.why == "" || f.settings.Policy == config.RestartNever || !f.settings.Window.Contains(time.Now()) {
		return nil, errNotNow
	}
	end := r.need.begin("hotplate restarts it now")
	r.need.tell()
	return func() { end(true) }, nil
}

// enter waits for the turn to use the Restarter. It reports false when ctx has ended first.
func (r *restarts) enter(ctx context.Context) bool {
	select {
	case <-r.turn:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *restarts) leave() { r.turn <- struct{}{} }

// restarter is one for these settings. The caller has the turn.
func (r *restarts) restarter(ctx context.Context, settings config.Restart) (Restarter, error) {
	if r.made != nil && reflect.DeepEqual(r.is, settings) {
		return r.made, nil
	}
	t, err := r.cfg.NewRestarter(ctx, RestarterConfig{Settings: settings, Probe: r.probe, Slot: r.slot})
	if err != nil {
		return nil, err
	}
	r.made, r.is = t, settings
	return t, nil
}

// readRecords reads how earlier restarts ended. The caller has the turn.
func (r *restarts) readRecords() {
	if r.made == nil {
		return
	}
	all, err := r.made.Records()
	if err != nil {
		r.log.Warn("how earlier restarts ended is not known", "err", err)
	}
	r.need.recorded(all)
}

// defaults are the settings before there is a config.
func defaults() config.Restart {
	c := config.Config{}
	c.Default()
	return c.Restart
}
