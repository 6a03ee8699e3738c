package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/hostconfig/configtoml"
	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

// fakeRestarter restarts the fake daemon. Like the real one, Run looks first, asks for the leave and looks again. It fails the
// test when it is used by two at once, or when Run comes before Recover.
type fakeRestarter struct {
	t      testing.TB
	one    oneAtATime
	daemon *fakeDaemon
	prober *fakeProber

	mu  sync.Mutex // guards what follows
	cfg RestarterConfig
	// absent is why containerd cannot be restarted from here.
	absent error
	did    []string
	// left is what an earlier agent has left; Recover takes tries and then ends so.
	left       *restart.Outcome
	leftErr    error
	recovering time.Duration
	recovered  bool
	// checks are what keeps it from restarting, busy whether the node is; failed is what Assess and Run fail with.
	checks []restart.Check
	busy   func() bool
	edit   configtoml.Edit
	failed error
	// away is how long the daemon is away, soaks how long it is watched after that, ends how that ends: Restarted if not said.
	away, soaks time.Duration
	ends        restart.Outcome
	records     []restart.Outcome
	made        []config.Restart
}

// errNoSystemd is why containerd cannot be restarted where systemd is not reached.
var errNoSystemd = errors.New("systemd of the node cannot be reached")

// errAway is what a daemon that is down fails with.
var errAway = errors.New("no such socket")

// busy puts a restart off, unsafe and before refuse it.
var (
	busy   = restart.Check{Name: "busy", Verdict: restart.Defer, Detail: "images are being pulled"}
	unsafe = restart.Check{Name: "unit", Verdict: restart.Refuse, Detail: "KillMode=mixed"}
	before = restart.Check{Name: "history", Verdict: restart.Refuse, Detail: "it was tried and taken back"}
)

var _ Restarter = (*fakeRestarter)(nil)

func (r *fakeRestarter) madeFor(cfg RestarterConfig) (Restarter, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.absent != nil {
		return nil, r.absent
	}
	r.cfg = cfg
	r.made = append(r.made, cfg.Settings)
	return r, nil
}

func (r *fakeRestarter) set(f func(*fakeRestarter)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

func (r *fakeRestarter) note(what string) {
	r.set(func(r *fakeRestarter) { r.did = append(r.did, what) })
}

// did fails the test unless just this was asked of the restarter since it was last looked at.
func (n *node) restarterDid(want ...string) {
	n.t.Helper()
	var got []string
	n.restarter.set(func(r *fakeRestarter) { got, r.did = r.did, nil })
	if diff := cmp.Diff(strings.Join(want, "\n"), strings.Join(got, "\n")); diff != "" {
		n.t.Errorf("asked of the restarter (-want +got):\n%s", diff)
	}
}

func (r *fakeRestarter) Recover(ctx context.Context) (*restart.Outcome, error) {
	defer r.one.enter(r.t, "Restarter")()
	r.note("recover")
	r.mu.Lock()
	left, err, takes := r.left, r.leftErr, r.recovering
	r.recovered = true
	r.mu.Unlock()
	if takes > 0 {
		r.takeDown(ctx, takes)
	}
	if left == nil || err != nil {
		return nil, err
	}
	r.set(func(r *fakeRestarter) {
		if left.Kind != restart.Failed {
			r.left = nil
		}
		r.records = append([]restart.Outcome{*left}, r.records...)
	})
	return left, nil
}

func (r *fakeRestarter) Assess(ctx context.Context) (restart.Assessment, error) {
	defer r.one.enter(r.t, "Restarter")()
	r.note("assess")
	return r.assess(ctx)
}

func (r *fakeRestarter) assess(ctx context.Context) (restart.Assessment, error) {
	r.mu.Lock()
	a, probe, err := restart.Assessment{Checks: slices.Clone(r.checks), Edit: r.edit}, r.cfg.Probe, r.failed
	if r.busy != nil && r.busy() {
		a.Checks = append(a.Checks, busy)
	}
	r.mu.Unlock()
	if err != nil {
		return a, err
	}
	v, err := probe(ctx)
	a.Live = v.Live
	a.Checks = append(a.Checks, restart.Check{Name: "need", Verdict: restart.Pass, Detail: "it does not read the directory"})
	return a, err
}

func (r *fakeRestarter) Run(ctx context.Context) (restart.Outcome, error) {
	defer r.one.enter(r.t, "Restarter")()
	r.note("run")
	r.mu.Lock()
	slot, away, soaks, ends := r.cfg.Slot, r.away, r.soaks, r.ends
	if !r.recovered {
		r.t.Error("Run before Recover")
	}
	r.mu.Unlock()
	for range 2 {
		a, err := r.assess(ctx)
		if err != nil {
			return restart.Outcome{}, err
		}
		if o, over := a.Outcome(); over {
			return o, nil
		}
		if slot == nil {
			break
		}
		release, err := slot(ctx)
		if err != nil {
			return restart.Outcome{}, err
		}
		defer release()
		slot = nil
	}
	r.note("restart")
	began := time.Now()
	r.takeDown(ctx, away)
	if ends.Kind == "" {
		ends = restart.Outcome{Kind: restart.Restarted, Reason: "config_path is set"}
	}
	ends.Time, ends.Downtime = time.Now(), time.Since(began)
	if ends.Kind == restart.Restarted {
		r.prober.set(func(p *fakeProber) { p.verdict = probe.Verdict{Live: true, UserAgent: "containerd/2.4.2"} })
	}
	select {
	case <-time.After(soaks):
	case <-ctx.Done():
		return restart.Outcome{}, ctx.Err()
	}
	r.set(func(r *fakeRestarter) { r.records = append([]restart.Outcome{ends}, r.records...) })
	return ends, nil
}

// takeDown makes the daemon another process, which answers after a while.
func (r *fakeRestarter) takeDown(_ context.Context, away time.Duration) {
	r.daemon.set(func(d *fakeDaemon) { d.err = errAway })
	time.Sleep(away) // as the real one, it does not stop in the middle
	r.daemon.set(func(d *fakeDaemon) {
		d.info, d.err = daemon.Info{Version: d.info.Version, UUID: d.info.UUID, PID: d.info.PID + 1}, nil
	})
}

func (r *fakeRestarter) Records() ([]restart.Outcome, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.records), nil
}
