//go:build e2e

package restart_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// counters is how many pods count on each containerd.
const counters = 2

// runs is something of the rig that containerd runs on.
type runs interface {
	CRI(ctx context.Context) (*rig.CRI, error)
	StartCounter(ctx context.Context, name string) (*rig.Counter, error)
}

// counting are the pods that count on one containerd.
type counting struct {
	*testing.T
	on   runs
	pods []*rig.Counter
	pids []int // of pods, as they were at first
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
		kept, numbers, longest = kept+1, numbers+len(lines), max(longest, gap)
	}
	return fmt.Sprintf("%d of %d kept; none of %d numbers missed; gap %s", kept, len(c.pods), numbers, longest.Round(10*time.Millisecond))
}

// criWorks tells whether CRI says that its runtime is ready, which is what the kubelet asks.
func (c *counting) criWorks() bool {
	cri, err := c.on.CRI(c.Context())
	if err != nil {
		return false
	}
	defer cri.Close()
	status, err := cri.Runtime.Status(c.Context(), &runtimeapi.StatusRequest{})
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
