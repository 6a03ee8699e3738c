//go:build e2e

package restart_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

// site is a node with pods that count, and what hotplate needs on it.
type site struct {
	counting
	node *rig.Node
}

func newSite(t *testing.T, cfg rig.NodeConfig) *site {
	t.Helper()
	node := rigtest.Node(t, cfg)
	s := &site{counting: startCounting(t, node), node: node}
	s.age()
	return s
}

// age waits until containerd has run for so long that it may be restarted.
func (s *site) age() {
	s.Helper()
	s.ageFor(10 * time.Second)
}

// ageFor waits until containerd has run for longer than a time.
func (s *site) ageFor(d time.Duration) {
	s.Helper()
	s.eventually("containerd to have run for "+d.String(), func() bool {
		out, err := s.node.Systemctl(s.Context(), "show", "--value", "-p", "ActiveEnterTimestampMonotonic", "containerd")
		if err != nil {
			s.Fatal(err)
		}
		var since int64
		if _, err := fmt.Sscan(out, &since); err != nil {
			s.Fatal(err)
		}
		return monotonic()-time.Duration(since)*time.Microsecond > d+time.Second
	})
}

// podMounts are what a pod of hotplate's sees of a node.
func podMounts() []rig.SandboxMount {
	return []rig.SandboxMount{
		{Source: "/run/containerd"}, {Source: "/run/systemd"}, {Source: "/etc/containerd"}, {Source: "/var/lib/hotplate"},
		{Target: "/tmp"},
	}
}

// rescueDelay is longer than the rescue waits.
const rescueDelay = 4 * time.Minute

// hotplate is one run of hotplate restart in a sandbox.
type hotplate struct {
	*rig.Sandboxed
	t *testing.T
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
	return hotplate{p, s.T}
}

// end waits for its end and returns what it said.
func (h hotplate) end() (o restart.Outcome, code int) {
	h.t.Helper()
	code, err := h.Wait(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	text := h.Output()
	h.t.Logf("hotplate restart (%d):\n%s", code, text)
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
		downtime: s.away(o)})
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
	return s.kept()
}
