package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

// deafInCluster is a node of a cluster whose daemon must be restarted.
func deafInCluster(t *testing.T, f func(t *testing.T, n *node, hash string)) {
	inCluster(t, func(t *testing.T, n *node) {
		n.prober.set(func(p *fakeProber) { p.verdict = probe.Verdict{Cause: "no such host"} })
		n.run()
		hash := n.source.write(doc)
		n.says(directive(hash, "a"))
		after(time.Second)
		f(t, n, hash)
	})
}

func (n *node) slot(want report.Slot) {
	n.t.Helper()
	if got := n.Report().Restart.Slot; got != want {
		n.t.Errorf("the slot is %q, want %q", got, want)
	}
}

// leaves lets the coordinator say so of the leave to restart.
func (n *node) leaves(hash string, is report.Leave) {
	n.t.Helper()
	d := directive(hash, "a")
	d.Restart = is
	n.says(d)
}

func TestARestartWaitsForItsSlotAndImagesDoNot(t *testing.T) {
	deafInCluster(t, func(t *testing.T, n *node, hash string) {
		n.restarterDid("recover", "assess")
		n.slot(report.SlotWanted)
		n.expect(report.HostsLive, "False", "WaitsForSlot", "when the coordinator gives the leave")
		after(soon)
		n.holds("a Ready") // nothing is paused meanwhile
		n.leaves(hash, report.Leave{Reason: "gpu-1 restarts now"})
		n.expect(report.HostsLive, "False", "WaitsForSlot", "gpu-1 restarts now")
		after(time.Hour)
		n.restarterDid()
		n.expect(report.HostsLive, "False", "WaitsForSlot", "it does not answer")
		n.restarter.set(func(r *fakeRestarter) { r.away, r.soaks = 5*time.Second, 30*time.Second })
		if n.coordinator.wokenBy(func() { n.leaves(hash, report.Leave{Granted: true, For: time.Minute}) }) == 0 {
			t.Error("that the leave is used is not reported at once")
		}
		n.slot(report.SlotHeld)
		n.restarterDid("run", "restart")
		n.leaves(hash, report.Leave{Granted: true}) // as it is said while it is used
		after(20 * time.Second)
		n.slot(report.SlotHeld)
		var told report.NodeReport
		woken := n.coordinator.wokenBy(func() {
			after(20 * time.Second)
			told = n.Report()
		})
		if woken == 0 || told.Restart.Slot != report.SlotNone || len(told.Restart.Records) != 1 || told.Restart.Records[0].How != "Restarted" {
			t.Errorf("reported %d times, at last as %+v", woken, told.Restart)
		}
		n.expect(report.HostsLive, "True", "Live")
		after(time.Hour)
		n.restarterDid()
		n.slot(report.SlotNone)
	})
}

func TestALeaveIsNotUsedTooLate(t *testing.T) {
	deafInCluster(t, func(t *testing.T, n *node, hash string) {
		n.restarter.set(func(r *fakeRestarter) { r.did = nil })
		// The agent is kept from using it at once.
		if !n.restarts.enter(t.Context()) {
			t.Fatal("no turn")
		}
		n.leaves(hash, report.Leave{Granted: true, For: time.Minute})
		after(61 * time.Second)
		n.restarts.leave()
		after(time.Minute)
		n.restarterDid()
		n.slot(report.SlotWanted)
		n.leaves(hash, report.Leave{Granted: true, For: time.Minute})
		after(time.Minute)
		n.restarterDid("run", "restart")
	})
}

// The coordinator is not asked for what could not be used.
func TestASlotIsAskedForWhenNothingElseStandsInTheWay(t *testing.T) {
	inCluster(t, func(_ *testing.T, n *node) {
		n.prober.set(func(p *fakeProber) { p.verdict = probe.Verdict{Cause: "no such host"} })
		n.restarter.set(func(r *fakeRestarter) { r.checks = []restart.Check{busy} })
		n.run()
		hash := n.source.write(doc)
		n.says(directive(hash, "a"))
		after(time.Second)
		n.slot(report.SlotNone)
		n.expect(report.HostsLive, "False", "RestartDeferred")
		n.restarter.set(func(r *fakeRestarter) { r.checks = nil })
		after(2 * time.Minute)
		n.slot(report.SlotWanted)
		// The config may change its mind while it waits.
		hash = n.source.write(doc + "restart: {policy: Never}\n")
		after(time.Second)
		n.slot(report.SlotNone)
		n.leaves(hash, report.Leave{Granted: true, For: time.Minute}) // too late
		after(time.Minute)
		n.expect(report.HostsLive, "False", "RestartForbidden")
		n.source.write(doc + "restart: {window: {start: 12:00, end: 12:30}}\n")
		after(time.Minute)
		n.slot(report.SlotNone)
		hash = n.source.write(doc)
		after(time.Minute)
		n.slot(report.SlotWanted)
		// It was found out meanwhile that it cannot be.
		n.restarter.set(func(r *fakeRestarter) { r.did, r.checks = nil, []restart.Check{unsafe} })
		n.leaves(hash, report.Leave{Granted: true, For: time.Minute})
		after(time.Second)
		n.slot(report.SlotNone)
		n.expect(report.HostsLive, "False", "RestartRefused")
		n.restarterDid("run")
	})
}

// An agent that was killed in the middle of a restart still uses the slot until that has ended.
func TestARestartThatAnEarlierAgentBeganHoldsTheSlot(t *testing.T) {
	inCluster(t, func(t *testing.T, n *node) {
		n.restarter.set(func(r *fakeRestarter) {
			r.left, r.recovering = &restart.Outcome{Kind: restart.RolledBack, Reason: "x", Time: time.Now()}, time.Minute
		})
		n.run()
		n.source.write(doc)
		after(time.Second)
		if n.coordinator.reporting() {
			t.Error("it reports before it is known what an earlier agent has left")
		}
		after(recoverHead)
		n.slot(report.SlotHeld)
		after(2 * time.Minute)
		n.slot(report.SlotNone)
		if r := n.Report().Restart.Records; len(r) != 1 || r[0].How != "RolledBack" {
			t.Errorf("recorded as %+v", r)
		}
	})
}

func TestTheLeaveByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		changes := 0
		l := &leave{changed: func() { changes++ }}
		if l.take() || l.heard(report.Leave{Granted: true, For: time.Minute}) || l.take() {
			t.Error("a leave that nobody wants is taken")
		}
		for range 2 {
			l.ask()
		}
		if l.heard(report.Leave{Reason: "x"}) != true || l.heard(report.Leave{Reason: "x"}) || l.take() {
			t.Error("a leave that is refused is taken, or not told")
		}
		if !l.heard(report.Leave{Granted: true, For: time.Minute}) || !l.take() || !l.take() {
			t.Error("a leave is not taken")
		}
		l.heard(report.Leave{Reason: "x"})
		if !l.take() {
			t.Error("a leave that is used is taken away")
		}
		for range 2 {
			l.free()
		}
		if l.take() || changes != 3 {
			t.Errorf("it is used still, or has changed %d times", changes)
		}
	})
}
