package restart

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// uninstall is Uninstall by the agent's process.
func (a *agent) uninstall() result {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a.cancel = cancel
	res := result{killed: true}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d, err := a.r.Uninstall(ctx)
		res = result{Outcome: deref(d.Ended), err: err}
	}()
	<-done
	res.killed = res.killed || a.dead
	return res
}

// uninstalled fails the test unless nothing of a Restarter's is on the node any more.
func (n *node) uninstalled() {
	n.Helper()
	if unit, more, err := Installed(n.at(stateDir)); unit || more || err != nil {
		n.Errorf("installed: %v, more: %v, %v", unit, more, err)
	}
	for _, file := range []string{bootFile, "/etc/systemd/system/multi-user.target.wants/" + BootUnit,
		"/etc/systemd/system/" + unitName + ".wants/" + BootUnit, stateDir + "/restart/" + recordFile,
		stateDir + "/restart/" + poisonFile, stateDir + "/restart/" + originalsFile, stateDir + "/restart/" + BootUnit} {
		if n.has(file) {
			n.Errorf("%s is left", file)
		}
	}
	if left := n.leftovers(); len(left) > 0 {
		n.Errorf("left: %v", left)
	}
	if bad := n.healthy(); bad != "" {
		n.Error(bad)
	}
}

func TestUninstallTakesAwayWhatItHasInstalled(t *testing.T) {
	for f, want := range map[fault]Kind{good: Restarted, doesNotStart: RolledBack} {
		t.Run(string(f), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, with(f))
				if res := n.run(); res.Kind != want {
					t.Fatal(res)
				}
				if unit, more, err := Installed(n.at(stateDir)); !unit || more != (want == Restarted) || err != nil || !n.has(bootFile) {
					t.Fatalf("installed: %v, more: %v, %v; the boot unit is there: %v", unit, more, err, n.has(bootFile))
				}
				starts := n.ctrd.count()
				for range 2 {
					if res := n.newAgent().uninstall(); res.err != nil || res.Kind != "" {
						t.Errorf("%v", res)
					}
					n.uninstalled()
				}
				if n.read(usualConfig) != oldConfig || n.ctrd.count() != starts {
					t.Error("containerd's configuration is not as it was, or it was restarted")
				}
			})
		})
	}
}

func TestUninstallEndsAnOpenTransaction(t *testing.T) {
	for at, want := range map[string]Kind{configWrite: Abandoned, "Restart ": Restarted, "Arm": Abandoned} {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t)
				n.runTo(at)
				if unit, more, err := Installed(n.at(stateDir)); !unit || !more || err != nil {
					t.Errorf("installed: %v, more: %v, %v", unit, more, err)
				}
				if res := n.newAgent().uninstall(); res.err != nil || res.Kind != want {
					t.Errorf("%v, want %s", res, want)
				}
				n.uninstalled()
				n.wait() // and no rescue acts later
				n.uninstalled()
			})
		})
	}
}

// Only systemd can remove what systemd has installed.
func TestUninstallWithoutTheSystemdThatWasThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.run()
		n.cfg = func(cfg *Config) { cfg.NoTimer = true }
		if res := n.newAgent().uninstall(); res.err == nil || !strings.Contains(res.err.Error(), "systemd has installed it") {
			t.Errorf("%v", res)
		}
		if !n.has(bootFile) || !n.has(stateDir+"/restart/"+BootUnit) {
			t.Error("it is taken for gone")
		}
		n.cfg = nil
		if res := n.newAgent().uninstall(); res.err != nil {
			t.Errorf("%v", res)
		}
		n.uninstalled()
	})
}

// Where containerd does not work, the rescue and what it needs must stay.
func TestUninstallLeavesADaemonThatDoesNotWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, with(doesNotStart))
		a := n.newAgent()
		a.name = "Restart "
		a.before = func() error {
			n.ctrd.mu.Lock()
			defer n.ctrd.mu.Unlock()
			n.ctrd.faults[false] = doesNotStart // not with the old one either, from now on
			return nil
		}
		if res := a.run(); res.Kind != Failed {
			t.Fatal(res)
		}
		if res := n.newAgent().uninstall(); res.Kind != Failed {
			t.Errorf("%v", res)
		}
		if !n.has(bootFile) || !n.has(journalPath) {
			t.Error("the boot unit or the journal is gone")
		}
		n.ctrd.mu.Lock()
		n.ctrd.faults[false] = good
		n.ctrd.mu.Unlock()
		time.Sleep(time.Minute) // systemd starts it again
		if res := n.newAgent().uninstall(); res.err != nil || res.Kind != RolledBack {
			t.Errorf("%v", res)
		}
		n.uninstalled()
	})
}

// A kill or an error at any operation leaves something that the next call takes away.
func TestUninstallMayBeInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.run()
		whole := n.newAgent()
		whole.uninstall()
		if whole.ops < 5 {
			t.Fatalf("it takes %d operations", whole.ops)
		}
		time.Sleep(time.Minute)
		for at := range whole.ops {
			for _, how := range []string{"kill", "error"} {
				n.write(usualConfig, oldConfig)
				n.sys.Restart(t.Context(), unitName) //nolint:errcheck // healthy tells
				time.Sleep(time.Minute)
				if res := n.run(); res.Kind != Restarted {
					t.Fatal(res)
				}
				a := n.newAgent()
				a.at = at
				a.after = a.kill
				if how == "error" {
					a.before, a.after = func() error { return fmt.Errorf("no luck with %s", a.hit) }, nil
				}
				res := a.uninstall()
				if told := res.err != nil || strings.Contains(a.hit, "/sync "); how == "error" && !told {
					t.Errorf("an error of %s is not told", a.hit)
				}
				if res := n.newAgent().uninstall(); res.err != nil {
					t.Errorf("%s of %s: %v", how, a.hit, res)
				}
				n.uninstalled()
			}
		}
	})
}
