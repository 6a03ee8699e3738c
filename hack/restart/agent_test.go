//go:build e2e

package restart_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

const (
	byAgent = "9 the agent does it"
	// agentConfig has no mirror, so that nothing is asked of a network, and no images.
	agentConfig = `
apiVersion: hotplate.dev/v1alpha1
registries:
- {host: registry.example.com, tls: {skipVerify: true}}
`
)

// TestAgent lets the agent itself do it.
func TestAgent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", dir, "../../cmd/hotplate-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build hotplate-agent: %v\n%s", err, out)
	}
	program := filepath.Join(dir, "hotplate-agent")
	for name, test := range map[string]func(*testing.T, string){
		"restarts where it is needed": agentRestarts, "says why the policy forbids it": agentForbidden,
		"is killed while it watches": agentKilled, "without systemd": agentWithoutSystemd,
		"takes a bad restart back": agentTakesBack, "without systemd where that is permitted": agentSupervised,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, program)
		})
	}
}

// agentOn is an agent in a sandbox of a node.
type agentOn struct {
	*rig.Sandboxed
	site    *site
	program string
}

// startAgent starts the agent with the settings of restart.
func (s *site) startAgent(program, settings string, mounts []rig.SandboxMount) *agentOn {
	s.Helper()
	a := &agentOn{site: s, program: program}
	a.configure(settings)
	a.Sandboxed = a.run(mounts, "--config", "/etc/hotplate/config.yaml", "--node-name", "node")
	s.Cleanup(func() {
		if s.Failed() {
			s.Logf("hotplate-agent:\n%s", a.Output())
		}
	})
	return a
}

// configure writes the agent's config in one step.
func (a *agentOn) configure(settings string) {
	a.site.Helper()
	a.site.write("/etc/hotplate/config.yaml.new", agentConfig+settings)
	if err := os.Rename(a.site.node.Path("/etc/hotplate/config.yaml.new"), a.site.node.Path("/etc/hotplate/config.yaml")); err != nil {
		a.site.Fatal(err)
	}
}

// run runs the program of the agent in a sandbox.
func (a *agentOn) run(mounts []rig.SandboxMount, args ...string) *rig.Sandboxed {
	a.site.Helper()
	p, err := a.site.node.RunSandboxed(a.site.Context(), rig.SandboxConfig{
		Program: a.program, Argv: append([]string{"/hotplate-agent"}, args...),
		Mounts: append(mounts, rig.SandboxMount{Source: "/etc/hotplate", ReadOnly: true}),
	})
	if err != nil {
		a.site.Fatal(err)
	}
	return p
}

// report asks the agent; false means that it does not answer.
func (a *agentOn) report() (r report.NodeReport, ok bool) {
	socket := fmt.Sprintf("/proc/%d/root/var/lib/hotplate/status.sock", a.site.node.Leader()) // short enough
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(a.site.Context(), http.MethodGet, "http://agent/v1/status", nil)
	if err != nil {
		a.site.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return r, false
	}
	defer resp.Body.Close()
	return r, json.NewDecoder(resp.Body).Decode(&r) == nil
}

// becomes waits until HostsLive has this reason, and returns the report.
func (a *agentOn) becomes(reason string) (r report.NodeReport) {
	a.site.Helper()
	a.site.eventually("HostsLive to be "+reason, func() bool {
		if !a.Running() {
			a.site.Fatalf("the agent has ended:\n%s", a.Output())
		}
		var ok bool
		r, ok = a.report()
		return ok && r.Condition(report.HostsLive).Reason == reason
	})
	return r
}

// ready waits until the node is Ready, and writes the row of the newest restart.
func (a *agentOn) ready(fault string, want restart.Kind) report.NodeReport {
	a.site.Helper()
	var r report.NodeReport
	a.site.eventually("the node to be Ready", func() bool {
		var ok bool
		r, ok = a.report()
		return ok && r.Ready
	})
	a.recorded(fault, r, want)
	return r
}

func (a *agentOn) recorded(fault string, r report.NodeReport, want restart.Kind) {
	a.site.Helper()
	if len(r.Restart.Records) == 0 {
		a.site.Fatalf("no restart is recorded: %+v", r)
	}
	o := r.Restart.Records[0]
	a.site.check(byAgent, fault, restart.Outcome{Kind: restart.Kind(o.How), Reason: o.Reason, Downtime: o.Downtime, Rescued: o.Rescued},
		want, "")
}

// says fails the test unless HostsLive says these.
func (a *agentOn) says(r report.NodeReport, parts ...string) {
	a.site.Helper()
	c := r.Condition(report.HostsLive)
	for _, part := range parts {
		if !strings.Contains(c.Message, part) {
			a.site.Errorf("HostsLive does not say %q: %s: %s", part, c.Reason, c.Message)
		}
	}
}

// stop ends the agent as Kubernetes does.
func (a *agentOn) stop() {
	a.site.Helper()
	if err := a.Signal(syscall.SIGTERM); err != nil {
		a.site.Fatal(err)
	}
	if code, err := a.Wait(a.site.Context()); err != nil || code != 0 {
		a.site.Errorf("the agent ended with %d, %v", code, err)
	}
}

func agentRestarts(t *testing.T, program string) {
	s := newSite(t, unset(t, "2.4"))
	before := s.read("/etc/containerd/config.toml")
	a := s.startAgent(program, "restart: {soak: 2s}\n", podMounts())
	r := a.ready("config_path unset", restart.Restarted)
	if c := r.Condition(report.HostsLive); c.Status != report.True {
		t.Errorf("HostsLive is %+v", c)
	}
	if log := a.Output(); strings.Contains(log, "NotAnswering") {
		t.Error("the restart was told as a failure of containerd")
	}
	s.leavesNothing()
	a.stop()

	pid := s.daemonPID()
	p := a.run(podMounts(), "uninstall")
	code, err := p.Wait(t.Context())
	if out := p.Output(); err != nil || code != 0 || !strings.Contains(out, "hotplate-restore.service is not installed any more") ||
		!strings.Contains(out, "put back /etc/containerd/config.toml") {
		t.Errorf("uninstall ended with %d, %v:\n%s", code, err, out)
	}
	s.untouched(pid)
	if got := s.read("/etc/containerd/config.toml"); got != before {
		t.Errorf("containerd's configuration is not as it was:\n%s", got)
	}
	if state := s.exec("systemctl", "show", "--value", "-p", "LoadState", restart.BootUnit); state != "not-found" {
		t.Errorf("to systemd %s is %s", restart.BootUnit, state)
	}
	if left := s.exec("find", "/etc/systemd/system", "/var/lib/hotplate", "-name", "*hotplate-*"); left != "" {
		t.Errorf("left: %s", left)
	}
}

func agentForbidden(t *testing.T, agent string) {
	s := newSite(t, unset(t, "2.4"))
	pid, before := s.daemonPID(), s.read("/etc/containerd/config.toml")
	a := s.startAgent(agent, "restart: {policy: Never, soak: 2s}\n", podMounts())
	r := a.becomes(report.RestartForbidden)
	a.says(r, "containerd does not read /etc/containerd/certs.d", "restart.policy is Never", "Set the registry config_path to exactly")
	if r.Ready {
		t.Error("the node is Ready")
	}
	if got := s.read("/etc/containerd/config.toml"); got != before {
		t.Errorf("containerd's configuration was changed:\n%s", got)
	}
	s.untouched(pid)

	// What it would do can be asked meanwhile.
	p, err := s.node.RunSandboxed(t.Context(), rig.SandboxConfig{
		Program: program, Argv: []string{"/hotplate", "restart", "--dry-run"}, Mounts: podMounts(),
	})
	if err != nil {
		t.Fatal(err)
	}
	code, err := p.Wait(t.Context())
	if out := p.Output(); err != nil || code != 0 || !strings.Contains(out, "+++ /etc/containerd/config.toml") ||
		!strings.HasSuffix(strings.TrimSpace(out), "it would be done") {
		t.Errorf("the dry run ended with %d, %v:\n%s", code, err, out)
	}
	s.untouched(pid)

	a.configure("restart: {soak: 2s}\n")
	a.ready("config_path unset, and the policy changes from Never", restart.Restarted)
}

func agentKilled(t *testing.T, program string) {
	s := newSite(t, unset(t, "2.4"))
	a := s.startAgent(program, "restart: {soak: 1m}\n", podMounts())
	s.eventually("the agent to watch containerd", func() bool { return strings.Contains(a.Output(), "watching containerd before") })
	if r := a.becomes(report.Restarting); r.Ready {
		t.Error("the node is Ready before the new configuration is believed")
	}
	if err := a.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := s.startAgent(program, "restart: {soak: 1m}\n", podMounts())
	s.eventually("the agent to find what was left", func() bool {
		return strings.Contains(again.Output(), "an earlier restart of containerd did not come to its end")
	})
	again.ready("it is killed while it watches, and started again", restart.Restarted)
	s.leavesNothing()
}

func agentWithoutSystemd(t *testing.T, program string) {
	s := newSite(t, unset(t, "2.4"))
	pid := s.daemonPID()
	var mounts []rig.SandboxMount
	for _, m := range podMounts() {
		if m.Source != "/run/systemd" {
			mounts = append(mounts, m)
		}
	}
	a := s.startAgent(program, "restart: {soak: 2s}\n", mounts)
	s.eventually("the agent to say what is missing", func() bool {
		r, ok := a.report()
		return ok && strings.Contains(r.Condition(report.HostsLive).Message, "cannot restart it here")
	})
	a.says(a.becomes(report.RestartNeeded), "/run/systemd", "Set the registry config_path to exactly")
	s.untouched(pid)
	a.stop()
}

// agentSupervised makes one try, as where an image of a node is made.
func agentSupervised(t *testing.T, program string) {
	s := newPlace(t, rig.SupervisorConfig{ContainerdConfig: rig.ContainerdConfig{Line: "2.4"}})
	before, config := s.supervisor.PID(), filepath.Join(s.dir, "agent.yaml")
	once := func(settings string) (string, int) {
		t.Helper()
		if err := os.WriteFile(config, []byte(agentConfig+settings), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := s.supervisor.RunSandboxed(t.Context(), rig.SandboxConfig{
			Program: program, HostPID: true,
			Argv: []string{"/hotplate-agent", "--once", "--node-name", "node", "--config", config, "--address", s.supervisor.Address(),
				"--hosts-dir", filepath.Join(s.dir, "certs.d"), "--state-dir", filepath.Join(s.dir, "hotplate")},
			Mounts: []rig.SandboxMount{{Target: "/tmp"}, {Source: s.dir}, {Source: filepath.Dir(s.supervisor.Address())},
				{Source: s.bin, ReadOnly: true}},
		})
		if err != nil {
			t.Fatal(err)
		}
		code, err := p.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return p.Output(), code
	}
	if out, code := once("restart: {soak: 2s}\n"); code == 0 || !strings.Contains(out, "restart.withoutRescue permits") {
		t.Errorf("without leave it ended with %d:\n%s", code, out)
	}
	s.untouched(before)
	out, code := once("restart: {soak: 2s, withoutRescue: true}\n")
	if code != 0 || !strings.Contains(out, "node: Ready\n") || s.supervisor.PID() == before {
		t.Errorf("it ended with %d:\n%s", code, out)
	}
	s.check("the agent does it", restart.Outcome{Kind: restart.Restarted}, restart.Restarted, "")
	s.leavesNothing()
}

func agentTakesBack(t *testing.T, program string) {
	s := newSite(t, faulty(t, "2.4", "exit 1"))
	old := s.read("/etc/containerd/config.toml")
	a := s.startAgent(program, "restart: {soak: 2s}\n", podMounts())
	r := a.becomes(report.RolledBack)
	a.says(r, "did not start")
	a.recorded("it does not start with the new configuration", r, restart.RolledBack)
	s.putBack(old)
	s.leavesNothing()
}
