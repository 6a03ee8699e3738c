package coordinator

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// rolling is a rollout with a clock and nodes that ask.
type rolling struct {
	*testing.T
	Rollout
	w world
}

func newRolling(t *testing.T) *rolling { return &rolling{T: t, w: world{now: noon, most: 1}} }

func (r *rolling) ask(c candidate) report.Leave {
	r.Helper()
	leave, _ := r.Rollout.ask(c, r.w)
	data, err := json.Marshal(r.Rollout) // a new leader takes over after each answer
	if err != nil {
		r.Fatal(err)
	}
	r.Rollout = Rollout{}
	if err := json.Unmarshal(data, &r.Rollout); err != nil {
		r.Fatal(err)
	}
	return leave
}

func (r *rolling) granted(c candidate, want bool, why string) {
	r.Helper()
	if leave := r.ask(c); leave.Granted != want || !strings.Contains(leave.Reason, why) {
		r.Errorf("%s: %+v, want %v, %q", c.node, leave, want, why)
	}
}

func wants(node string) candidate {
	return candidate{node: node, uid: "uid-" + node, slot: report.SlotWanted, hash: "h1"}
}

// record is a restart that ended, by the clock of a node that is an hour slow.
func record(how string, minute int) report.RestartRecord {
	return report.RestartRecord{How: how, Reason: "because", Time: noon.Add(-time.Hour + time.Duration(minute)*time.Minute)}
}

// restarts lets a node that has the leave use it.
func (r *rolling) restarts(c candidate, how string, minute int) {
	r.Helper()
	c.slot = report.SlotHeld
	r.granted(c, true, "")
	r.w.now = r.w.now.Add(5 * time.Minute)
	r.granted(c, true, "")
	c.slot, c.records = report.SlotNone, append(c.records, record(how, minute))
	r.granted(c, false, "")
	if _, holds := r.Holders[c.node]; holds {
		r.Errorf("%s still holds it", c.node)
	}
}

func TestOneAtATimeAndACanaryFirst(t *testing.T) {
	r := newRolling(t)
	r.w.most = 2
	r.granted(candidate{node: "idle"}, false, "")
	r.granted(wants("a"), true, "")
	r.granted(wants("b"), false, "one node goes first")
	r.restarts(wants("a"), howRestarted, 1)
	r.granted(wants("b"), true, "")
	r.granted(wants("c"), true, "")
	r.granted(wants("d"), false, "2 nodes are away")
	r.restarts(wants("b"), howRestarted, 1)
}

func TestAnotherConfigNeedsAnotherCanary(t *testing.T) {
	r := newRolling(t)
	r.w.most = 3
	r.Proven = "h0"
	r.granted(wants("a"), true, "")
	r.granted(wants("b"), false, "one node goes first")
}

func TestNodesThatAreAwayCount(t *testing.T) {
	r := newRolling(t)
	r.w.away = []string{"broken"}
	r.granted(wants("a"), false, "broken")
	r.w.away = []string{"a"}
	r.granted(wants("a"), true, "")
}

func TestARollbackPauses(t *testing.T) {
	for _, how := range []string{howRolledBack, howFailed} {
		r := newRolling(t)
		c := wants("a")
		c.records = []report.RestartRecord{record(howRestarted, -100)}
		r.granted(c, true, "")
		r.restarts(c, how, 1)
		r.granted(wants("b"), false, "paused since 2026-11-26T12:05:00Z, because of node a: "+how+": because")
		if r.resume(noon) || !r.resume(r.Paused.Time.Add(time.Second)) {
			t.Error("it goes on when a person says so afterwards")
		}
		r.granted(wants("b"), true, "")
	}
}

func TestWhatEndsWithoutARestart(t *testing.T) {
	r := newRolling(t)
	c := wants("a")
	r.granted(c, true, "")
	c.slot = report.SlotHeld
	r.granted(c, true, "")
	c.slot = report.SlotNone
	r.granted(c, false, "")
	if len(r.Holders) != 0 || r.Proven != "" || r.Paused != nil {
		t.Errorf("%+v", r.Rollout)
	}
	r.granted(c, false, "")
	c = wants("a")
	r.granted(c, true, "")
	c.records = []report.RestartRecord{record("Abandoned", 1)}
	c.slot = report.SlotNone
	r.granted(c, false, "")
	if r.Proven != "" || r.Paused != nil {
		t.Errorf("%+v", r.Rollout)
	}
}

// TestALeaveThatIsNotUsed: it may be used for a while, then it must be asked for again.
func TestALeaveThatIsNotUsed(t *testing.T) {
	r := newRolling(t)
	if leave := r.ask(wants("a")); leave.For != grantFor {
		t.Errorf("%v", leave.For)
	}
	r.w.now = r.w.now.Add(grantFor - time.Second)
	if leave := r.ask(wants("a")); !leave.Granted || leave.For != time.Second {
		t.Errorf("%+v", leave)
	}
	r.w.now = r.w.now.Add(time.Second)
	r.w.stopped = "not now"
	r.granted(wants("a"), false, "not now")
	if len(r.Holders) != 0 {
		t.Error("it holds what it did not use")
	}
}

func TestControlPlanesGoLastAndAlone(t *testing.T) {
	r := newRolling(t)
	r.w.most, r.Proven = 5, "h1"
	cp := wants("cp")
	cp.controlPlane = true
	r.w.waiting = true
	r.granted(cp, false, "goes when no other node waits")
	r.w.waiting = false
	r.granted(wants("a"), true, "")
	r.granted(cp, false, "one by one")
	r.restarts(wants("a"), howRestarted, 1)
	r.granted(cp, true, "")
	r.w.controlPlanes = map[string]bool{"cp": true}
	r.granted(wants("b"), false, "alone")
}

func TestBusyNodesWait(t *testing.T) {
	r := newRolling(t)
	c := wants("a")
	c.busy = "pod default/x is Pending"
	r.granted(c, false, "default/x")
}

func TestHoldersThatSayNothing(t *testing.T) {
	silence := noon
	still := func(string) time.Time { return silence }
	there, gone := func(string, string) bool { return false }, func(string, string) bool { return true }
	hold := func() *rolling {
		r := newRolling(t)
		r.granted(wants("a"), true, "")
		return r
	}
	r := hold()
	if r.expire(noon.Add(silentHolder+29*time.Second), 30*time.Second, there, still) {
		t.Error("it may still be about to speak")
	}
	if !r.expire(noon.Add(silentHolder+30*time.Second), 30*time.Second, there, still) || r.Paused == nil || len(r.Holders) != 0 {
		t.Errorf("%+v", r.Rollout)
	}
	r = hold()
	if !r.expire(noon, 0, gone, still) || r.Paused != nil || len(r.Holders) != 0 {
		t.Errorf("a node that is gone: %+v", r.Rollout)
	}
	r = hold()
	if r.expire(noon.Add(time.Hour), 0, there, func(string) time.Time { return time.Time{} }) {
		t.Error("it speaks")
	}
}

// TestAnotherMachineByTheSameName: what it asks and reports is not that of the one before.
func TestAnotherMachineByTheSameName(t *testing.T) {
	r := newRolling(t)
	r.granted(wants("a"), true, "")
	c := wants("a")
	c.uid, c.slot, c.records = "uid-other", report.SlotNone, []report.RestartRecord{record(howRolledBack, 1)}
	r.granted(c, false, "")
	if len(r.Holders) != 0 || r.Paused != nil {
		t.Errorf("%+v", r.Rollout)
	}
}
