package restart

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd/systemdtest"
)

// TestRollbackIsNotGoneOnFrom kills an agent that has begun to take back what looks well now.
func TestRollbackIsNotGoneOnFrom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, with(loses))
		a := n.newAgent()
		rolledBack := false
		a.at = 0
		a.always = func(name string) error {
			if rolledBack && name == configWrite { // nothing is taken back yet
				return a.kill()
			}
			rolledBack = rolledBack || strings.Contains(n.read(journalPath), string(rollingBack))
			return nil
		}
		if res := a.run(); !res.killed || !obeys(n.read(usualConfig)) {
			t.Fatalf("%v", res)
		}
		if res := n.run(); res.err != nil || res.Kind != RolledBack || !strings.Contains(res.Reason, "containers were lost") {
			t.Errorf("%v", res)
		}
	})
}

// TestTheirsIsNotTouched has somebody else write what does not work, before hotplate has written anything.
func TestTheirsIsNotTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		a := n.newAgent()
		a.at = 0
		a.always = func(name string) error {
			if name == "read "+usualConfig && strings.Contains(n.read(journalPath), string(swapping)) {
				n.write(usualConfig, isBroken)
				n.kill()
			}
			return nil
		}
		if res := a.run(); res.err != nil || res.Kind != Abandoned {
			t.Errorf("%v", res)
		}
		if n.read(usualConfig) != isBroken || len(n.leftovers()) > 0 {
			t.Errorf("what they wrote was replaced; left: %v", n.leftovers())
		}
	})
}

// TestTheirsMayBeAboutToStart has somebody else write a good configuration and restart containerd with it, when hotplate has
// just found out that its own is bad.
func TestTheirsMayBeAboutToStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, with(ignores))
		a := n.newAgent()
		began := false
		a.at = 0
		a.always = func(string) error {
			if !began && strings.Contains(n.read(journalPath), string(rollingBack)) {
				began = true
				n.write(usualConfig, foreignConfig)
				go n.restart()
				time.Sleep(10 * time.Millisecond)
			}
			return nil
		}
		if res := a.run(); res.err != nil || res.Kind != RolledBack {
			t.Errorf("%v", res)
		}
		if n.read(usualConfig) != foreignConfig || n.healthy() != "" {
			t.Errorf("what they wrote was replaced: %s", n.healthy())
		}
	})
}

// TestRescueIsAwaited has an agent look when the rescue is in its middle: one that was paused, and one that has just started.
func TestRescueIsAwaited(t *testing.T) {
	for _, dies := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t, func(n *node) {
				n.sys.Programs["/bin/sync"] = func(ctx context.Context, _ systemd.Command) systemd.Result {
					select {
					case <-time.After(2 * time.Second):
					case <-ctx.Done():
					}
					return systemd.Result{}
				}
			})
			a := n.newAgent()
			a.name = "Restart "
			a.after = func() error {
				if dies {
					return a.kill()
				}
				time.Sleep(a.r.after())
				return nil
			}
			res := a.run()
			if dies {
				time.Sleep(a.r.after())
				res = n.run()
			}
			if res.err != nil || res.Kind != RolledBack || !res.Rescued {
				t.Errorf("dies %v: %v, rescued: %v", dies, res, res.Rescued)
			}
			if bad := n.healthy(); bad != "" || n.read(usualConfig) != oldConfig {
				t.Errorf("dies %v: the old configuration is not in force: %s", dies, bad)
			}
			if left := n.leftovers(); len(left) > 0 {
				t.Errorf("dies %v: left: %v", dies, left)
			}
		})
	}
}

// TestBootLeavesTheirs shows that after a reboot nothing is put in the place of what somebody else has written.
func TestBootLeavesTheirs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.runTo(configWrite)
		n.write(usualConfig, foreignConfig)
		n.reboot()
		if n.read(usualConfig) != foreignConfig {
			t.Error("it was replaced")
		}
		if res := n.run(); res.err != nil || res.Kind != Abandoned || n.read(usualConfig) != foreignConfig {
			t.Errorf("%v", res)
		}
	})
}

// TestStartedOnceMore has somebody restart containerd while it is watched, which looks well all the time.
func TestStartedOnceMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		a := n.newAgent()
		time.AfterFunc(1500*time.Millisecond, n.restart)
		if res := a.run(); res.Kind != RolledBack || !strings.Contains(res.Reason, "started once more") {
			t.Errorf("%v", res)
		}
	})
}

// TestDependantIsStartedAgain has a unit that does not come back by itself after a restart that went well.
func TestDependantIsStartedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		starts := 0
		n := newNode(t, dependant, listed, func(n *node) {
			n.others[0].Restart = "no"
			n.others[0].OnStart = func() systemdtest.Outcome {
				if starts++; starts == 2 {
					return systemdtest.Exit
				}
				return systemdtest.Run
			}
		})
		if res := n.run(); res.err != nil || res.Kind != Restarted || n.healthy() != "" {
			t.Errorf("%v; %s", res, n.healthy())
		}
	})
}

// TestStartLimit kills an agent whose configuration makes containerd use up its starts within a second.
func TestStartLimit(t *testing.T) {
	often := func(n *node) { n.unit.RestartDelay, n.unit.StartLimitBurst = 100*time.Millisecond, minBurst }
	everyOperation(t, func(t *testing.T, at int) (hit string) {
		for _, s := range some(at) {
			hit = killedAt(t, doesNotStart, at, "after", s, often)
		}
		return hit
	})
}

// TestStartLimitIsReached has an agent come back when systemd has just given up.
func TestStartLimitIsReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, with(doesNotStart), func(n *node) { n.unit.RestartDelay = 100 * time.Millisecond })
		n.runTo("Restart ")
		time.Sleep(2 * time.Second)
		if u := n.state(); u.ActiveState != "failed" {
			t.Fatalf("containerd is %s/%s", u.ActiveState, u.SubState)
		}
		if res := n.run(); res.err != nil || res.Kind != RolledBack || n.healthy() != "" {
			t.Errorf("%v; %s", res, n.healthy())
		}
	})
}

// TestSomebodyElseHealsIt has the restart with the old configuration time out, while somebody else is faster.
func TestSomebodyElseHealsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, with(doesNotStart))
		a := n.newAgent()
		a.at = 0
		a.always = func(name string) error {
			if strings.HasPrefix(name, "Restart ") && n.read(usualConfig) == oldConfig {
				n.restart()
				time.Sleep(restartTimeout)
				return context.DeadlineExceeded
			}
			return nil
		}
		if res := a.run(); res.err != nil || res.Kind != RolledBack || n.healthy() != "" {
			t.Errorf("%v; %s", res, n.healthy())
		}
	})
}

// TestBusySystemd has systemd show for a while how the start before has ended.
func TestBusySystemd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, with(doesNotStart))
		a := n.newAgent()
		a.at = 0
		a.always = func(name string) error {
			if strings.HasPrefix(name, "Restart ") {
				time.Sleep(time.Second)
			}
			return nil
		}
		if res := a.run(); res.err != nil || res.Kind != RolledBack || n.healthy() != "" {
			t.Errorf("%v; %s", res, n.healthy())
		}
	})
}

// TestRestartIsLost has systemd never hear of the restart. What was not tried may be tried again.
func TestRestartIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		starts := n.ctrd.count()
		a := n.newAgent()
		a.name, a.before = "Restart ", func() error { return systemd.ErrConnectionLost }
		if res := a.run(); res.err != nil || res.Kind != Abandoned || !strings.Contains(res.Reason, "was not restarted") {
			t.Errorf("%v", res)
		}
		if n.ctrd.count() != starts || n.read(usualConfig) != oldConfig {
			t.Error("containerd was touched")
		}
		if res := n.run(); res.Kind != Restarted {
			t.Errorf("once more: %v", res)
		}
	})
}

// TestRescueWaitsForTheSlowest has everything take as long as it may. The rescue must not act while all goes well.
func TestRescueWaitsForTheSlowest(t *testing.T) {
	for f, want := range map[fault]Kind{good: Restarted, ignores: RolledBack} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t, with(f), dependant, func(n *node) {
				n.unit.StartTakes = restartTimeout - time.Second
				n.others[0].StartTakes = dependantTimeout - time.Second
				n.soak = 10 * time.Minute
				n.ctrd.criTakes = criTimeout - time.Second
				n.cfg = func(c *Config) {
					c.Dependants = []string{"needs.service"}
					c.Probe = func(ctx context.Context) (probe.Verdict, error) {
						time.Sleep(15 * time.Second) // as long as package probe lets it
						return n.ctrd.probe(ctx)
					}
					c.Daemon = slowDaemon{c.Daemon}
				}
			})
			if res := n.run(); res.err != nil || res.Kind != want || res.Rescued {
				t.Errorf("%v, rescued: %v", res, res.Rescued)
			}
		})
	}
}

// slowDaemon takes its time to say what runs.
type slowDaemon struct{ Daemon }

func (d slowDaemon) Running(ctx context.Context) (daemon.Running, error) {
	time.Sleep(10 * time.Second)
	return d.Daemon.Running(ctx)
}

// TestCallerGivesUpWhileItGoesOn cancels an agent that has taken up what another has left, while containerd is not ready yet.
func TestCallerGivesUpWhileItGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, with(slow))
		n.runTo("Restart ")
		a := n.newAgent()
		time.AfterFunc(time.Second, func() { a.cancel() })
		if res := a.run(); !errors.Is(res.err, errNotWatched) {
			t.Errorf("%v", res)
		}
		if res := n.run(); res.err != nil || res.Kind != Restarted {
			t.Errorf("%v", res)
		}
	})
}
