package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// cluster is a Coordinator with nodes that a test makes up, and a ConfigMap that may refuse to be written.
type cluster struct {
	*testing.T
	*Coordinator

	mu      sync.Mutex
	nodes   map[string]Node
	down    []string
	busy    map[string]string
	kept    Rollout
	refuses error
	changed map[string]int
	newTags int
}

func newCluster(t *testing.T, images ...config.Image) *cluster {
	t.Helper()
	c := &cluster{T: t, nodes: map[string]Node{}, busy: map[string]string{}, changed: map[string]int{}}
	for i := range 6 {
		name := fmt.Sprintf("gpu-%d", i)
		c.nodes[name] = Node{Name: name, UID: "uid-" + name, Labels: map[string]string{"pool": "gpu"}, Works: true}
	}
	c.lead()
	c.SetIntent(Intent{Hash: "h1", Images: images, Cluster: config.Cluster{MaxUnavailable: 1, MaxConcurrentNodes: 2}})
	return c
}

// lead lets another replica take over.
func (c *cluster) lead() {
	c.Helper()
	before := c.Coordinator
	is, err := New(Config{Nodes: c, Keep: c.keep, Log: slog.New(slog.DiscardHandler), NewTag: func() { c.newTags++ }, Changed: func(node string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.changed[node]++
	}})
	if err != nil {
		c.Fatal(err)
	}
	c.Coordinator = is
	is.SetRollout(c.kept)
	if before != nil {
		is.SetIntent(*before.intent)
	}
}

func (c *cluster) keep(_ context.Context, r Rollout) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuses == nil {
		c.kept = r.clone()
	}
	return c.refuses
}

func (c *cluster) Node(name string) (Node, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.nodes[name]
	return n, ok
}

func (c *cluster) Down() []string { return c.down }

func (c *cluster) Busy(node string) string { return c.busy[node] }

func (c *cluster) report(node string, r report.NodeReport) report.Directive {
	c.Helper()
	d, err := c.Answer(c.Context(), node, r)
	if err != nil {
		c.Fatal(err)
	}
	return d
}

func slot(s report.Slot, records ...report.RestartRecord) report.NodeReport {
	r := healthy()
	r.Restart = report.Restart{Slot: s, Records: records}
	return r
}

func TestOnlyKnownNodesAreAnswered(t *testing.T) {
	c := newCluster(t)
	if _, err := c.Answer(t.Context(), "stranger", healthy()); err == nil || len(c.fleet.All()) != 0 {
		t.Error(err, c.fleet.All())
	}
	empty, err := New(Config{Nodes: c, Keep: c.keep, NewTag: func() {}, Changed: func(string) {}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := empty.Answer(t.Context(), "gpu-0", healthy()); err == nil || !strings.Contains(err.Error(), "no config in force") {
		t.Error(err)
	}
	if _, err := New(Config{}); err == nil {
		t.Error("a Config without anything is taken")
	}
}

func TestWhatANodeIsToldToHold(t *testing.T) {
	c := newCluster(t, config.Image{Name: "a", Ref: "registry.example.com/a:v1"})
	d := c.report("gpu-0", healthy())
	if d.ConfigHash != "h1" || len(d.Images) != 1 || d.Images[0].Digest != "" || d.NextReport != workInterval {
		t.Errorf("%+v", d)
	}
	if c.newTags != 1 {
		t.Error("nobody is told that a tag is to be looked up")
	}
	if diff := slices.Compare(c.Tags(), []string{"registry.example.com/a:v1"}); diff != 0 {
		t.Errorf("tags: %v", c.Tags())
	}
	c.SetResolved(Resolved{"registry.example.com/a:v1": "sha256:a"}, nil)
	if c.changed["gpu-0"] < 2 {
		t.Error("the node is not looked at again")
	}
	if d := c.report("gpu-0", healthy()); d.Images[0].Digest != "sha256:a" {
		t.Errorf("%+v", d)
	}
	has := healthy(report.Image{Name: "a", Target: "sha256:a", Phase: report.ImageReady})
	if d := c.report("gpu-0", has); d.NextReport != idleInterval || c.newTags != 1 {
		t.Errorf("%+v, %d", d, c.newTags)
	}
	is, ok := c.Conclude(c.nodes["gpu-0"], false)
	if !ok || is.Status != report.True {
		t.Errorf("%+v %v", is, ok)
	}
	if _, ok := c.Conclude(c.nodes["gpu-1"], true); ok {
		t.Error("something is concluded of a node that was never heard")
	}
	// A leader that is new has not looked up any tag yet; the node stays with what it has.
	c.lead()
	if d := c.report("gpu-0", has); d.Images[0].Digest != "sha256:a" {
		t.Errorf("%+v", d)
	}
}

func TestOnlySomeNodesPullAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, config.Image{Name: "a", Ref: "registry.example.com/a:v1"})
		fetching := healthy(report.Image{Name: "a", Phase: report.ImageFetching})
		for i, want := range []bool{true, true, false, false} {
			if d := c.report(fmt.Sprintf("gpu-%d", i), healthy()); d.Pull.Granted != want {
				t.Errorf("gpu-%d: %+v", i, d.Pull)
			}
			time.Sleep(time.Second)
		}
		c.report("gpu-0", healthy(report.Image{Name: "a", Phase: report.ImageReady}))
		if d := c.report("gpu-3", healthy()); d.Pull.Granted {
			t.Error("gpu-2 has waited for longer")
		}
		if d := c.report("gpu-2", healthy()); !d.Pull.Granted {
			t.Error(d.Pull.Reason)
		}
		// gpu-1 says nothing any more.
		time.Sleep(SilentAfter)
		c.report("gpu-2", fetching)
		if err := c.Expire(t.Context(), 0); err != nil {
			t.Error(err)
		}
		if d := c.report("gpu-3", healthy()); !d.Pull.Granted {
			t.Error(d.Pull.Reason)
		}
		c.lead()
		c.report("gpu-2", fetching)
		c.report("gpu-3", fetching)
		if d := c.report("gpu-4", healthy()); d.Pull.Granted {
			t.Error("a new leader forgets who pulls")
		}
		c.Gone("gpu-2")
		if d := c.report("gpu-4", healthy()); !d.Pull.Granted {
			t.Error("a node that is gone keeps its place")
		}
	})
}

// What was concluded of a node stays while its agent, which has just been replaced, has not looked yet.
func TestAnAgentThatHasJustStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		began := time.Now()
		says := func(had bool) (Conclusion, bool) {
			r := with(healthy(), report.HostsLive, report.Unknown, report.Starting, "")
			for i := range r.Conditions {
				r.Conditions[i].LastTransitionTime = began
			}
			r.Time = time.Now()
			c.report("gpu-0", r)
			return c.Conclude(c.nodes["gpu-0"], had)
		}
		if is, known := says(true); known {
			t.Errorf("concluded at once: %+v", is)
		}
		if is, known := says(false); !known || is.Reason != report.Starting {
			t.Errorf("of a node of which nothing was said before: %v, %+v", known, is)
		}
		time.Sleep(startingFor)
		if is, known := says(true); !known || is.Status != report.False {
			t.Errorf("concluded of one that does not get on: %v, %+v", known, is)
		}
	})
}

// A node whose image cannot be had does not keep others from theirs.
func TestANodeThatFailsGivesItsPlaceToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, config.Image{Name: "a", Ref: "registry.example.com/a:v1"})
		failed := healthy(report.Image{Name: "a", Phase: report.ImageFailed})
		for i := range 2 {
			if d := c.report(fmt.Sprintf("gpu-%d", i), failed); !d.Pull.Granted {
				t.Errorf("gpu-%d, while nobody waits: %+v", i, d.Pull)
			}
			time.Sleep(time.Second)
		}
		if d := c.report("gpu-2", healthy()); d.Pull.Granted {
			t.Error("there was no place")
		}
		time.Sleep(time.Second)
		if d := c.report("gpu-0", failed); d.Pull.Granted {
			t.Error("a node that waits to try again keeps its place")
		}
		if d := c.report("gpu-2", healthy()); !d.Pull.Granted {
			t.Error(d.Pull.Reason)
		}
		// It has its turn again, and then goes on.
		c.report("gpu-2", healthy(report.Image{Name: "a", Phase: report.ImageReady}))
		if d := c.report("gpu-0", healthy(report.Image{Name: "a", Phase: report.ImagePending})); !d.Pull.Granted {
			t.Error(d.Pull.Reason)
		}
	})
}

func TestARegistryThatWantsToBeLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		r := healthy()
		r.Throttled = []report.Throttle{{Host: "registry.example.com", For: time.Minute}, {Host: "forever.example.com", For: 1000 * time.Hour},
			{Host: "never.example.com"}}
		c.report("gpu-0", r)
		time.Sleep(20 * time.Second)
		d := c.report("gpu-1", healthy())
		want := []report.Throttle{{Host: "forever.example.com", For: maxThrottle - 20*time.Second},
			{Host: "registry.example.com", For: 40 * time.Second}}
		if !slices.Equal(d.Throttled, want) {
			t.Errorf("%v", d.Throttled)
		}
		time.Sleep(40 * time.Second)
		if d := c.report("gpu-1", healthy()); len(d.Throttled) != 1 {
			t.Errorf("%v", d.Throttled)
		}
		for i := range 2 * maxThrottled {
			r.Throttled = append(r.Throttled, report.Throttle{Host: fmt.Sprint(i), For: time.Minute})
		}
		if d := c.report("gpu-0", r); len(d.Throttled) > maxThrottled {
			t.Errorf("%d hosts", len(d.Throttled))
		}
	})
}

func TestRestartsOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		ask := func(node string, want bool, why string, r report.NodeReport) {
			t.Helper()
			d := c.report(node, r)
			if d.Restart.Granted != want || !strings.Contains(d.Restart.Reason, why) {
				t.Errorf("%s: %+v", node, d)
			}
			waits := r.Restart.Slot == report.SlotWanted && !want
			if most := waitInterval(len(c.nodes)); r.Restart.Slot != "" && (!waits && d.NextReport != workInterval || waits && (d.NextReport < workInterval || d.NextReport > most)) {
				t.Errorf("%s is to report in %s", node, d.NextReport)
			}
		}
		ask("gpu-0", false, "has just started", slot(report.SlotWanted))
		time.Sleep(SilentAfter)
		c.busy["gpu-0"] = "pod default/x is Pending"
		ask("gpu-0", false, "default/x", slot(report.SlotWanted))
		delete(c.busy, "gpu-0")
		c.down = []string{"gpu-5"} // in the same moment
		ask("gpu-0", false, "gpu-5", slot(report.SlotWanted))
		c.down = nil
		time.Sleep(outageFor)
		c.report("gpu-4", with(healthy(), report.ContainerdHealthy, report.False, "Away", ""))
		ask("gpu-0", false, "gpu-4", slot(report.SlotWanted))
		c.report("gpu-4", healthy())
		time.Sleep(outageFor)
		c.refuses = errors.New("conflict")
		ask("gpu-0", false, "cannot be noted: conflict", slot(report.SlotWanted))
		if len(*c.holders.Load()) != 0 {
			t.Error("what is not kept counts")
		}
		c.refuses = nil
		ask("gpu-0", true, "", slot(report.SlotWanted))
		ask("gpu-0", true, "", slot(report.SlotHeld))
		ask("gpu-1", false, "1 nodes are away", slot(report.SlotWanted))
		// The leader dies; the next one knows who holds the leave.
		c.lead()
		ask("gpu-0", true, "", slot(report.SlotHeld))
		time.Sleep(SilentAfter)
		ask("gpu-0", true, "", slot(report.SlotHeld))
		ask("gpu-1", false, "1 nodes are away", slot(report.SlotWanted))
		ask("gpu-0", false, "", slot(report.SlotNone, record(howRolledBack, 1)))
		ask("gpu-1", false, "kubectl hotplate resume", slot(report.SlotWanted))
		if err := c.SetPaused(t.Context(), "", time.Now().Add(time.Second)); err != nil {
			t.Error(err)
		}
		ask("gpu-1", true, "", slot(report.SlotWanted))
		if err := c.SetPaused(t.Context(), "for the night", time.Time{}); err != nil {
			t.Error(err)
		}
		ask("gpu-2", false, "paused: for the night", slot(report.SlotWanted))
		ask("gpu-1", true, "", slot(report.SlotHeld)) // what has begun goes on
	})
}

func TestAHolderThatGoesSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		time.Sleep(SilentAfter)
		c.report("gpu-0", slot(report.SlotWanted))
		c.report("gpu-0", slot(report.SlotHeld))
		time.Sleep(silentHolder)
		c.lead() // which has never heard it
		for range 3 {
			if err := c.Expire(t.Context(), 0); err != nil {
				t.Error(err)
			}
			if c.kept.Paused != nil {
				t.Fatal("it had no time to speak")
			}
			time.Sleep(SilentAfter)
		}
		time.Sleep(silentHolder)
		if err := c.Expire(t.Context(), 0); err != nil || c.kept.Paused == nil || len(c.kept.Holders) != 0 {
			t.Errorf("%v, %+v", err, c.kept)
		}
		c.kept = Rollout{Holders: map[string]Holder{"gone": {UID: "u"}}}
		c.lead()
		if err := c.Expire(t.Context(), 0); err != nil || c.kept.Paused != nil || len(c.kept.Holders) != 0 {
			t.Errorf("a node that is gone: %v, %+v", err, c.kept)
		}
	})
}

// TestThoseThatOnlyWaitReportLessOften where they are many.
func TestThoseThatOnlyWaitReportLessOften(t *testing.T) {
	for waiting, want := range map[int]time.Duration{0: 5 * time.Second, 10: 5020 * time.Millisecond, 1000: 7 * time.Second, 50_000: mostWait} {
		if got := waitInterval(waiting); got != want {
			t.Errorf("%d wait: %s, want %s", waiting, got, want)
		}
	}
}
