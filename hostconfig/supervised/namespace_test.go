package supervised

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// inNamespace runs an act as process 1 of a PID namespace, on a kernel as m's, and returns its output.
func inNamespace(t *testing.T, m *Manager, act string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a PID namespace needs root")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), role+"="+act, "SOCKET="+m.socket, "PROGRAM="+named(t, "containerd"))
	if strings.HasSuffix(t.Name(), "SO_PEERCRED") {
		cmd.Env = append(cmd.Env, "OLD=1")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", act, err, out)
	}
	return string(out)
}

// inside is what runs there.
func inside(act string) {
	err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("proc", "/proc", "proc", 0, ""))
	m, merr := newManager(Config{Socket: os.Getenv("SOCKET")})
	if err = errors.Join(err, merr); err == nil {
		if os.Getenv("OLD") != "" {
			m.oldKernel()
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		switch act {
		case "ask":
			_, err = m.UnitOfPID(ctx, 0)
		case "reuse":
			err = reuse(ctx, m)
		case "reuse early":
			err = reuseEarly(ctx, m)
		}
	}
	fmt.Println(err)
}

func TestOtherPIDNamespace(t *testing.T) {
	kernels(t, func(t *testing.T, m *Manager) {
		daemon := listen(t, m, "listens")
		if out := inNamespace(t, m, "ask"); !strings.Contains(out, ErrPIDNamespace.Error()) {
			t.Errorf("it says %s", out)
		}
		if m.pid(t) != daemon.Process.Pid {
			t.Error("the daemon has not survived")
		}
	})
}

// TestTakesAll has a daemon without which its PID namespace ends, and one whose process 1 stays.
func TestTakesAll(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a PID namespace needs root")
	}
	for name, all := range map[string]bool{"containerd": true, "tini": true, "sh": false} {
		t.Run("process 1 is "+name, func(t *testing.T) {
			m := manager(t)
			cmd := command(named(t, name), "listens", m.socket)
			if name != "containerd" {
				cmd.Env = append(cmd.Env, role+"=parent", "CHILD=listens")
			}
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
			start(t, cmd)
			var err error
			eventually(t, "a daemon to listen", func() bool {
				var u systemd.Unit
				u, err = m.UnitOfPID(t.Context(), 0)
				return err != nil || u.ActiveState == "active"
			})
			if errors.Is(err, ErrTakesAll) != all || !all && err != nil {
				t.Errorf("it is %v", err)
			}
			if all {
				if _, err := m.Restart(t.Context(), m.name()); !errors.Is(err, ErrTakesAll) {
					t.Errorf("to restart it is %v", err)
				}
			}
		})
	}
}

// TestReusedNumber gives the number of a daemon to another process, which can be done in a namespace of its own: after the
// daemon was found, and in between.
func TestReusedNumber(t *testing.T) {
	kernels(t, func(t *testing.T, m *Manager) {
		if out := inNamespace(t, m, "reuse"); out != "<nil>\n" {
			t.Error(out)
		}
	})
}

// TestReusedNumberEarly does it when the daemon's number is known, and its pidfd is not.
func TestReusedNumberEarly(t *testing.T) {
	m := manager(t)
	t.Run("SO_PEERCRED", func(t *testing.T) {
		if out := inNamespace(t, m, "reuse early"); out != "<nil>\n" {
			t.Error(out)
		}
	})
}

// listener waits for a daemon that was started.
func awaitListener(ctx context.Context, m *Manager) (*process, error) {
	for {
		p, err := m.listener(ctx)
		if err == nil || !errors.Is(err, errNobody) {
			return p, err
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func reuse(ctx context.Context, m *Manager) error {
	daemon := command(os.Getenv("PROGRAM"), "listens", m.socket)
	if err := daemon.Start(); err != nil {
		return err
	}
	p, err := awaitListener(ctx, m)
	if err != nil {
		return err
	}
	held, err := unix.Dup(p.fd)
	if err != nil {
		return err
	}
	end(daemon)
	other, err := startAs(p.pid)
	if err != nil {
		return err
	}
	defer end(other)
	if err := p.terminate(); err != nil {
		return fmt.Errorf("tell the one that has ended: %w", err)
	}
	if q, err := openProcess(held); !errors.Is(err, errEnded) {
		return fmt.Errorf("the one that has ended is taken for %+v, %w", q, err)
	}
	return lives(other)
}

func reuseEarly(ctx context.Context, m *Manager) error {
	daemon := command(os.Getenv("PROGRAM"), "listens", m.socket)
	if err := daemon.Start(); err != nil {
		return err
	}
	p, err := awaitListener(ctx, m)
	if err != nil {
		return err
	}
	var other *exec.Cmd
	open := m.pidfdOpen
	m.pidfdOpen = func(pid int) (int, error) {
		m.pidfdOpen = open
		end(daemon)
		if other, err = startAs(pid); err != nil {
			return 0, err
		}
		next := command(os.Getenv("PROGRAM"), "listens", m.socket)
		if err := next.Start(); err != nil {
			return 0, err
		}
		if _, err := awaitListener(ctx, m); err != nil {
			return 0, err
		}
		return open(pid)
	}
	if q, err := m.listener(ctx); !errors.Is(err, errNobody) {
		return fmt.Errorf("process %d, which has the number of the daemon's, is taken for %+v, %w", p.pid, q, err)
	}
	return lives(other)
}

// startAs starts a process that has this number.
func startAs(pid int) (*exec.Cmd, error) {
	for range 1000 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0o644); err != nil {
			return nil, err
		}
		cmd := exec.Command("/bin/sleep", "1000")
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		if cmd.Process.Pid == pid {
			return cmd, nil
		}
		end(cmd)
	}
	return nil, fmt.Errorf("no process got the number %d", pid)
}

// lives sees that nobody has ended a child.
func lives(cmd *exec.Cmd) error {
	var status syscall.WaitStatus
	if got, err := syscall.Wait4(cmd.Process.Pid, &status, syscall.WNOHANG, nil); got != 0 || err != nil {
		return fmt.Errorf("the other process has ended: %v, %w", status, err)
	}
	return nil
}
