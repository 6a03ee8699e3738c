package restart

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
)

// with makes the new configuration one that does f.
func with(f fault) func(*node) { return func(n *node) { n.ctrd.faults[true] = f } }

// TestRestart shows each kind of configuration, when nothing else happens.
func TestRestart(t *testing.T) {
	for f, want := range map[fault]Kind{
		good: Restarted, slow: Restarted,
		doesNotStart: RolledBack, hangs: RolledBack, criDown: RolledBack, ignores: RolledBack, dies: RolledBack, loses: RolledBack,
	} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, with(f))
				a := n.newAgent()
				res := a.run()
				if res.err != nil || res.Kind != want {
					t.Errorf("%v", res)
				}
				t.Logf("%d operations, %v", a.ops, res)
				if bad := n.healthy(); bad != "" {
					t.Error(bad)
				}
				if left := n.leftovers(); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
				time.Sleep(time.Hour)
				wantNext := Refused
				if want == Restarted {
					wantNext = NotNeeded
				}
				if res = n.run(); res.err != nil || res.Kind != wantNext {
					t.Errorf("once more: %v", res)
				}
				if strings.Contains(n.log.String(), secret) {
					t.Errorf("the log holds a password")
				}
				if t.Failed() {
					t.Log(n.log)
				}
			})
		})
	}
}

// sequel is what happens after a mishap.
type sequel string

const (
	atOnce    sequel = "it starts again at once"
	rescue    sequel = "it starts again when the rescue has had its time"
	rebooted  sequel = "the node is rebooted"
	rescueToo sequel = "the rescue has its time, then the node is rebooted"
)

var sequels = []sequel{atOnce, rescue, rebooted, rescueToo}

// full says that all combinations are wanted, and not only each operation with one of them.
func full() bool { return os.Getenv("HOTPLATE_FULL") != "" }

// some are all sequels, or one that differs from operation to operation unless HOTPLATE_FULL is set: what is killed after one
// operation is in the state of what is killed before the next.
func some(n int) []sequel {
	if full() {
		return sequels
	}
	return sequels[n%len(sequels):][:1]
}

// trial is one run in which something happens.
type trial struct {
	*node
	fault fault
	what  string // for messages
	tasks []daemon.Task
	// foreign says that somebody else writes the configuration, so that it need not be the old one or ours.
	foreign bool
	// lost says that containers may be gone for another reason than a restart.
	lost   bool
	starts int
	// stays is a file that could not be removed.
	stays string
}

// tolerated tells what may be left.
func (tr *trial) tolerated(left string) bool {
	return tr.foreign && strings.HasPrefix(left, "foreign-") || left == tr.stays
}

func newTrial(t *testing.T, f fault, change ...func(*node)) *trial {
	n := newNode(t, append(change, with(f))...)
	return &trial{node: n, fault: f, tasks: slices.Clone(n.ctrd.tasks), starts: n.ctrd.count()}
}

func (tr *trial) errorf(format string, args ...any) {
	tr.Helper()
	tr.Errorf("%s; %s: %s", tr.fault, tr.what, fmt.Sprintf(format, args...))
}

// follow lets happen what comes after a mishap, up to the point where a new agent starts.
func (tr *trial) follow(s sequel) {
	tr.Helper()
	if s == rescue || s == rescueToo {
		time.Sleep(tr.newAgent().r.after() + 2*time.Minute)
		tr.heals("after the rescue's delay")
	}
	if s == rebooted || s == rescueToo {
		tr.reboot()
		tr.lost = true
		tr.heals("after a reboot")
	}
}

// heals checks that containerd works, although no agent has done anything for it.
func (tr *trial) heals(when string) {
	tr.Helper()
	if bad := tr.healthy(); bad != "" {
		tr.errorf("%s: %s", when, bad)
	}
	tr.file(when)
}

// file checks that the configuration is the old one, or ours.
func (tr *trial) file(when string) {
	tr.Helper()
	text := tr.read(usualConfig)
	switch {
	case tr.foreign, text == tr.old && tr.has(usualConfig) == (tr.old != ""):
	case !obeys(text):
		tr.errorf("%s: the configuration is neither old nor new: %q", when, text)
	case tr.fault != good && tr.fault != slow:
		tr.errorf("%s: the bad configuration is in force", when)
	}
}

// settle lets new agents run until nothing changes any more, and checks that all is well then. It returns how each ended, the one before, if
// not empty, first.
func (tr *trial) settle(before Kind) (kinds []Kind) {
	tr.Helper()
	if before != "" {
		kinds = append(kinds, before)
	}
	for range 6 {
		res := tr.run()
		if res.err != nil {
			tr.errorf("a new agent: %v", res.err)
			return kinds
		}
		kinds = append(kinds, res.Kind)
		if said, err := json.Marshal(res.Outcome); err != nil || strings.Contains(string(said), secret) {
			tr.errorf("a password is told: %s, %v", said, err)
		}
		if bad := tr.healthy(); bad != "" {
			tr.errorf("after a new agent: %s", bad)
		}
		if left := slices.DeleteFunc(tr.leftovers(), tr.tolerated); len(left) > 0 {
			tr.errorf("after a new agent (%s) there is left: %v", res, left)
		}
		time.Sleep(time.Hour)
		if res.Kind == NotNeeded || res.Kind == Refused {
			break
		}
	}
	tr.end(kinds)
	return kinds
}

// end checks what is true in the end, whatever has happened.
func (tr *trial) end(kinds []Kind) {
	tr.Helper()
	tr.heals("at the end")
	last := kinds[len(kinds)-1]
	records, err := tr.newAgent().r.Records()
	if err != nil {
		tr.errorf("records: %v", err)
	}
	rolledBack := slices.ContainsFunc(records, func(o Outcome) bool { return o.Kind == RolledBack })
	switch works := tr.fault == good || tr.fault == slow; {
	case tr.foreign:
	case works && last != NotNeeded && (last != Refused || !rolledBack):
		tr.errorf("new agents end as %v", kinds)
	case !works && last != Refused:
		tr.errorf("new agents end as %v", kinds)
	}
	tries := 0
	for _, k := range kinds {
		switch {
		case k == RolledBack:
			tries++
		case k == Restarted && tries >= maxUnsure && !tr.foreign:
			tr.errorf("what was rolled back was tried again and again: %v", kinds)
		}
	}
	if tries > maxUnsure && !tr.foreign {
		tr.errorf("what was rolled back was tried again and again: %v", kinds)
	}
	tr.ctrd.mu.Lock()
	tasks := tr.ctrd.tasks
	tr.ctrd.mu.Unlock()
	if !tr.lost && tr.fault != loses && !slices.Equal(tasks, tr.tasks) {
		tr.errorf("containers were lost: %v", tasks)
	}
	if strings.Contains(tr.log.String(), secret) {
		tr.errorf("the log holds a password")
	}
}

// everyOperation calls one trial for each operation of a run, until there is no such operation. It says how many there were.
func everyOperation(t *testing.T, one func(t *testing.T, at int) (hit string)) {
	t.Helper()
	operations(t, 0, 1, one)
}

// operations is everyOperation from one operation on, in steps.
func operations(t *testing.T, from, step int, one func(t *testing.T, at int) (hit string)) {
	t.Helper()
	for at := from; ; at += step {
		hit := ""
		synctest.Test(t, func(t *testing.T) { hit = one(t, at) })
		if t.Failed() {
			t.Fatalf("that was operation %d: %s", at, hit) // one is enough
		}
		if hit == "" {
			t.Logf("%d operations", at)
			return
		}
	}
}

// matrixFaults are what a new configuration does in a matrix.
var matrixFaults = []fault{good, doesNotStart, hangs, criDown, ignores}

func TestKilledAtEveryOperation(t *testing.T) {
	for i, f := range matrixFaults {
		for j, when := range []string{"before", "after"} {
			t.Run(string(f)+", "+when, func(t *testing.T) {
				t.Parallel()
				everyOperation(t, func(t *testing.T, at int) (hit string) {
					for _, s := range some(at + i + j) {
						hit = killedAt(t, f, at, when, s)
					}
					return hit
				})
			})
		}
	}
}

func killedAt(t *testing.T, f fault, at int, when string, s sequel, change ...func(*node)) (hit string) {
	tr := newTrial(t, f, change...)
	a := tr.newAgent()
	a.at = at
	if a.before = a.kill; when == "after" {
		a.before, a.after = nil, a.kill
	}
	res := a.run()
	tr.what = fmt.Sprintf("killed %s %q; %s", when, a.hit, s)
	if res.killed != (a.hit != "") {
		tr.errorf("it ended as %v", res)
	}
	tr.follow(s)
	kinds := tr.settle("")
	if a.hit != "" {
		t.Logf("%2d %s: %v", at, tr.what, kinds)
	}
	if t.Failed() {
		t.Log(tr.log)
	}
	return a.hit
}
