//go:build e2e

package restart_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

// counters is how many pods count on each node.
const counters = 2

// site is a node with pods that count, and what hotplate needs on it.
type site struct {
	*testing.T
	node *rig.Node
	pods []*rig.Counter
	pids []int
}

func newSite(t *testing.T, cfg rig.NodeConfig) *site {
	t.Helper()
	s := &site{T: t, node: rigtest.Node(t, cfg)}
	for i := range counters {
		pod := rigtest.Counter(t, s.node, fmt.Sprintf("count-%d", i))
		status, err := pod.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.pods, s.pids = append(s.pods, pod), append(s.pids, status.PID)
	}
	s.age()
	return s
}

// age waits until containerd has run for so long that it may be restarted.
func (s *site) age() {
	s.Helper()
	s.eventually("containerd to have run for ten seconds", func() bool {
		out, err := s.node.Systemctl(s.Context(), "show", "--value", "-p", "ActiveEnterTimestampMonotonic", "containerd")
		if err != nil {
			s.Fatal(err)
		}
		var since int64
		if _, err := fmt.Sscan(out, &since); err != nil {
			s.Fatal(err)
		}
		return monotonic()-time.Duration(since)*time.Microsecond > 11*time.Second
	})
}

// podMounts are what a pod of hotplate's sees of a node.
func podMounts() []rig.SandboxMount {
	return []rig.SandboxMount{
		{Source: "/run/containerd"}, {Source: "/run/systemd"}, {Source: "/etc/containerd"}, {Source: "/var/lib/hotplate"},
		{Target: "/tmp"},
	}
}

// full tells whether to run what takes long.
func full() bool { return os.Getenv("HOTPLATE_FULL") != "" }

// rescueDelay is longer than the rescue waits.
const rescueDelay = 4 * time.Minute

// hotplate is one run of hotplate restart in a sandbox.
type hotplate struct {
	*rig.Sandboxed
	site *site
}

// start starts hotplate restart.
func (s *site) start(args ...string) hotplate {
	s.Helper()
	p, err := s.node.RunSandboxed(s.Context(), rig.SandboxConfig{
		Program: program,
		Argv:    append([]string{"/hotplate", "restart", "--output", "json", "--log-level", "info", "--soak", "2s"}, args...),
		Mounts:  podMounts(),
	})
	if err != nil {
		s.Fatal(err)
	}
	return hotplate{p, s}
}

// end waits for its end and returns what it said.
func (h hotplate) end() (o restart.Outcome, code int) {
	h.site.Helper()
	code, err := h.Wait(h.site.Context())
	if err != nil {
		h.site.Fatal(err)
	}
	text := h.Output()
	h.site.Logf("hotplate restart (%d):\n%s", code, text)
	if i := strings.Index(text, "\n{"); i >= 0 {
		text = text[i+1:]
	}
	d := json.NewDecoder(strings.NewReader(text))
	if err := d.Decode(&o); err != nil {
		o.Reason = text
	}
	return o, code
}

// restart runs hotplate restart to its end.
func (s *site) restart(args ...string) restart.Outcome {
	s.Helper()
	o, _ := s.start(args...).end()
	return o
}

// check ends a row: the outcome is as wanted, the node is well, and the row is written down.
func (s *site) check(group, fault string, o restart.Outcome, want restart.Kind, reason string) {
	s.Helper()
	if o.Kind != want || !strings.Contains(o.Reason, reason) {
		s.Errorf("it ended as %s: %s; want %s with %q", o.Kind, o.Reason, want, reason)
	}
	pods := s.well()
	happened := string(o.Kind)
	if o.Rescued {
		happened += ", by the node itself"
	}
	rows.add(row{group: group, fault: fault, line: s.node.Line(), happened: happened + ": " + short(o.Reason), pods: pods,
		downtime: o.Downtime})
}

func short(text string) string {
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\n", " "), "|", `\|`)
	if len(text) > 160 {
		text = text[:157] + "…"
	}
	return text
}

// well checks that containerd works and every pod is what it was, and says it for the table.
func (s *site) well() string {
	s.Helper()
	s.eventually("CRI to work", s.criWorks)
	if len(s.pods) == 0 {
		return "ended by the reboot"
	}
	kept, numbers, longest := 0, 0, time.Duration(0)
	for i, pod := range s.pods {
		status, err := pod.Status(s.Context())
		if err != nil || status.PID != s.pids[i] || !status.Running {
			s.Errorf("pod %d had pid %d and is %+v, %v", i, s.pids[i], status, err)
			continue
		}
		if err := pod.Check(s.Context()); err != nil {
			s.Errorf("pod %d: %v", i, err)
			continue
		}
		lines, err := pod.Lines()
		if err != nil {
			s.Fatal(err)
		}
		gap, err := pod.LargestGap()
		if err != nil {
			s.Fatal(err)
		}
		kept, numbers, longest = kept+1, numbers+len(lines), max(longest, gap)
	}
	return fmt.Sprintf("%d of %d kept; none of %d numbers missed; gap %s", kept, len(s.pods), numbers, longest.Round(10*time.Millisecond))
}

// criWorks tells whether CRI says that its runtime is ready, which is what the kubelet asks.
func (s *site) criWorks() bool {
	cri, err := s.node.CRI(s.Context())
	if err != nil {
		return false
	}
	defer cri.Close()
	status, err := cri.Runtime.Status(s.Context(), &runtimeapi.StatusRequest{})
	return err == nil && slices.ContainsFunc(status.GetStatus().GetConditions(), func(c *runtimeapi.RuntimeCondition) bool {
		return c.GetType() == runtimeapi.RuntimeReady && c.GetStatus()
	})
}

// eventually waits for a condition.
func (s *site) eventually(what string, ok func() bool) {
	s.Helper()
	s.eventuallyIn(time.Minute, what, ok)
}

func (s *site) eventuallyIn(limit time.Duration, what string, ok func() bool) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), limit)
	defer cancel()
	for !ok() {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			s.Fatalf("waited in vain for %s", what)
		}
	}
}
