//go:build e2e

package restart_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

// counters is how many pods count on each containerd.
const counters = 2

// runs is something of the rig that containerd runs on.
type runs interface {
	CRI(ctx context.Context) (*rig.CRI, error)
	StartCounter(ctx context.Context, name string) (*rig.Counter, error)
}

// maxGap is how long a pod may be held up between two numbers, on a busy machine.
const maxGap = 5 * time.Second

// counting are the pods that count on one containerd.
type counting struct {
	*testing.T
	on    runs
	pods  []*rig.Counter
	pids  []int // of pods, as they were at first
	watch *watch
}

// watch sees how long CRI is away.
type watch struct {
	mu      sync.Mutex
	since   time.Time     // of the absence now; zero if there is none. Guarded by mu, as is
	longest time.Duration // of those that have ended
}

// look enters what came of a question that was asked at a time.
func (w *watch) look(asked time.Time, works bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case works && !w.since.IsZero():
		w.longest, w.since = max(w.longest, time.Since(w.since)), time.Time{}
	case !works && w.since.IsZero():
		w.since = asked
	}
}

// took is the longest absence since it was asked last.
func (w *watch) took() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	longest := w.longest
	w.longest = 0
	return longest
}

// watches asks CRI all the time until the test ends.
func (c *counting) watches() {
	c.watch = &watch{}
	ctx, cancel := context.WithCancel(c.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
				asked := time.Now()
				soon, enough := context.WithTimeout(ctx, time.Second)
				if works := c.criAnswers(soon); ctx.Err() == nil {
					c.watch.look(asked, works)
				}
				enough()
			}
		}
	}()
	c.Cleanup(func() {
		cancel()
		<-done
	})
}

// away is how long CRI was away in a row: as hotplate says, or else as it was seen, which is nothing where the time was shorter than
// that between two questions on a busy machine.
func (c *counting) away(o restart.Outcome) time.Duration {
	seen := c.watch.took()
	if o.Downtime > 0 {
		return o.Downtime
	}
	return seen
}

func startCounting(t *testing.T, on runs) counting {
	t.Helper()
	c := counting{T: t, on: on}
	for i := range counters {
		pod := rigtest.Counter(t, on, fmt.Sprintf("count-%d", i))
		status, err := pod.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.pods, c.pids = append(c.pods, pod), append(c.pids, status.PID)
	}
	c.watches()
	return c
}

// kept checks that every pod is what it was, and says it for the table.
func (c *counting) kept() string {
	c.Helper()
	kept, numbers, longest := 0, 0, time.Duration(0)
	for i, pod := range c.pods {
		status, err := pod.Status(c.Context())
		if err != nil || status.PID != c.pids[i] || !status.Running {
			c.Errorf("pod %d had pid %d and is %+v, %v", i, c.pids[i], status, err)
			continue
		}
		if err := pod.Check(c.Context()); err != nil {
			c.Errorf("pod %d: %v", i, err)
			continue
		}
		lines, err := pod.Lines()
		if err != nil {
			c.Fatal(err)
		}
		gap, err := pod.LargestGap()
		if err != nil {
			c.Fatal(err)
		}
		if gap > maxGap {
			c.Errorf("pod %d did not count for %s", i, gap)
		}
		kept, numbers, longest = kept+1, numbers+len(lines), max(longest, gap)
	}
	return fmt.Sprintf("%d of %d kept; none of %d numbers missed; gap %s", kept, len(c.pods), numbers, longest.Round(10*time.Millisecond))
}

// criWorks tells whether CRI says that its runtime is ready, which is what the kubelet asks.
func (c *counting) criWorks() bool { return c.criAnswers(c.Context()) }

func (c *counting) criAnswers(ctx context.Context) bool {
	cri, err := c.on.CRI(ctx)
	if err != nil {
		return false
	}
	defer cri.Close()
	status, err := cri.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	return err == nil && slices.ContainsFunc(status.GetStatus().GetConditions(), func(c *runtimeapi.RuntimeCondition) bool {
		return c.GetType() == runtimeapi.RuntimeReady && c.GetStatus()
	})
}

// eventually waits for a condition.
func (c *counting) eventually(what string, ok func() bool) {
	c.Helper()
	c.eventuallyIn(time.Minute, what, ok)
}

func (c *counting) eventuallyIn(limit time.Duration, what string, ok func() bool) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), limit)
	defer cancel()
	for !ok() {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			c.Fatalf("waited in vain for %s", what)
		}
	}
}
