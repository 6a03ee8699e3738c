package restart

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// when lets something happen once, right before the first operation whose name begins so after the journal is in a phase. With
// an error that is not done.
func (a *agent) when(p phase, name string, do func() error) {
	done := false
	a.at = 0
	a.always = func(op string) error {
		if !done && matches(op, name) && strings.Contains(a.read(journalPath), `"`+string(p)+`"`) {
			done = true
			return do()
		}
		return nil
	}
}

// untouched fails the test unless the configuration is the old one and containerd was not restarted since.
func (n *node) untouched(starts int) {
	n.Helper()
	if n.read(usualConfig) != oldConfig || n.ctrd.count() != starts || n.healthy() != "" {
		n.Errorf("something was touched: %d starts, not %d; %s", n.ctrd.count(), starts, n.healthy())
	}
	if left := n.leftovers(); len(left) > 0 {
		n.Errorf("left: %v", left)
	}
}

// abandons runs the agent, and fails the test unless it gives up for that reason, with nothing touched.
func (a *agent) abandons(says string) {
	a.Helper()
	starts := a.ctrd.count()
	if res := a.run(); res.err != nil || res.Kind != Abandoned || !strings.Contains(res.Reason, says) {
		a.Errorf("%v", res)
	}
	a.untouched(starts)
}

// TestDependantAppears has a unit be started meanwhile that goes down with containerd.
func TestDependantAppears(t *testing.T) {
	for name, allowed := range map[string]func(*node){"not listed": func(*node) {}, "listed": listed} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, dependant, allowed)
				if _, err := n.sys.Stop(t.Context(), "needs.service"); err != nil {
					t.Fatal(err)
				}
				a := n.newAgent()
				a.when(armed, "Dependants", func() error {
					_, err := n.sys.Start(t.Context(), "needs.service")
					return err
				})
				a.abandons("needs.service")
			})
		})
	}
}

// TestStrayAppears has systemd move a container's processes meanwhile, as a daemon-reexec does on cgroup v1.
func TestStrayAppears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		a := n.newAgent()
		a.when(armed, "Running", func() error {
			n.ctrd.mu.Lock()
			defer n.ctrd.mu.Unlock()
			n.ctrd.odd.Strays = n.ctrd.tasks[:1]
			return nil
		})
		a.abandons("out of their cgroup")
	})
}

// TestRescueIsStopped has somebody stop the rescue right before the swap. Nothing is written that nobody would take back.
func TestRescueIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		a := n.newAgent()
		a.when(swapping, "RescueState", func() error {
			names, err := n.sys.Rescues(t.Context(), rescuePrefix)
			if err == nil {
				_, err = n.sys.Disarm(t.Context(), names[0])
			}
			return err
		})
		a.abandons("does not wait any more")
	})
}

// TestStopsSlowly has a containerd that takes longer to stop than a restart may. It is not restarted again and again for that.
func TestStopsSlowly(t *testing.T) {
	slowly := func(n *node) { n.unit.StopTakes = restartTimeout + 10*time.Second }
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, slowly)
		if res := n.run(); res.err != nil || res.Kind != RolledBack || n.healthy() != "" || n.read(usualConfig) != oldConfig {
			t.Errorf("%v; %s", res, n.healthy())
		}
		if res := n.run(); res.Kind != Deferred && res.Kind != Refused {
			t.Errorf("and then: %v", res)
		}
		time.Sleep(time.Hour)
		if res := n.run(); res.Kind != Refused {
			t.Errorf("an hour later: %v", res)
		}
	})
	synctest.Test(t, func(t *testing.T) { // the next process waits for an order that is carried out
		n := newNode(t, func(n *node) { n.unit.StopTakes = restartTimeout / 2 })
		a := n.newAgent()
		a.name, a.before = "Restart ", func() error {
			go n.restart()
			time.Sleep(time.Second)
			return a.kill()
		}
		if res := a.run(); !res.killed {
			t.Fatal(res)
		}
		if res := n.run(); res.err != nil || res.Kind != Restarted || n.healthy() != "" {
			t.Errorf("%v; %s", res, n.healthy())
		}
	})
}

// TestContainerEndsByItself has a container end while containerd is away: that is no reason to take a good configuration back.
func TestContainerEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.ctrd.mu.Lock()
		n.ctrd.ended = []string{"one"}
		n.ctrd.mu.Unlock()
		if res := n.run(); res.err != nil || res.Kind != Restarted {
			t.Errorf("%v", res)
		}
	})
}

// TestLinkTakesItsPlace has somebody put a link in the place of the configuration. It is theirs.
func TestLinkTakesItsPlace(t *testing.T) {
	const target = "/etc/containerd/theirs"
	link := func(n *node, text string) {
		n.write(target, text)
		for _, err := range []error{os.Remove(n.at(usualConfig)), os.Symlink(n.at(target), n.at(usualConfig))} {
			if err != nil {
				n.Error(err)
			}
		}
	}
	theirs := func(n *node) bool {
		to, err := os.Readlink(n.at(usualConfig))
		return err == nil && to == n.at(target)
	}
	t.Run("before the swap", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t)
			a := n.newAgent()
			a.when(swapping, "read "+usualConfig, func() error { link(n, oldConfig); return nil })
			if res := a.run(); res.err != nil || res.Kind != Abandoned || !theirs(n) {
				t.Errorf("%v", res)
			}
		})
	})
	t.Run("after the swap", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t)
			n.runTo(configWrite)
			link(n, foreignConfig)
			if res := n.run(); res.err != nil || res.Kind != Abandoned || !theirs(n) {
				t.Errorf("%v", res)
			}
		})
	})
	t.Run("and the rescue acts", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t)
			n.runTo(configWrite)
			link(n, foreignConfig)
			n.wait()
			if n.read(usualConfig) != oldConfig {
				t.Error("the rescue has not acted")
			}
			if res := n.run(); res.err != nil || res.Kind != RolledBack {
				t.Errorf("%v", res)
			}
			if got := n.foreign(); len(got) != 1 || got[0] != "a link to "+n.at(target)+"\n" || n.read(target) != foreignConfig {
				t.Errorf("kept of theirs: %q", got)
			}
		})
	})
	t.Run("uninstall", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t)
			n.run()
			link(n, foreignConfig)
			if res := n.newAgent().uninstall(); res.err != nil || !theirs(n) || n.read(stateDir+"/restart/original-etc-containerd-config.toml") != oldConfig {
				t.Errorf("%v; left: %v", res, n.leftovers())
			}
		})
	})
}

// foreign are the copies of what was somebody else's.
func (n *node) foreign() (texts []string) {
	for _, name := range n.leftovers() {
		if strings.HasPrefix(name, "foreign-") {
			texts = append(texts, n.read(stateDir+"/restart/"+name))
		}
	}
	return texts
}

// TestTheOnlyCopyStays has no room to keep what the rescue has found, until somebody makes some.
func TestTheOnlyCopyStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.runTo(configWrite)
		n.write(usualConfig, foreignConfig)
		n.wait()
		kept := systemd.Kept(usualConfig)
		if n.read(kept) != foreignConfig || n.read(usualConfig) != oldConfig {
			t.Fatalf("the rescue has not kept it: %q", n.read(kept))
		}
		a := n.newAgent()
		a.at = 0
		a.always = func(name string) error {
			if strings.HasPrefix(name, "write "+stateDir+"/restart/foreign-") {
				return errFault
			}
			return nil
		}
		if res := a.run(); res.err == nil || !strings.Contains(res.err.Error(), kept) || n.read(kept) != foreignConfig {
			t.Errorf("%v", res)
		}
		if res := n.run(); res.err != nil || res.Kind != RolledBack || n.has(kept) {
			t.Errorf("%v", res)
		}
		if got := n.foreign(); len(got) != 1 || got[0] != foreignConfig {
			t.Errorf("kept of theirs: %q", got)
		}
	})
}

// TestWrittenAfterTheRescue has the bad configuration come back, and be read, when the rescue has just put the old one in its
// place. What containerd runs with is not what is on the disk, then.
func TestWrittenAfterTheRescue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, with(ignores))
		a := n.newAgent()
		a.when(rollingBack, configWrite, a.kill)
		a.run()
		bad := n.read(usualConfig)
		n.wait()
		if n.read(usualConfig) != oldConfig {
			t.Fatal("the rescue has not acted")
		}
		n.write(usualConfig, bad)
		n.restart()
		time.Sleep(time.Minute)
		if res := n.run(); res.err != nil || res.Kind != RolledBack || n.healthy() != "" {
			t.Errorf("%v; %s", res, n.healthy())
		}
		n.ctrd.mu.Lock()
		defer n.ctrd.mu.Unlock()
		if n.read(usualConfig) != oldConfig || n.ctrd.text != oldConfig {
			t.Error("the old configuration is not in its place, or containerd does not run with it")
		}
	})
}

// TestOldSystemd is about one that does not know ExecCondition: the unit's own commands look whether somebody has written the file.
func TestOldSystemd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.sys.NoExecCondition = true
		n.runTo(configWrite)
		n.write(usualConfig, foreignConfig)
		if err := n.sys.Reboot(); err == nil || !strings.Contains(err.Error(), "sha256sum") {
			t.Errorf("the boot unit does not fail: %v", err)
		}
		time.Sleep(time.Minute)
		if n.read(usualConfig) != foreignConfig {
			t.Error("it was replaced")
		}
	})
}

// TestTheirTemporaryFileStays is about a file that somebody keeps beside the configuration.
func TestTheirTemporaryFileStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		for _, file := range []string{usualConfig + ".tmp", usualConfig + ".bak", usualConfig + "~"} {
			n.write(file, "theirs")
		}
		if res := n.run(); res.err != nil || res.Kind != Restarted {
			t.Errorf("%v", res)
		}
		for _, file := range []string{usualConfig + ".tmp", usualConfig + ".bak", usualConfig + "~"} {
			if n.read(file) != "theirs" {
				t.Errorf("%s is not as it was", file)
			}
		}
	})
}

// TestBegunWithSystemd has an agent that cannot reach the systemd with which another has begun.
func TestBegunWithSystemd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.runTo("Restart ")
		n.cfg = func(c *Config) { c.NoTimer, c.WithoutRescue = true, true }
		if res := n.run(); res.err == nil || !strings.Contains(res.err.Error(), "systemd") {
			t.Errorf("%v", res)
		}
		n.cfg = nil
		if res := n.run(); res.err != nil || res.Kind != Restarted {
			t.Errorf("%v", res)
		}
	})
}

// TestShimHangsAfterTheRestart has a shim stop answering when the new configuration is in force. One more restart would kill its
// containers.
func TestShimHangsAfterTheRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		a, starts := n.newAgent(), n.ctrd.count()
		a.at = 0
		a.always = func(op string) error {
			if op == "Running" && strings.Contains(a.read(journalPath), string(restarting)) {
				return fmt.Errorf("k8s.io: %w", daemon.ErrShimHangs)
			}
			return nil
		}
		if res := a.run(); res.err != nil || res.Kind != Restarted || n.ctrd.count() != starts+1 {
			t.Errorf("%v; %d restarts", res, n.ctrd.count()-starts)
		}
	})
}

// TestSystemdGoesAway has systemd go away before it hears of the restart, until long after. What was not tried may be tried.
func TestSystemdGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		a, starts := n.newAgent(), n.ctrd.count()
		a.at = 0
		a.always = func(op string) error {
			if is := a.read(journalPath); isOfSystemd(op) && (strings.Contains(is, `"restarting"`) || strings.Contains(is, `"rollingBack"`)) {
				return systemd.ErrUnreachable
			}
			return nil
		}
		if res := a.run(); res.err == nil {
			t.Errorf("%v", res)
		}
		if res := n.run(); res.err != nil || res.Kind != Abandoned || n.ctrd.count() != starts {
			t.Errorf("%v; %d restarts", res, n.ctrd.count()-starts)
		}
		if res := n.run(); res.Kind != Restarted {
			t.Errorf("once more: %v", res)
		}
	})
}

// TestVerifiedIsNotWatchedOnceMore has an agent come back so late that the rescue would act while it watches.
func TestVerifiedIsNotWatchedOnceMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, func(n *node) { n.soak = 30 * time.Second })
		a := n.newAgent()
		a.name, a.before = "Disarm", a.kill
		a.run()
		time.Sleep(a.r.after() - n.soak - 20*time.Second)
		if res := n.run(); res.err != nil || res.Kind != Restarted {
			t.Errorf("%v", res)
		}
		if n.wait(); !obeys(n.read(usualConfig)) || n.healthy() != "" {
			t.Errorf("it is taken back: %s", n.healthy())
		}
	})
}

// TestRollbackWithoutItsEnd has a disk on which nothing can be noted any more when the old configuration is back.
func TestRollbackWithoutItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, with(ignores))
		a, starts := n.newAgent(), n.ctrd.count()
		a.at = 0
		a.always = func(op string) error {
			ours := strings.Contains(op, stateDir+"/restart/journal") && strings.Contains(a.read(journalPath), string(restarting))
			if ours && (strings.HasPrefix(op, "write ") || strings.HasPrefix(op, "remove ")) {
				return unix.EROFS
			}
			return nil
		}
		for range 4 {
			if res := a.run(); res.err == nil {
				t.Errorf("%v", res)
			}
			time.Sleep(time.Minute)
		}
		if got := n.ctrd.count() - starts; got != 2 || n.read(usualConfig) != oldConfig {
			t.Errorf("%d restarts, not one and one back", got)
		}
	})
}

// TestSomebodyPutsTheOldOneBack has another tool that manages the configuration, and restarts containerd for it.
func TestSomebodyPutsTheOldOneBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		theirs := func() {
			n.write(usualConfig, oldConfig)
			n.restart()
			time.Sleep(time.Minute)
		}
		for range maxReverts {
			if res := n.run(); res.Kind != Restarted {
				t.Fatal(res)
			}
			theirs()
		}
		res := n.run()
		if res.err != nil || res.Kind != Refused || !strings.Contains(res.Reason, "puts the old configuration back") {
			t.Errorf("%v", res)
		}
		if err := n.newAgent().r.Forgive(); err != nil {
			t.Error(err)
		}
		if res := n.run(); res.Kind != Restarted {
			t.Errorf("forgiven: %v", res)
		}
		theirs()
		for range maxReverts { // now and then is no war
			time.Sleep(revertsIn)
			if res := n.run(); res.Kind != Restarted {
				t.Errorf("a day later: %v", res)
			}
			theirs()
		}
	})
}

// TestTakenBackWithoutAVerdict has a probe that cannot be made after the restart: that says nothing of the configuration, the
// first time.
func TestTakenBackWithoutAVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		for range maxUnsure {
			a := n.newAgent()
			a.at = 0
			a.always = func(op string) error {
				if op == "Probe" && strings.Contains(a.read(journalPath), string(restarting)) {
					return errFault
				}
				return nil
			}
			if res := a.run(); res.err != nil || res.Kind != RolledBack || n.healthy() != "" {
				t.Errorf("%v; %s", res, n.healthy())
			}
			time.Sleep(time.Hour)
		}
		if res := n.run(); res.Kind != Refused {
			t.Errorf("%v", res)
		}
	})
}

// TestDiskFillsUp has no room for anything from the swap on, for the rescue neither.
func TestDiskFillsUp(t *testing.T) {
	for name, back := range map[string]bool{"the agent lives": true, "nobody comes back": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, with(doesNotStart))
				full := false
				a := n.newAgent()
				a.at = 0
				a.always = func(op string) error {
					if !full && strings.Contains(a.read(journalPath), `"restarting"`) {
						full = true
						n.sys.Programs["/bin/cp"] = func(context.Context, systemd.Command) systemd.Result {
							return systemd.Result{ExitCode: 1, Stderr: []byte("No space left on device")}
						}
					}
					switch {
					case full && !back && strings.HasPrefix(op, "CheckCRI"):
						return a.kill()
					case full && strings.HasPrefix(op, "write "):
						return unix.ENOSPC
					}
					return nil
				}
				a.run()
				if !back {
					n.wait()
				}
				if bad := n.healthy(); bad != "" || n.read(usualConfig) != oldConfig {
					t.Errorf("%s; the configuration is %q", bad, n.read(usualConfig))
				}
			})
		})
	}
}

// TestStateIsLost has the state directory emptied in the middle. The rescue does nothing then, and leaves nothing that is in
// the way of the next hotplate.
func TestStateIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.runTo(configWrite)
		for _, f := range []string{journalFile, backupFile, backupSum} {
			if err := os.Remove(n.at(stateDir + "/restart/" + f)); err != nil {
				t.Fatal(err)
			}
		}
		n.wait()
		if n.has(systemd.Kept(usualConfig)) {
			t.Error("the configuration has two names")
		}
	})
}

// TestEveryStepIsLogged reads the log of a restart that goes well, and of one that is put off again and again.
func TestEveryStepIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		a := n.newAgent()
		n.ctrd.mu.Lock()
		n.ctrd.idle = []string{"half"}
		n.ctrd.mu.Unlock()
		for range 3 {
			a.run()
		}
		if got := strings.Count(n.log.String(), "verdict=defer"); got != 1 {
			t.Errorf("what it is put off for is told %d times:\n%s", got, n.log)
		}
		n.ctrd.mu.Lock()
		n.ctrd.idle = nil
		n.ctrd.mu.Unlock()
		if res := a.run(); res.Kind != Restarted {
			t.Fatal(res)
		}
		rest := n.log.String()
		for _, step := range []string{"check=unit verdict=pass", "check=dependants verdict=pass", "check=candidate verdict=pass", "the old configuration is kept",
			"after a reboot in the middle", "comes back by itself unless", "configuration of containerd changed", "restarting containerd",
			"containerd answers again", "kept every container", "obeys the hosts directory", "watching containerd", "the rescue is called off", "restart of containerd ended"} {
			_, after, found := strings.Cut(rest, step)
			if !found {
				t.Fatalf("%q is not in the log, or too early:\n%s", step, n.log)
			}
			rest = after
		}
	})
}
