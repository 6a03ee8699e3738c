package systemd

import (
	"context"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// Forever is a time that systemd calls infinity.
const Forever = time.Duration(math.MaxInt64)

// Unit is what systemd says of a unit, all of one moment. Words are systemd's own; see org.freedesktop.systemd1(5).
// From Type on, all is empty for units that are not services.
type Unit struct {
	// Name is the unit's primary name, also when it was asked for by an alias.
	Name        string
	Description string
	LoadState   string // loaded, masked, bad-setting, error, or not-found: a unit that runs while its file is gone
	ActiveState string // active, activating, deactivating, inactive, failed, reloading
	SubState    string // running, start, auto-restart, exited, waiting, …
	// InvocationID is 32 hex digits, new for every start; empty when the unit never ran.
	InvocationID string
	// Job is the id of the unit's queued or running job, or 0.
	Job uint32
	// NeedDaemonReload means that a file of the unit was edited: anyone's daemon-reload may change all the rest.
	NeedDaemonReload bool
	// UnitFileState is enabled, disabled, static, transient, …
	UnitFileState string
	FragmentPath  string
	DropInPaths   []string
	// StateChange is when the unit changed its state last, by the node's wall clock.
	StateChange time.Time

	// RequiredBy, RequisiteOf, BoundBy, ConsistsOf and PropagatesStopTo are the units that a stop of this one stops
	// too. After a start that failed, the first three stay down for good.
	RequiredBy, RequisiteOf, BoundBy, ConsistsOf, PropagatesStopTo []string

	// StartLimitBurst starts within StartLimitInterval are allowed, restarts by hand included; one more leaves the
	// unit down until ResetFailed.
	StartLimitBurst    int
	StartLimitInterval time.Duration

	// Type is notify, simple, oneshot, …; Restart is always, no, on-failure, …
	Type, Restart string
	RestartDelay  time.Duration
	// NRestarts counts automatic restarts since the last start by hand.
	NRestarts int
	// Result is success, exit-code, signal, timeout, start-limit-hit, …: of the last run that ended.
	Result string
	// MainPID is 0 when the unit has no main process.
	MainPID int
	// ExitCode of the main process, and Signal that killed it, when it has ended. A unit that systemd has collected
	// says 0.
	ExitCode, Signal int
	// KillMode is what a stop kills: only process spares what the main process started.
	KillMode string
	Delegate bool
	// Watchdog, TimeoutStart and TimeoutStop may be Forever.
	Watchdog, TimeoutStart, TimeoutStop time.Duration
	ControlGroup                        string
	// ExecStart has environment variables not yet expanded.
	ExecStart []Exec
}

// Exec is one command of a unit.
type Exec struct {
	Path          string
	Argv          []string // with the program's name first
	IgnoreFailure bool
}

// Unit asks for a unit by its full name, such as containerd.service. The error satisfies errors.Is(err, ErrNoUnit) when
// systemd has no such unit, of which it would itself answer zeros without an error: a transient unit that has ended is
// gone in this sense.
func (m *Manager) Unit(ctx context.Context, name string) (Unit, error) {
	if err := checkName(name); err != nil {
		return Unit{}, err
	}
	var u Unit
	err := m.ask(ctx, answerTimeout, func(ctx context.Context, l *link) error {
		props, err := l.all(ctx, unitPath(name))
		if err != nil {
			return err
		}
		u, err = decodeUnit(props)
		return err
	})
	if err != nil {
		return Unit{}, fmt.Errorf("ask systemd for %s: %w", name, err)
	}
	return u, nil
}

// UnitOfPID finds the unit that a process belongs to. pid is as PID 1 sees it, so the caller's PID namespace must be the
// node's, or the pid must come from someone who knows the node's. Whether it is the unit's MainPID is for the caller to
// compare.
func (m *Manager) UnitOfPID(ctx context.Context, pid int) (Unit, error) {
	if pid <= 0 || pid > math.MaxInt32 {
		// systemd takes 0 for the caller, and a socket's peer in another PID namespace has pid 0.
		return Unit{}, fmt.Errorf("find the unit of process %d: not a process id of the node: %w", pid, ErrNoUnit)
	}
	var u Unit
	err := m.ask(ctx, answerTimeout, func(ctx context.Context, l *link) error {
		var path dbus.ObjectPath
		if err := l.call(ctx, "GetUnitByPID", uint32(pid)).Store(&path); err != nil {
			return err
		}
		props, err := l.all(ctx, path)
		if err != nil {
			return err
		}
		u, err = decodeUnit(props)
		return err
	})
	if err != nil {
		return Unit{}, fmt.Errorf("find the unit of process %d: %w", pid, err)
	}
	return u, nil
}

// maxDependants bounds what Dependants looks at.
const maxDependants = 256

// Dependants are the units that a stop of the named one stops too, and theirs in turn, by name. A restart that succeeds
// starts most of them again; after one that failed they stay down, also when the unit itself has been healed.
func (m *Manager) Dependants(ctx context.Context, name string) ([]Unit, error) {
	root, err := m.Unit(ctx, name)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{root.Name: true}
	var found []Unit
	for queue := root.stopsToo(); len(queue) > 0; queue = queue[1:] {
		if seen[queue[0]] {
			continue
		}
		seen[queue[0]] = true
		u, err := m.Unit(ctx, queue[0])
		if err != nil {
			return nil, err
		}
		if found = append(found, u); len(found) > maxDependants {
			return nil, fmt.Errorf("more than %d units depend on %s", maxDependants, name)
		}
		queue = append(queue, u.stopsToo()...)
	}
	slices.SortFunc(found, func(a, b Unit) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

func (u Unit) stopsToo() []string {
	return slices.Concat(u.RequiredBy, u.RequisiteOf, u.BoundBy, u.ConsistsOf, u.PropagatesStopTo)
}

// Process is a process in the control group of a unit.
type Process struct {
	PID int // as PID 1 sees it
	// Args is the command line. systemd gives it as one line, so an argument with a space in it comes apart.
	Args []string
	// ControlGroup is the process's, which may be below the unit's.
	ControlGroup string
}

// Processes lists the processes in the control group of a unit and below, of which the main process is only one: with
// KillMode=process the others survive a restart. It needs no access to the node's /proc.
func (m *Manager) Processes(ctx context.Context, name string) ([]Process, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	var list []struct {
		Group string
		PID   uint32
		Line  string
	}
	err := m.ask(ctx, answerTimeout, func(ctx context.Context, l *link) error {
		list = nil
		return l.call(ctx, "GetUnitProcesses", name).Store(&list)
	})
	if err != nil {
		return nil, fmt.Errorf("list the processes of %s: %w", name, err)
	}
	processes := make([]Process, len(list))
	for i, p := range list {
		processes[i] = Process{PID: int(p.PID), Args: strings.Fields(p.Line), ControlGroup: p.Group}
	}
	slices.SortFunc(processes, func(a, b Process) int { return a.PID - b.PID })
	return processes, nil
}

// list are the names of loaded units in a state, or any, that match pattern.
func (m *Manager) list(ctx context.Context, state, pattern string) ([]string, error) {
	var list []struct {
		Name, Description, LoadState, ActiveState, SubState, Following string
		Path                                                           dbus.ObjectPath
		Job                                                            uint32
		JobType                                                        string
		JobPath                                                        dbus.ObjectPath
	}
	states := []string{}
	if state != "" {
		states = append(states, state)
	}
	err := m.ask(ctx, answerTimeout, func(ctx context.Context, l *link) error {
		list = nil
		return l.call(ctx, "ListUnitsByPatterns", states, []string{pattern}).Store(&list)
	})
	if err != nil {
		return nil, fmt.Errorf("list the units %s: %w", pattern, err)
	}
	names := make([]string, len(list))
	for i, u := range list {
		names[i] = u.Name
	}
	return names, nil
}

// checkName refuses what systemd would take for another unit or answer with a puzzle.
func checkName(name string) error {
	if len(name) > 255 || strings.ContainsAny(name, "/*?[] \t\n") || strings.TrimPrefix(path.Ext(name), ".") == "" {
		return fmt.Errorf("%q is not the full name of a unit, as containerd.service is", name)
	}
	return nil
}
