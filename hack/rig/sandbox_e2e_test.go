//go:build e2e

package rig_test

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// nodeSystem mounts a node's programs and libraries, for sandboxes that run them.
func nodeSystem(more ...rig.SandboxMount) []rig.SandboxMount {
	return append([]rig.SandboxMount{
		{Source: "/usr", ReadOnly: true},
		{Source: "/usr/lib", Target: "/lib", ReadOnly: true},
		{Source: "/usr/lib64", Target: "/lib64", ReadOnly: true},
	}, more...)
}

func shell(script string) []string {
	return []string{"/usr/bin/sh", "-c", "PATH=/usr/bin:/usr/sbin; " + script}
}

// output runs a program in a sandbox to its end.
func output(t *testing.T, n *rig.Node, cfg rig.SandboxConfig) (out string, status int) {
	t.Helper()
	s, err := n.RunSandboxed(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	status, err = s.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(s.Output()), status
}

func TestSandboxTalksToSystemdWithoutCapabilities(t *testing.T) {
	n := rigtest.Node(t, rig.NodeConfig{Line: "2.4"})
	program := filepath.Join(t.TempDir(), "askssystemd")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./testdata/askssystemd")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	want := "MainPID " + onNode(t, n, "systemctl", "show", "--value", "-p", "MainPID", "containerd")
	s, err := n.RunSandboxed(t.Context(), rig.SandboxConfig{
		Program: program, Argv: []string{"/bin/asks"}, Mounts: []rig.SandboxMount{{Source: "/run/systemd"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "an answer of systemd", func() bool { return s.Output() != "" || !s.Running() })
	if got := strings.TrimSpace(s.Output()); got != want {
		t.Errorf("the sandbox got %q from systemd, want %q", got, want)
	}
	if !s.Running() || s.Pid() == 0 {
		t.Errorf("running: %t, pid %d; want it to wait", s.Running(), s.Pid())
	}
	if err := s.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, err := s.Wait(t.Context()); status != 128+9 || err != nil {
		t.Errorf("after SIGKILL its status is %d, %v, want 137", status, err)
	}
	if _, status := output(t, n, rig.SandboxConfig{Program: program, Argv: []string{"/bin/asks"}}); status != 3 {
		t.Errorf("without /run/systemd the program ends with status %d, want its 3", status)
	}
}

func TestSandboxSeesWhatIsMountedAlone(t *testing.T) {
	n := rigtest.Node(t, rig.NodeConfig{Line: "2.4"})
	onNode(t, n, "touch", "/var/lib/containerd/secret")
	got, status := output(t, n, rig.SandboxConfig{
		Argv: shell(`exec 2>&1; ls -m / /run /var/lib; touch /x; touch /state/x && echo wrote; touch /etc/containerd/x; echo "$NAME"`),
		Env:  []string{"NAME=value"},
		Mounts: nodeSystem(rig.SandboxMount{Source: "/run/dbus"}, rig.SandboxMount{Source: "/var/lib/mine", Target: "/state"},
			rig.SandboxMount{Source: "/etc/containerd", ReadOnly: true}),
	})
	want := `/:
dev, etc, lib, lib64, proc, run, state, sys, usr

/run:
dbus
ls: cannot access '/var/lib': No such file or directory
touch: cannot touch '/x': Read-only file system
wrote
touch: cannot touch '/etc/containerd/x': Read-only file system
value`
	// What goes to standard output is written when a program ends, so the order differs.
	sorted := func(s string) []string { return slices.Sorted(strings.Lines(s + "\n")) }
	if status != 0 || !slices.Equal(sorted(got), sorted(want)) {
		t.Errorf("status %d, it sees\n%s\nwant\n%s", status, got, want)
	}
	if _, err := n.Exec(t.Context(), "test", "-e", "/var/lib/mine/x"); err != nil {
		t.Errorf("what it wrote: %v", err)
	}
}

func TestSandboxHasWhatItIsGivenAlone(t *testing.T) {
	n := rigtest.Node(t, rig.NodeConfig{Line: "2.4"})
	_, err := n.RunSandboxed(t.Context(), rig.SandboxConfig{Argv: []string{"/bin/missing"}})
	if err == nil || !strings.Contains(err.Error(), "/bin/missing") || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a program that is not there: %v", err)
	}
	const show = `grep -e CapEff -e CapBnd -e NoNewPrivs /proc/self/status; id -u; [ $$ = 1 ] && echo own pid; ` +
		`[ -d /proc/1/root/opt/containerd ] && echo host root; cat /sys/class/net/lo/ifindex; readlink /proc/self/ns/net; ` +
		`cat /proc/sys/kernel/random/boot_id`
	network := onNode(t, n, "readlink", "/proc/self/ns/net")
	boot := onNode(t, n, "cat", "/proc/sys/kernel/random/boot_id")
	got, _ := output(t, n, rig.SandboxConfig{Argv: shell(show), Mounts: nodeSystem()})
	want := strings.Join([]string{
		"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "0", "own pid", "1", network, boot,
	}, "\n")
	if got != want {
		t.Errorf("a sandbox without anything has\n%s\nwant\n%s", got, want)
	}

	got, _ = output(t, n, rig.SandboxConfig{
		Argv: shell(show), Mounts: nodeSystem(), Caps: []string{"CAP_CHOWN", "CAP_SYS_PTRACE"}, UID: 1000,
		HostPID: true, OwnNetwork: true,
	})
	lines := strings.Split(got, "\n")
	if lines[1] != "CapBnd:\t0000000000080001" || slices.Contains(lines, "own pid") || !slices.Contains(lines, "1000") ||
		slices.Contains(lines, network) || !slices.Contains(lines, boot) {
		t.Errorf("a sandbox with two capabilities, another user, the node's PIDs and its own network has\n%s", got)
	}
}
