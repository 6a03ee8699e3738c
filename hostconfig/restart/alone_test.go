package restart

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/supervised"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd/systemdtest"
)

// newAlone is a node without timers, on which that is allowed. Whoever arms or installs something all the same fails the test.
// before, if not nil, is asked before each call, as a Fake's Before.
func newAlone(t *testing.T, f fault, before func(*trial, systemdtest.Call) error) (tr *trial) {
	var made atomic.Bool
	tr = newTrial(t, f, func(n *node) {
		n.cfg = func(c *Config) { c.NoTimer, c.WithoutRescue = true, true }
		n.sys.Before = func(c systemdtest.Call) error {
			if !made.Load() {
				return nil
			}
			if slices.Contains([]string{"Arm", "Enable", "Disable", "Reload"}, c.Method) ||
				c.Method == "RunOnHost" && c.Unit != binary && c.Unit != "/bin/kill" { // the latter is the node's
				t.Errorf("there is no systemd, and it calls %s %s", c.Method, c.Unit)
			}
			if before != nil {
				return before(tr, c)
			}
			return nil
		}
	})
	made.Store(true)
	return tr
}

func TestWithoutRescueIsNotAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTrial(t, good, func(n *node) { n.cfg = func(c *Config) { c.NoTimer = true } })
		res := tr.run()
		if res.err != nil || res.Kind != Refused || !strings.Contains(res.Reason, "restart.withoutRescue") {
			t.Errorf("it ended as %v", res)
		}
		if now := tr.ctrd.count(); tr.read(usualConfig) != oldConfig || now != tr.starts {
			t.Errorf("something was touched: %d starts, before %d", now, tr.starts)
		}
	})
}

func TestWithoutRescue(t *testing.T) {
	for f, want := range map[fault]Kind{
		good: Restarted, slow: Restarted,
		doesNotStart: RolledBack, hangs: RolledBack, criDown: RolledBack, ignores: RolledBack, dies: RolledBack, loses: RolledBack,
	} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tr := newAlone(t, f, nil)
				a, err := tr.newAgent().r.Assess(t.Context())
				if err != nil || a.Verdict() != Note || !slices.ContainsFunc(a.Checks, func(c Check) bool {
					return c.Name == "rescue" && c.Verdict == Note && strings.Contains(c.Detail, "depends on hotplate alone")
				}) {
					t.Errorf("it is assessed as %+v, %v", a.Checks, err)
				}
				res := tr.run()
				if res.err != nil || res.Kind != want {
					t.Errorf("it ended as %v", res)
				}
				time.Sleep(time.Hour)
				tr.settle(res.Kind)
			})
		})
	}
}

// TestWithoutRescueKilledAtEveryOperation has nobody but the next process to put things right.
func TestWithoutRescueKilledAtEveryOperation(t *testing.T) {
	for _, f := range []fault{good, doesNotStart, criDown} {
		for _, reboots := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, reboots %t", f, reboots), func(t *testing.T) {
				t.Parallel()
				everyOperation(t, func(t *testing.T, at int) (hit string) {
					tr := newAlone(t, f, nil)
					a := tr.newAgent()
					a.at, a.after = at, a.kill
					a.run()
					tr.what = "killed after " + a.hit
					if reboots {
						tr.reboot()
						tr.lost = true
					}
					tr.settle("")
					return a.hit
				})
			})
		}
	}
}

// TestCannotCheck is about a program that cannot be run as the daemon would run it.
func TestCannotCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newAlone(t, good, func(_ *trial, c systemdtest.Call) error {
			if c.Method == "RunOnHost" {
				return fmt.Errorf("run: %w", supervised.ErrCannotCheck)
			}
			return nil
		})
		res := tr.run()
		if res.err != nil || res.Kind != Refused || !strings.Contains(res.Reason, supervised.ErrCannotCheck.Error()) {
			t.Errorf("it ended as %v", res)
		}
		if tr.read(usualConfig) != oldConfig {
			t.Error("the configuration was touched")
		}
	})
}

// TestNotStartedAgain is about a supervisor that has gone, and comes back.
func TestNotStartedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var back atomic.Bool
		tr := newAlone(t, good, func(tr *trial, c systemdtest.Call) error {
			if c.Method == "Restart" && !back.Load() {
				tr.kill()
				return fmt.Errorf("%w: nobody does", supervised.ErrNotRestarted)
			}
			return nil
		})
		res := tr.run()
		if res.err != nil || res.Kind != Failed || !strings.Contains(res.Reason, "nobody does") || strings.Contains(res.Reason, "journalctl") {
			t.Errorf("it ended as %v", res)
		}
		if tr.read(usualConfig) != oldConfig {
			t.Error("the old configuration is not back")
		}
		back.Store(true)
		time.Sleep(time.Minute) // systemd starts it again
		tr.settle("")
	})
}
