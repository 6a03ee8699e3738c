//go:build e2e

package rig_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// nodeLines are the lines to test nodes with: 2.4 alone unless somebody chose others.
func nodeLines(t *testing.T) []string {
	if os.Getenv(rigtest.LinesVariable) == "" {
		return []string{"2.4"}
	}
	return rigtest.Lines(t)
}

// eventually waits until the condition holds. what is what the test waits for.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("in vain for half a minute: waited for %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// onNode runs a program that is not to fail, and returns what it prints.
func onNode(t *testing.T, n *rig.Node, argv ...string) string {
	t.Helper()
	out, err := n.Exec(t.Context(), argv...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func status(t *testing.T, c *rig.Counter) rig.CounterStatus {
	t.Helper()
	s, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func lines(t *testing.T, c *rig.Counter) int {
	t.Helper()
	l, err := c.Lines()
	if err != nil {
		t.Fatal(err)
	}
	return len(l)
}

func TestRestartKeepsContainers(t *testing.T) {
	for _, line := range nodeLines(t) {
		t.Run(line, func(t *testing.T) {
			n := rigtest.Node(t, rig.NodeConfig{Line: line})
			if state := onNode(t, n, "systemctl", "is-system-running"); state != "running" {
				t.Errorf("systemd is %q, want running; failed units:\n%s", state, onNode(t, n, "systemctl", "--failed"))
			}
			if names := onNode(t, n, "busctl", "list", "--no-legend"); !strings.Contains(names, "org.freedesktop.systemd1") {
				t.Errorf("on D-Bus there is no systemd but\n%s", names)
			}
			for property, want := range map[string]string{
				"Type": "notify", "Delegate": "yes", "KillMode": "process", "Restart": "always", "RestartUSec": "5s",
				"ActiveState": "active", "ControlGroup": "/system.slice/containerd.service",
			} {
				got, err := n.Systemctl(t.Context(), "show", "--value", "-p", property, "containerd")
				if err != nil || strings.TrimSpace(got) != want {
					t.Errorf("containerd's %s is %q, %v, want %q", property, got, err, want)
				}
			}

			c := rigtest.Counter(t, n, "a")
			before, daemon := status(t, c), onNode(t, n, "systemctl", "show", "--value", "-p", "MainPID", "containerd")
			for range 2 {
				if _, err := n.Systemctl(t.Context(), "restart", "containerd"); err != nil {
					t.Fatal(err)
				}
				if err := n.WaitReady(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := c.Check(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if after := status(t, c); after != before || !after.Running {
				t.Errorf("after restarts the container is %+v, before it was %+v", after, before)
			}
			if now := onNode(t, n, "systemctl", "show", "--value", "-p", "MainPID", "containerd"); now == daemon {
				t.Error("containerd was not restarted")
			}
			gap, err := c.LargestGap()
			if err != nil {
				t.Error(err)
			}
			t.Logf("the longest time between two numbers was %s", gap)
		})
	}
}

// The other direction of the test above: were the node's cgroups not its own, KillMode would kill nothing.
func TestKillModeMixedLosesContainersOfThatNodeAlone(t *testing.T) {
	for _, line := range nodeLines(t) {
		t.Run(line, func(t *testing.T) {
			mixed := rigtest.Node(t, rig.NodeConfig{
				Line: line, DropIns: map[string]string{"10-kill.conf": "[Service]\nKillMode=mixed\n"},
			})
			other := rigtest.Node(t, rig.NodeConfig{Line: line})
			lost, kept := rigtest.Counter(t, mixed, "a"), rigtest.Counter(t, other, "a")
			before := status(t, kept)
			shim, err := lost.ShimPID(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			cgroup := onNode(t, mixed, "cat", fmt.Sprintf("/proc/%d/cgroup", shim))
			if !strings.Contains(cgroup, ":/system.slice/containerd.service") {
				t.Errorf("the shim is in the cgroups\n%s\nwant it in containerd's", cgroup)
			}
			if _, err := mixed.Systemctl(t.Context(), "restart", "containerd"); err != nil {
				t.Fatal(err)
			}
			if err := mixed.WaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the container to be lost", func() bool { return !status(t, lost).Running })
			if _, err := mixed.Exec(t.Context(), "test", "-e", fmt.Sprintf("/proc/%d", shim)); err == nil {
				t.Error("the shim outlived the restart")
			}
			end := lines(t, lost)
			if err := kept.Check(t.Context()); err != nil {
				t.Error(err)
			}
			if now := lines(t, lost); now != end {
				t.Errorf("the container that is lost counts on, from %d to %d", end, now)
			}
			if after := status(t, kept); after != before {
				t.Errorf("the other node's container is %+v, before it was %+v", after, before)
			}
		})
	}
}

func TestConfigurationsOfANode(t *testing.T) {
	for _, line := range nodeLines(t) {
		for _, version := range rig.ConfigVersions(line) {
			t.Run(fmt.Sprintf("%s version %d", line, version), func(t *testing.T) {
				text, err := rig.BaseConfig(line, version, rig.NodeHostsDir)
				if err != nil {
					t.Fatal(err)
				}
				n := rigtest.Node(t, rig.NodeConfig{Line: line, ConfigTOML: text})
				if got, err := os.ReadFile(n.Path("/etc/containerd/config.toml")); err != nil || string(got) != text {
					t.Errorf("the node has the configuration\n%s%v\nwant\n%s", got, err, text)
				}
				if dump := onNode(t, n, "containerd", "config", "dump"); !strings.Contains(dump, rig.NodeHostsDir) {
					t.Errorf("containerd does not understand\n%s", text)
				}
				rigtest.Counter(t, n, "a")
			})
		}
		t.Run(line+" without", func(t *testing.T) {
			n := rigtest.Node(t, rig.NodeConfig{Line: line, NoConfig: true})
			if _, err := os.Stat(n.Path("/etc/containerd/config.toml")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("config.toml: %v, want none", err)
			}
			rigtest.Counter(t, n, "a")
		})
		t.Run(line+" broken", func(t *testing.T) {
			n := rigtest.Node(t, rig.NodeConfig{Line: line, ConfigTOML: "[", NoCRI: true})
			eventually(t, "systemd to see that containerd fails", func() bool {
				return onNode(t, n, "systemctl", "show", "--value", "-p", "Result", "containerd") == "exit-code"
			})
		})
	}
	if _, err := rig.BaseConfig("1.7", 3, ""); err == nil {
		t.Error("a configuration of version 3 for containerd 1.7 is no error")
	}
}

func TestRebootKeepsTheDiskAlone(t *testing.T) {
	const unit = "[Service]\nType=oneshot\nExecStart=/opt/boots.sh\n" +
		"[Install]\nWantedBy=containerd.service multi-user.target\n"
	n := rigtest.Node(t, rig.NodeConfig{
		Line:  "2.4",
		Files: map[string]string{"/opt/boots.sh": "#!/bin/sh\necho >>/var/lib/boots\n", "/etc/motd": "hello"},
		Units: map[string]string{"boots.service": unit},
	})
	bootID := func() string { return onNode(t, n, "cat", "/proc/sys/kernel/random/boot_id") }
	boots := func() int {
		text, err := os.ReadFile(n.Path("/var/lib/boots"))
		if err != nil {
			t.Fatal(err)
		}
		return len(text)
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	ids := []string{strings.TrimSpace(string(kernel)), bootID()}
	c := rigtest.Counter(t, n, "a")
	if got := onNode(t, n, "cat", "/etc/motd"); got != "hello" {
		t.Errorf("the file that the node was to have has %q", got)
	}
	again := map[string]func() error{
		"reboot": func() error { return n.Reboot(t.Context()) },
		"power loss": func() error {
			return errors.Join(n.Kill(), n.Boot(t.Context()))
		},
	}
	for i, name := range []string{"reboot", "power loss"} {
		onNode(t, n, "systemd-run", "--unit=later", "--on-active=1h", "/bin/true")
		for _, path := range []string{"/etc/mine", "/var/lib/mine", "/usr/local/lib/mine", "/run/mine"} {
			onNode(t, n, "touch", path)
		}
		if err := again[name](); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for path, want := range map[string]bool{
			"/etc/mine": true, "/var/lib/mine": true, "/usr/local/lib/mine": true, "/run/mine": false,
		} {
			if _, err := n.Exec(t.Context(), "test", "-e", path); (err == nil) != want {
				t.Errorf("%s: %s is there: %t, want %t", name, path, err == nil, want)
			}
		}
		if got := onNode(t, n, "systemctl", "show", "--value", "-p", "LoadState", "later.timer"); got != "not-found" {
			t.Errorf("%s: the transient timer is %q, want not-found", name, got)
		}
		id := bootID()
		if slices.Contains(ids, id) {
			t.Errorf("%s: boot_id %s is one of %s", name, id, ids)
		}
		ids = append(ids, id)
		if status(t, c).Running {
			t.Errorf("%s: a container outlived it", name)
		}
		if got := boots(); got != i+2 {
			t.Errorf("%s: the unit ran %d times, want %d", name, got, i+2)
		}
	}
	if err := rigtest.Counter(t, n, "b").Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// leftOf lists what there is of a node: its processes, by any cgroup of this name, its cgroups and its mounts.
func leftOf(t *testing.T, cgroup, dir string) []string {
	t.Helper()
	var left []string
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		in, _ := os.ReadFile(p + "/cgroup")      // it may have ended
		sees, _ := os.ReadFile(p + "/mountinfo") // likewise
		if strings.Contains(string(in), cgroup) {
			left = append(left, p)
		}
		if strings.Contains(string(sees), " "+dir) {
			left = append(left, "mounts of "+p)
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/" + cgroup, "/sys/fs/cgroup/*/" + cgroup} {
		cgroups, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, cgroups...)
	}
	return left
}

// cgroupOf is the name of a node's cgroup.
func cgroupOf(t *testing.T, leader int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", leader))
	if err != nil {
		t.Fatal(err)
	}
	_, name, _ := strings.Cut(string(text), ":/")
	name, _, _ = strings.Cut(name, "/")
	name, _, _ = strings.Cut(name, "\n")
	if !strings.HasPrefix(name, "rig-") {
		t.Fatalf("process %d is in the cgroups\n%s", leader, text)
	}
	return name
}

func TestCloseLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	n := rigtest.Node(t, rig.NodeConfig{Line: "2.4", Dir: dir})
	rigtest.Counter(t, n, "a")
	// A process that has gone from its parent, in namespaces and with a mount of its own.
	const daemon = "unshare --mount --net --pid --fork sh -c 'mount -t tmpfs tmpfs /mnt; exec sleep 1000' >/dev/null 2>&1 &"
	onNode(t, n, "sh", "-c", daemon)
	cgroup := cgroupOf(t, n.Leader())
	network, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", n.Leader()))
	if err != nil {
		t.Fatal(err)
	}
	if left := leftOf(t, cgroup, dir); len(left) < 10 {
		t.Fatalf("of a node that runs there is only %q", left)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if left := leftOf(t, cgroup, dir); len(left) > 0 {
		t.Errorf("Close left %q", left)
	}
	users, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range users {
		if ns, err := os.Readlink(path); err == nil && ns == network {
			t.Errorf("%s is the node's network namespace", path)
		}
	}
	if _, err := n.Exec(t.Context(), "true"); err == nil {
		t.Error("a program runs on a node that is off")
	}
}

// childDir is set in a process that is to be killed while its node runs.
const childDir = "RIG_TEST_CHILD_DIR"

func TestKilledProcessLeavesOnlyEmptyCgroups(t *testing.T) {
	if dir := os.Getenv(childDir); dir != "" {
		n, err := rig.StartNode(t.Context(), rig.NodeConfig{Line: "2.4", Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		rigtest.Counter(t, n, "a")
		if err := os.WriteFile(filepath.Join(dir, "leader"), []byte(strconv.Itoa(n.Leader())), 0o644); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	rigtest.RequireRoot(t)
	dir := t.TempDir()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), childDir+"="+dir)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	var leader int
	eventually(t, "the child's node to run", func() bool {
		text, err := os.ReadFile(filepath.Join(dir, "leader"))
		if err != nil {
			return false
		}
		leader, err = strconv.Atoi(string(text))
		return err == nil
	})
	cgroup := cgroupOf(t, leader)
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the child ended by itself")
	}
	isCgroup := func(path string) bool { return strings.HasPrefix(path, "/sys/fs/cgroup/") }
	eventually(t, "the node to end", func() bool {
		return !slices.ContainsFunc(leftOf(t, cgroup, dir), func(s string) bool { return !isCgroup(s) })
	})
	if !errors.Is(unix.Kill(leader, 0), unix.ESRCH) {
		t.Error("the node's systemd runs")
	}
	rigtest.Node(t, rig.NodeConfig{Line: "2.4"})
	if left := leftOf(t, cgroup, dir); len(left) > 0 {
		t.Errorf("after the next node began there is %q", left)
	}
}

func TestNodeSaysWhatIsWrongWithIt(t *testing.T) {
	rigtest.RequireRoot(t)
	for name, tt := range map[string]struct {
		cfg  rig.NodeConfig
		want string
	}{
		"no such line":      {rig.NodeConfig{Line: "3.0", Dir: "/nowhere"}, "2.4"},
		"relative Dir":      {rig.NodeConfig{Line: "2.4", Dir: "relative"}, "absolute"},
		"a file in a link":  {rig.NodeConfig{Line: "2.4", Files: map[string]string{"/lib/x": ""}}, "/usr/lib/x"},
		"a file in a tmpfs": {rig.NodeConfig{Line: "2.4", Files: map[string]string{"/run/x": ""}}, "disk"},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.cfg.Dir == "" {
				tt.cfg.Dir = t.TempDir()
			}
			n, err := rig.StartNode(t.Context(), tt.cfg)
			if err == nil {
				t.Fatal("it boots", n.Close())
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want something about %s", err, tt.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := rig.StartNode(ctx, rig.NodeConfig{Line: "2.4", Dir: t.TempDir()}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}
