package restart

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd/systemdtest"
)

// elsewhere is a state directory of another hotplate.
const elsewhere = "/var/lib/other"

// otherAgent is one with another state directory.
func (n *node) otherAgent() *agent {
	n.Helper()
	if err := os.MkdirAll(n.at(elsewhere), 0o755); err != nil {
		n.Fatal(err)
	}
	before := n.cfg
	defer func() { n.cfg = before }()
	n.cfg = func(c *Config) { c.StateDir = elsewhere }
	return n.newAgent()
}

func TestOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		a := n.newAgent()
		a.name = "Restart "
		a.before = func() error {
			b := n.newAgent()
			if res := b.run(); !errors.Is(res.err, ErrBusy) {
				t.Errorf("Run: %v", res)
			}
			if _, err := b.r.Recover(t.Context()); !errors.Is(err, ErrBusy) {
				t.Errorf("Recover: %v", err)
			}
			if _, err := b.r.Assess(t.Context()); !errors.Is(err, ErrBusy) {
				t.Errorf("Assess: %v", err)
			}
			return nil
		}
		if res := a.run(); res.Kind != Restarted {
			t.Errorf("%v", res)
		}
	})
}

// TestAnotherHotplate lets two with different state directories meet.
func TestAnotherHotplate(t *testing.T) {
	t.Run("one that died", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t)
			n.runTo("Arm")
			if res := n.otherAgent().run(); res.Kind != Deferred || !strings.Contains(res.Reason, "another hotplate") {
				t.Errorf("%v", res)
			}
			n.wait()
			if res := n.otherAgent().run(); res.Kind != Restarted {
				t.Errorf("when the rescue has acted: %v", res)
			}
			if res := n.run(); res.Kind != Abandoned { // what it had begun
				t.Errorf("the first: %v", res)
			}
			if bad := n.healthy(); bad != "" || !obeys(n.read(usualConfig)) {
				t.Errorf("the first has undone what the second did: %s", bad)
			}
		})
	})
	t.Run("one that is faster", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t)
			a := n.newAgent()
			a.name = "Arm"
			a.before = func() error {
				if res := n.otherAgent().run(); res.Kind != Restarted {
					t.Errorf("the other: %v", res)
				}
				return nil
			}
			if res := a.run(); res.err != nil || res.Kind != Abandoned {
				t.Errorf("%v", res)
			}
			if bad := n.healthy(); bad != "" || !obeys(n.read(usualConfig)) {
				t.Errorf("the second has undone what the first did: %s", bad)
			}
		})
	})
	t.Run("both at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t)
			starts := n.ctrd.count()
			a, b := n.newAgent(), n.otherAgent()
			for _, one := range []*agent{a, b} {
				one.name = "Arm"
				one.before = func() error { time.Sleep(time.Second); return nil } // until the other has seen that nothing is armed
				one.after = one.before                                            // until the other has armed too
			}
			ended := make(chan result)
			for _, one := range []*agent{a, b} {
				go func() { ended <- one.run() }()
				time.Sleep(time.Millisecond) // what they install has one name
			}
			if res := <-ended; res.Kind != Abandoned || !strings.Contains(res.Reason, "another hotplate") {
				t.Errorf("the first: %v", res)
			}
			if res := <-ended; res.Kind != Restarted { // it has seen that the first gave way
				t.Errorf("the second: %v", res)
			}
			if n.ctrd.count() != starts+1 || n.healthy() != "" || len(n.sys.Known()) > 0 {
				t.Errorf("%d starts, %s, left: %v", n.ctrd.count()-starts, n.healthy(), n.sys.Known())
			}
		})
	})
	t.Run("one that has replaced the boot unit", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t, with(doesNotStart))
			for _, a := range []*agent{n.newAgent(), n.otherAgent()} {
				if res := a.run(); res.Kind != RolledBack {
					t.Fatalf("%v", res)
				}
				time.Sleep(time.Hour)
			}
			if err := n.newAgent().r.Forgive(); err != nil {
				t.Fatal(err)
			}
			n.runTo(configWrite)
			n.reboot()
			if bad := n.healthy(); bad != "" {
				t.Errorf("the boot unit has not healed the node: %s", bad)
			}
		})
	})
}

// TestBootUnitIsInstalledOnce shows that systemd reads all units anew only where it must.
func TestBootUnitIsInstalledOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reloads atomic.Int32
		n := newNode(t, with(doesNotStart), func(n *node) {
			n.sys.Before = func(c systemdtest.Call) error {
				if c.Method == "Reload" {
					reloads.Add(1)
				}
				return nil
			}
		})
		for range 2 {
			if res := n.run(); res.Kind != RolledBack {
				t.Fatalf("%v", res)
			}
			if err := n.newAgent().r.Forgive(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
		}
		if got := reloads.Load(); got != 1 {
			t.Errorf("%d reloads", got)
		}
	})
}

// TestReloadBringsDropInIntoForce has somebody edit the unit at the wrong moment: reading all units anew brings it into force.
func TestReloadBringsDropInIntoForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		a := n.newAgent()
		a.name = "Reload"
		a.before = func() error {
			edited := n.unit
			edited.KillMode = "mixed"
			n.sys.Edit(edited)
			return nil
		}
		starts := n.ctrd.count()
		if res := a.run(); res.err != nil || res.Kind != Abandoned || !strings.Contains(res.Reason, "KillMode=mixed") {
			t.Errorf("%v", res)
		}
		if n.ctrd.count() != starts || n.read(usualConfig) != oldConfig {
			t.Error("containerd was touched")
		}
		if left := n.leftovers(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// TestSoakIsGoneOnWith stops an agent while it watches containerd, as a new version of its own does.
func TestSoakIsGoneOnWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		a := n.newAgent()
		time.AfterFunc(2*time.Second, func() { a.cancel() })
		res := a.run()
		if !errors.Is(res.err, errNotWatched) {
			t.Fatalf("%v", res)
		}
		starts := n.ctrd.count()
		if !n.has(journalPath) || len(n.sys.Known()) != 1 || !obeys(n.read(usualConfig)) {
			t.Error("the transaction is not open")
		}
		if res := n.run(); res.err != nil || res.Kind != Restarted {
			t.Errorf("%v", res)
		}
		if n.ctrd.count() != starts {
			t.Error("containerd was restarted once more")
		}
		if left := n.leftovers(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// TestPodsComeAndGo has a container end by itself while no agent looks. That is no reason to take anything back.
func TestPodsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		a := n.newAgent()
		time.AfterFunc(2*time.Second, func() { a.cancel() })
		a.run()
		n.ctrd.lose()
		if res := n.run(); res.err != nil || res.Kind != Restarted {
			t.Errorf("%v", res)
		}
	})
}

func TestSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		given, busy := 0, false
		refused := errors.New("no leave")
		var slot func(context.Context) (func(), error)
		n.cfg = func(c *Config) {
			c.Slot = func(ctx context.Context) (func(), error) { return slot(ctx) }
		}
		slot = func(context.Context) (func(), error) { return nil, refused }
		if res := n.run(); !errors.Is(res.err, refused) {
			t.Errorf("%v", res)
		}
		slot = func(context.Context) (func(), error) {
			given++
			n.ctrd.mu.Lock()
			n.ctrd.idle = nil
			if busy {
				n.ctrd.idle = []string{"half"}
			}
			n.ctrd.mu.Unlock()
			return func() { given-- }, nil
		}
		busy = true
		if res := n.run(); res.Kind != Deferred || given != 0 {
			t.Errorf("busy meanwhile: %v; %d leaves are not given back", res, given)
		}
		busy = false
		n.ctrd.idle = nil
		if res := n.run(); res.Kind != Restarted || given != 0 {
			t.Errorf("%v; %d leaves are not given back", res, given)
		}
		slot = func(context.Context) (func(), error) {
			t.Error("asked for a leave that is not needed")
			return func() {}, nil
		}
		time.Sleep(time.Hour)
		if res := n.run(); res.Kind != NotNeeded {
			t.Errorf("%v", res)
		}
	})
}

// dependant needs containerd, and stays down when a start of containerd has failed.
func dependant(n *node) {
	n.others = []systemdtest.Service{{
		Name: "needs.service", Requires: []string{unitName}, OnStart: func() systemdtest.Outcome { return systemdtest.Run },
	}}
}

// listed allows dependant to go down.
func listed(n *node) { n.cfg = func(c *Config) { c.Dependants = []string{"needs.service"} } }

func TestDependants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, dependant, with(doesNotStart))
		if res := n.run(); res.Kind != Refused || !strings.Contains(res.Reason, "needs.service would go down") {
			t.Errorf("not listed: %v", res)
		}
		listed(n)
		if res := n.run(); res.Kind != RolledBack {
			t.Errorf("listed: %v", res)
		}
		if bad := n.healthy(); bad != "" {
			t.Error(bad)
		}
	})
	for _, f := range []fault{good, doesNotStart, hangs} {
		t.Run("killed, with "+string(f), func(t *testing.T) {
			t.Parallel()
			everyOperation(t, func(t *testing.T, at int) (hit string) {
				for _, s := range some(at) {
					hit = killedAt(t, f, at, "after", s, dependant, listed)
				}
				return hit
			})
		})
	}
}
