package supervised

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

func TestUnit(t *testing.T) {
	kernels(t, func(t *testing.T, m *Manager) {
		want := systemd.Unit{
			Name: "containerd at " + m.socket, Description: "containerd without systemd", LoadState: "loaded",
			ActiveState: "activating", SubState: "start", Result: "success",
			Type: "notify", Restart: "always", KillMode: "process", Delegate: true,
		}
		u, err := m.UnitOfPID(t.Context(), 7)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, u); diff != "" {
			t.Errorf("without a daemon it is (-want +got):\n%s", diff)
		}
		daemon := listen(t, m, "listens")
		started := time.Now()
		if u, err = m.Unit(t.Context(), want.Name); err != nil {
			t.Fatal(err)
		}
		want.ActiveState, want.SubState, want.MainPID = "active", "running", daemon.Process.Pid
		want.ExecStart = []systemd.Exec{{Path: argv[0], Argv: argv}}
		if diff := cmp.Diff(want, u, cmpopts.IgnoreFields(systemd.Unit{}, "InvocationID", "StateChange")); diff != "" {
			t.Errorf("with a daemon it is (-want +got):\n%s", diff)
		}
		if len(u.InvocationID) != 32 {
			t.Errorf("its invocation is %q", u.InvocationID)
		}
		if u.StateChange.After(started) || started.Sub(u.StateChange) > time.Minute { // listen waits for no longer
			t.Errorf("it is said to have been started at %s, and was before %s", u.StateChange, started)
		}
		same, err := m.Unit(t.Context(), want.Name)
		if err != nil || same.InvocationID != u.InvocationID {
			t.Errorf("its invocation has become %q, %v", same.InvocationID, err)
		}
		end(daemon)
		listen(t, m, "listens")
		other, err := m.Unit(t.Context(), want.Name)
		if err != nil || other.InvocationID == u.InvocationID {
			t.Errorf("the next daemon's invocation is %q too, %v", other.InvocationID, err)
		}
	})
}

func TestOtherUnits(t *testing.T) {
	m := manager(t)
	listen(t, m, "listens")
	if _, err := m.Unit(t.Context(), "containerd.service"); !errors.Is(err, systemd.ErrNoUnit) {
		t.Errorf("Unit: %v", err)
	}
	if _, err := m.Restart(t.Context(), "containerd.service"); !errors.Is(err, systemd.ErrNoUnit) {
		t.Errorf("Restart: %v", err)
	}
	if _, err := m.Start(t.Context(), "kubelet.service"); !errors.Is(err, systemd.ErrNoUnit) {
		t.Errorf("Start: %v", err)
	}
	if _, err := m.Processes(t.Context(), "kubelet.service"); !errors.Is(err, systemd.ErrNoUnit) {
		t.Errorf("Processes: %v", err)
	}
}

func TestNothingIsArmed(t *testing.T) {
	m := manager(t)
	if err := m.Arm(t.Context(), systemd.Rescue{}); !errors.Is(err, ErrNoTimer) {
		t.Errorf("Arm: %v", err)
	}
	for name, ask := range map[string]func() (systemd.RescueState, error){
		"Disarm":      func() (systemd.RescueState, error) { return m.Disarm(t.Context(), "x") },
		"RescueState": func() (systemd.RescueState, error) { return m.RescueState(t.Context(), "x") },
	} {
		if state, err := ask(); err != nil || state != systemd.RescueAbsent {
			t.Errorf("%s: %s, %v", name, state, err)
		}
	}
}

func TestConnect(t *testing.T) {
	m := manager(t)
	if _, err := Connect(t.Context(), Config{Socket: "containerd.sock"}); err == nil {
		t.Error("a relative path is taken")
	}
	first, err := readProc("1", "comm")
	if err != nil {
		t.Fatal(err)
	}
	isSystemd := string(first) == "systemd\n"
	connect := func(want error) {
		t.Helper()
		if want == nil && isSystemd {
			want = ErrSystemd
		}
		if _, err := Connect(t.Context(), Config{Socket: m.socket}); !errors.Is(err, want) {
			t.Errorf("it is %v, and not %v", err, want)
		}
	}
	connect(nil) // nobody listens
	daemon := listen(t, m, "listens")
	connect(nil)
	end(daemon)
	other := start(t, command(named(t, "dockerd"), "listens", m.socket))
	eventually(t, "it to listen", func() bool {
		_, err := m.listener(t.Context())
		return errors.Is(err, ErrNotContainerd)
	})
	connect(ErrNotContainerd)
	end(other)
}

func TestProcesses(t *testing.T) {
	m := manager(t)
	link := filepath.Join(t.TempDir(), "link.sock")
	if err := os.Symlink(m.socket, link); err != nil {
		t.Fatal(err)
	}
	listen(t, m, "listens")
	// run runs a program that waits, with the command line of a shim.
	run := func(name string, args ...string) *exec.Cmd {
		cmd := command(named(t, "shim"), "hangs", "")
		cmd.Args = append([]string{name}, args...)
		return start(t, cmd)
	}
	const shim = "/usr/local/bin/containerd-shim-runc-v2"
	ours := run(shim, "-namespace", "k8s.io", "-id", "one", "-address", m.socket)
	linked := run(shim, "-namespace", "k8s.io", "-id", "two", "-address", link)
	run(shim, "-namespace", "k8s.io", "-id", "three", "-address", "/run/other/containerd.sock")
	run("/bin/sh", "-address", m.socket)
	run(shim, "-address")
	want := []systemd.Process{
		{PID: ours.Process.Pid, Args: ours.Args}, {PID: linked.Process.Pid, Args: linked.Args},
	}
	byPID := cmpopts.SortSlices(func(a, b systemd.Process) bool { return a.PID < b.PID })
	var diff string
	eventually(t, "the shims to be found", func() bool { // they have no command line of theirs for a moment
		got, err := m.Processes(t.Context(), m.name())
		if err != nil {
			t.Fatal(err)
		}
		diff = cmp.Diff(want, got, byPID)
		return diff == "" || len(got) > len(want)
	})
	if diff != "" {
		t.Errorf("shims (-want +got):\n%s", diff)
	}
}
