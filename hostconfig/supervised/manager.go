package supervised

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// Config is what a Manager is made for.
type Config struct {
	// Socket is the path of containerd's socket.
	Socket string
}

// Manager answers for one containerd what systemd answers for its unit: it is a restart.Systemd, whose contracts are those of
// systemd.Manager, but for what is said here. Only the unit of UnitOfPID is known, under that name. It is safe for concurrent
// use, and holds nothing open between two calls.
type Manager struct {
	socket string
	bootID string

	peerPidfd func(fd int) (int, error)  // of a connection's descriptor
	pidfdOpen func(pid int) (int, error) // of a number

	mu   sync.Mutex
	argv []string // of the daemon that was seen last; guarded by mu
	from int      // its parent; guarded by mu
}

// Connect looks whether the containerd on the socket can be restarted without systemd. The error is ErrSystemd,
// ErrPIDNamespace, ErrNotContainerd or ErrTakesAll where it cannot. That nobody listens is no error.
func Connect(ctx context.Context, cfg Config) (*Manager, error) {
	m, err := newManager(cfg)
	if err != nil {
		return nil, err
	}
	p, err := m.listener(ctx)
	switch {
	case errors.Is(err, errNobody):
	case err != nil:
		return nil, err
	default:
		p.close()
	}
	// In a PID namespace of our own, process 1 says nothing. So this comes after ErrPIDNamespace.
	first, err := readProc("1", "comm")
	if err != nil {
		return nil, fmt.Errorf("look what process 1 is: %w", err)
	}
	if strings.TrimSpace(string(first)) == "systemd" {
		return nil, ErrSystemd
	}
	return m, nil
}

func newManager(cfg Config) (*Manager, error) {
	if !filepath.IsAbs(cfg.Socket) {
		return nil, fmt.Errorf("containerd's socket %q is not an absolute path", cfg.Socket)
	}
	id, err := readProc("sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read the boot id: %w", err)
	}
	return &Manager{
		socket: filepath.Clean(cfg.Socket), bootID: strings.TrimSpace(string(id)), peerPidfd: peerPidfd,
		pidfdOpen: func(pid int) (int, error) { return unix.PidfdOpen(pid, 0) },
	}, nil
}

// name is what the daemon is called in the place of a unit's name.
func (m *Manager) name() string { return "containerd at " + m.socket }

func (m *Manager) known(name string) error {
	if name != m.name() {
		return fmt.Errorf("%q: there is no systemd, only %s: %w", name, m.name(), systemd.ErrNoUnit)
	}
	return nil
}

// remember keeps by what a successor of the daemon is known that hangs before it listens.
func (m *Manager) remember(p *process) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.argv, m.from = p.argv, p.parent
}

func (m *Manager) isSuccessor(p *process) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.argv) > 0 && p.parent == m.from && slices.Equal(p.argv, m.argv)
}

// Unit describes the daemon as a unit that is active while it listens, and otherwise about to start.
func (m *Manager) Unit(ctx context.Context, name string) (systemd.Unit, error) {
	if err := m.known(name); err != nil {
		return systemd.Unit{}, err
	}
	return m.UnitOfPID(ctx, 0)
}

// UnitOfPID is the daemon's, whatever the number: a daemon in a PID namespace of its own does not know ours.
func (m *Manager) UnitOfPID(ctx context.Context, _ int) (systemd.Unit, error) {
	u := systemd.Unit{
		Name: m.name(), Description: "containerd without systemd", LoadState: "loaded",
		ActiveState: "activating", SubState: "start", Result: "success",
		Type: "notify", Restart: "always", KillMode: "process", Delegate: true, // SIGTERM goes to the daemon alone
	}
	p, err := m.listener(ctx)
	if errors.Is(err, errNobody) {
		return u, nil
	}
	if err != nil {
		return systemd.Unit{}, err
	}
	defer p.close()
	u.ActiveState, u.SubState = "active", "running"
	u.InvocationID, u.MainPID = p.invocation(m.bootID), p.pid
	u.StateChange = time.Now().Add(-time.Duration(ticks()-p.start) * tick)
	u.ExecStart = []systemd.Exec{{Path: p.binary(), Argv: p.argv}}
	return u, nil
}

// Dependants are none.
func (m *Manager) Dependants(context.Context, string) ([]systemd.Unit, error) { return nil, nil }

// Processes are the shims of this daemon, wherever their cgroups are.
func (m *Manager) Processes(_ context.Context, name string) ([]systemd.Process, error) {
	if err := m.known(name); err != nil {
		return nil, err
	}
	pids, err := numbers()
	if err != nil {
		return nil, fmt.Errorf("look for containerd's shims: %w", err)
	}
	var shims []systemd.Process
	for _, pid := range pids {
		line, err := readProc(fmt.Sprint(pid), "cmdline")
		if err != nil {
			continue // it has ended
		}
		if args := parseCmdline(line); m.isShim(args) {
			shims = append(shims, systemd.Process{PID: pid, Args: args})
		}
	}
	return shims, nil
}

// isShim tells whether a command line is that of a shim of this daemon (core/runtime/v2/shim/util.go, Command, 2.4.2; the
// same in 1.6).
func (m *Manager) isShim(args []string) bool {
	if len(args) == 0 || !strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") {
		return false
	}
	i := slices.Index(args, "-address") + 1
	return i > 0 && i < len(args) && sameFile(args[i], m.socket)
}

// sameFile tells whether two paths lead to one file, or are the same where there is none.
func sameFile(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// ResetFailed does nothing: there is no limit of starts.
func (m *Manager) ResetFailed(context.Context, string) error { return nil }

// Reload does nothing.
func (m *Manager) Reload(context.Context) error { return nil }

// Enable does nothing.
func (m *Manager) Enable(context.Context, ...string) error { return nil }

// Disable does nothing.
func (m *Manager) Disable(context.Context, ...string) error { return nil }

// Arm fails: it is ErrNoTimer.
func (m *Manager) Arm(context.Context, systemd.Rescue) error { return ErrNoTimer }

// Disarm says that nothing is armed.
func (m *Manager) Disarm(context.Context, string) (systemd.RescueState, error) {
	return systemd.RescueAbsent, nil
}

// RescueState says that nothing is armed.
func (m *Manager) RescueState(context.Context, string) (systemd.RescueState, error) {
	return systemd.RescueAbsent, nil
}

// Rescues are none.
func (m *Manager) Rescues(context.Context, string) ([]string, error) { return nil, nil }

// Forget does nothing.
func (m *Manager) Forget(context.Context, string) error { return nil }
