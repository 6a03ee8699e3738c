package supervised

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestListener(t *testing.T) {
	kernels(t, func(t *testing.T, m *Manager) {
		if _, err := m.listener(t.Context()); !errors.Is(err, errNobody) {
			t.Errorf("without a socket it is %v", err)
		}
		first := listen(t, m, "listens")
		end(first)
		if _, err := os.Stat(m.socket); err != nil {
			t.Fatal(err)
		}
		if _, err := m.listener(t.Context()); !errors.Is(err, errNobody) {
			t.Errorf("with the socket of one that has ended it is %v", err)
		}
		second := listen(t, m, "listens")
		p, err := m.listener(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		if p.pid != second.Process.Pid {
			t.Errorf("it is process %d, and not %d", p.pid, second.Process.Pid)
		}
	})
}

func TestListenerIsNotContainerd(t *testing.T) {
	kernels(t, func(t *testing.T, m *Manager) {
		start(t, command(named(t, "dockerd"), "listens", m.socket))
		var err error
		eventually(t, "it to listen", func() bool {
			_, err = m.listener(t.Context())
			return !errors.Is(err, errNobody)
		})
		if !errors.Is(err, ErrNotContainerd) || !strings.Contains(err.Error(), "dockerd") {
			t.Errorf("it is %v", err)
		}
	})
}

// TestListenerChanges has the daemon end, and another one take its socket, when its number is known and its pidfd is not.
func TestListenerChanges(t *testing.T) {
	m := manager(t)
	first := listen(t, m, "listens")
	open := m.pidfdOpen
	var second *exec.Cmd
	m.oldKernel()
	m.pidfdOpen = func(pid int) (int, error) {
		m.pidfdOpen = open
		fd, err := open(pid) // while it has not been waited for
		end(first)
		second = listen(t, m, "listens")
		return fd, err
	}
	if p, err := m.listener(t.Context()); !errors.Is(err, errNobody) {
		t.Errorf("it is %+v, %v", p, err)
	}
	if m.pid(t) != second.Process.Pid {
		t.Error("the second one is not found")
	}
}
