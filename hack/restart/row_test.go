//go:build e2e

package restart_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

// counters is how many pods count on each node.
const counters = 2

// rows are what the table says, in the order in which the tests ran.
var rows table

type table struct {
	mu   sync.Mutex
	rows []row // guarded by mu
}

// row is one line of the table.
type row struct {
	Group, Fault, Line, Happened string
	Downtime                     time.Duration
	Took                         time.Duration
}

func (t *table) add(r row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = append(t.rows, r)
}

// write writes the table as Markdown. Without a file it goes to the standard output.
func (t *table) write(file string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.rows) == 0 {
		return nil
	}
	slices.SortStableFunc(t.rows, func(a, b row) int { return strings.Compare(a.Group, b.Group) })
	var b strings.Builder
	b.WriteString("| group | fault | containerd | what happened | containers | away |\n|---|---|---|---|---|---:|\n")
	for _, r := range t.rows {
		away := "-"
		if r.Downtime > 0 {
			away = r.Downtime.Round(time.Millisecond).String()
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | kept, no number missed | %s |\n", r.Group, r.Fault, r.Line, r.Happened, away)
	}
	if file == "" {
		fmt.Print(b.String())
		return nil
	}
	return os.WriteFile(file, []byte(b.String()), 0o644)
}

// site is a node with pods that count, and what hotplate needs on it.
type site struct {
	*testing.T
	node  *rig.Node
	pods  []*rig.Counter
	pids  []int
	began time.Time
}

func newSite(t *testing.T, cfg rig.NodeConfig) *site {
	t.Helper()
	s := &site{T: t, node: rigtest.Node(t, cfg), began: time.Now()}
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
	s.well()
	happened := string(o.Kind)
	if o.Rescued {
		happened += ", by the node itself"
	}
	rows.add(row{Group: group, Fault: fault, Line: s.node.Line(), Happened: happened + ": " + short(o.Reason),
		Downtime: o.Downtime, Took: time.Since(s.began)})
}

func short(text string) string {
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\n", " "), "|", `\|`)
	if len(text) > 160 {
		text = text[:157] + "…"
	}
	return text
}

// well checks that containerd works and every pod is what it was.
func (s *site) well() {
	s.Helper()
	s.eventually("CRI to work", s.criWorks)
	for i, pod := range s.pods {
		status, err := pod.Status(s.Context())
		if err != nil || status.PID != s.pids[i] || !status.Running {
			s.Errorf("pod %d had pid %d and is %+v, %v", i, s.pids[i], status, err)
			continue
		}
		if err := pod.Check(s.Context()); err != nil {
			s.Errorf("pod %d: %v", i, err)
		}
	}
}

// criWorks tells whether containerd serves CRI.
func (s *site) criWorks() bool {
	cri, err := s.node.CRI(s.Context())
	if err != nil {
		return false
	}
	cri.Close()
	return true
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

// read reads a file of the node.
func (s *site) read(path string) string {
	s.Helper()
	data, err := os.ReadFile(s.node.Path(path))
	if err != nil {
		s.Fatal(err)
	}
	return string(data)
}

func (s *site) write(path, text string) {
	s.Helper()
	file := s.node.Path(path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		s.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		s.Fatal(err)
	}
}

// exec runs a program on the node.
func (s *site) exec(argv ...string) string {
	s.Helper()
	out, err := s.node.Exec(s.Context(), argv...)
	if err != nil {
		s.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// kill sends a signal to a process by its pid on the node.
func (s *site) kill(signal string, pid int) {
	s.Helper()
	s.exec("/bin/kill", "-"+signal, strconv.Itoa(pid))
}

// daemonPID is containerd's, as systemd has it.
func (s *site) daemonPID() string {
	s.Helper()
	return s.exec("systemctl", "show", "--value", "-p", "MainPID", "containerd")
}

// untouched checks that the daemon was not restarted.
func (s *site) untouched(before string) {
	s.Helper()
	if now := s.daemonPID(); now != before {
		s.Errorf("containerd had pid %s and has %s", before, now)
	}
}

// leavesNothing checks that no transaction, marker or rescue is left.
func (s *site) leavesNothing() {
	s.Helper()
	for _, name := range []string{"journal.json", "marker", "marker.restored", "backup", "candidate"} {
		if _, err := os.Lstat(s.node.Path("/var/lib/hotplate/restart/" + name)); !errors.Is(err, fs.ErrNotExist) {
			s.Errorf("%s is left: %v", name, err)
		}
	}
	if units := s.exec("systemctl", "list-units", "--all", "--no-legend", "hotplate-rescue-*"); units != "" {
		s.Errorf("systemd still has %s", units)
	}
}
