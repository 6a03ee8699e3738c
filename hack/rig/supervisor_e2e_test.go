//go:build e2e

package rig_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/hack/tools"
)

func TestSupervisorRespawnsContainerd(t *testing.T) {
	for _, line := range nodeLines(t) {
		for _, isolated := range []bool{false, true} {
			name := line
			if isolated {
				name += " in a PID namespace"
			}
			t.Run(name, func(t *testing.T) {
				s := rigtest.Supervisor(t, rig.SupervisorConfig{
					ContainerdConfig: rig.ContainerdConfig{Line: line}, PIDNamespace: isolated,
				})
				c := rigtest.Counter(t, s, "a")
				before := status(t, c)
				daemon := s.PID()
				for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
					if err := unix.Kill(daemon, signal); err != nil {
						t.Fatal(err)
					}
					again, err := s.WaitRespawn(t.Context(), daemon)
					if err != nil {
						t.Fatal(err)
					}
					daemon = again
					if err := c.CheckFile(t.Context()); err != nil {
						t.Error(err)
					}
					if after := status(t, c); after != before || !after.Running {
						t.Errorf("after %s the container is %+v, before it was %+v", signal, after, before)
					}
				}
				ours, err := os.Readlink("/proc/self/ns/pid")
				if err != nil {
					t.Fatal(err)
				}
				its, err := os.Readlink("/proc/" + strconv.Itoa(daemon) + "/ns/pid")
				if err != nil || (its != ours) != isolated {
					t.Errorf("containerd is in %s, %v, and we are in %s", its, err, ours)
				}
				waits := sandboxBeside(t, s)
				shim, err := c.ShimPID(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if !errors.Is(unix.Kill(daemon, 0), unix.ESRCH) {
					t.Error("containerd outlived Close")
				}
				if waits.Running() {
					t.Error("the program in a sandbox outlived Close")
				}
				if !isolated {
					eventually(t, "the shim to end", func() bool { return errors.Is(unix.Kill(shim, 0), unix.ESRCH) })
				}
			})
		}
	}
}

// sandboxBeside runs a program in a sandbox that sees the daemon's socket, and another one that waits to be ended.
func sandboxBeside(t *testing.T, s *rig.Supervisor) (waits *rig.Sandboxed) {
	t.Helper()
	b, err := tools.NewBuilder(tools.Config{})
	if err != nil {
		t.Fatal(err)
	}
	root, err := b.Ensure(t.Context(), "node-root")
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) *rig.Sandboxed {
		p, err := s.RunSandboxed(t.Context(), rig.SandboxConfig{
			Program: filepath.Join(root, "usr/bin/busybox"), Argv: append([]string{"/bin/busybox"}, args...),
			Mounts: []rig.SandboxMount{{Source: filepath.Dir(s.Address()), Target: "/run/containerd"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := run("test", "-S", "/run/containerd/containerd.sock")
	if status, err := p.Wait(t.Context()); status != 0 || err != nil {
		t.Errorf("in the sandbox there is no socket: status %d, %v\n%s", status, err, p.Output())
	}
	return run("sleep", "1000")
}

func TestSupervisedContainerdEndsWithItsSupervisor(t *testing.T) {
	for _, isolated := range []bool{false, true} {
		s := rigtest.Supervisor(t, rig.SupervisorConfig{
			ContainerdConfig: rig.ContainerdConfig{Line: "2.4"}, PIDNamespace: isolated,
		})
		daemon := s.PID()
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(daemon) + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(stat), ") ")
		loop, err := strconv.Atoi(strings.Fields(after)[1]) // the parent, see proc(5)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(loop, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "containerd to end", func() bool { return errors.Is(unix.Kill(daemon, 0), unix.ESRCH) })
		if pid := s.PID(); pid != 0 {
			t.Errorf("containerd is said to be process %d", pid)
		}
	}
}
