//go:build e2e

package systemd_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// A systemd that is stopped keeps nobody for longer than the context says, and is found again when it goes on.
func TestStoppedSystemd(t *testing.T) {
	n := rigtest.Node(t, rig.NodeConfig{Line: "2.4", NoCRI: true})
	cfg := systemd.Config{PrivateSocket: "/nonexistent", SystemBus: n.Path("/run/dbus/system_bus_socket")}
	m, err := systemd.Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	signal := func(sig unix.Signal) {
		if err := unix.Kill(n.Leader(), sig); err != nil {
			t.Fatal(err)
		}
	}
	signal(unix.SIGSTOP)
	defer signal(unix.SIGCONT)
	short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := m.Unit(short, "containerd.service"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Unit: %v", err)
	}
	if _, err := m.Restart(short, "containerd.service"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Restart: %v", err)
	}
	short, cancel = context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err = systemd.Connect(short, cfg)
	if !errors.Is(err, systemd.ErrUnreachable) || !strings.Contains(err.Error(), "is PID 1 stopped, or very busy?") {
		t.Errorf("Connect: %v", err)
	}
	signal(unix.SIGCONT)
	if u, err := m.Unit(t.Context(), "containerd.service"); err != nil || u.LoadState != "loaded" {
		t.Errorf("afterwards: %s, %v", u.LoadState, err)
	}
}
