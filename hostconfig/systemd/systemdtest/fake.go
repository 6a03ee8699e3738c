package systemdtest

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// Call is a call of a method of a Fake.
type Call struct {
	Method string // such as Restart
	Unit   string // the unit's or rescue's name, or the program's path
}

// Fake is a systemd in memory. It is safe for concurrent use. Its exported fields are set before it is used.
type Fake struct {
	// Before is asked before each call does anything. Its error is returned, and nothing is done.
	Before func(Call) error
	// After is asked when a call has done what it does. Its error is returned all the same.
	After func(Call) error
	// Programs are programs of the node by their paths, in addition to those that a Fake has.
	Programs map[string]Program
	// UnitDir is where Enable finds unit files that are given without a directory.
	UnitDir string
	// NoExecCondition makes it one before 243, which ignores that.
	NoExecCondition bool
	// Root is where the node's root directory is on this machine. Empty: it is that of this machine.
	Root string

	ctx    context.Context // of programs that run; ends with Close
	cancel context.CancelFunc
	runs   sync.WaitGroup // rescues that run

	mu      sync.Mutex // guards what follows, and all units and rescues
	closed  bool
	units   map[string]*unit
	rescues map[string]*rescue
	linked  map[string]string // unit files that are enabled, by the unit's name
	lastPID int
	lastJob uint32
	lastID  int
}

// New makes a Fake without units.
func New() *Fake {
	f := &Fake{
		Programs: map[string]Program{},
		units:    map[string]*unit{}, rescues: map[string]*rescue{}, linked: map[string]string{},
		lastPID: 100,
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// Close ends what runs by itself, and waits for it.
func (f *Fake) Close() error {
	f.mu.Lock()
	f.closed = true
	for _, u := range f.units {
		u.settle()
	}
	for _, r := range f.rescues {
		r.timer.Stop()
	}
	f.mu.Unlock()
	f.cancel()
	f.runs.Wait()
	return nil
}

// Define defines services, or defines them anew. They do not start by it.
func (f *Fake) Define(services ...Service) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range services {
		s = s.WithDefaults()
		if u := f.units[s.Name]; u != nil {
			u.service, u.edited = s, nil
			continue
		}
		f.units[s.Name] = &unit{
			fake: f, service: s, active: "inactive", sub: "dead", result: "success", changed: time.Now(),
		}
	}
}

// Edit changes the file of a service. What it says is in force after the next Reload.
func (f *Fake) Edit(s Service) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s = s.WithDefaults()
	f.units[s.Name].edited = &s
}

// local is where a file of the node is on this machine.
func (f *Fake) local(node string) string { return filepath.Join("/", f.Root, node) }

// call does what a method does, with the hooks around it. do is called with f.mu held.
func (f *Fake) call(ctx context.Context, method, unit string, do func() error) error {
	if err := f.before(ctx, method, unit); err != nil {
		return err
	}
	f.mu.Lock()
	err := do()
	f.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s %s: %w", strings.ToLower(method), unit, err)
	}
	return f.after(method, unit)
}

func (f *Fake) before(ctx context.Context, method, unit string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	closed := f.closed
	f.mu.Unlock()
	if closed {
		return systemd.ErrClosed
	}
	if f.Before == nil {
		return nil
	}
	return f.Before(Call{method, unit})
}

func (f *Fake) after(method, unit string) error {
	if f.After == nil {
		return nil
	}
	return f.After(Call{method, unit})
}

// find needs f.mu.
func (f *Fake) find(name string) (*unit, error) {
	if path.Ext(name) == "" {
		return nil, fmt.Errorf("%q is not the full name of a unit", name)
	}
	u := f.units[name]
	if u == nil {
		return nil, systemd.ErrNoUnit
	}
	return u, nil
}

// Version is that of the systemd whose behaviour the Fake has.
func (f *Fake) Version(ctx context.Context) (string, error) {
	return "252", f.before(ctx, "Version", "")
}

// Unit is as a Manager's.
func (f *Fake) Unit(ctx context.Context, name string) (found systemd.Unit, err error) {
	err = f.call(ctx, "Unit", name, func() error {
		if r, part := f.rescueUnit(name); r != nil {
			found, err = r.describe(part)
			return err
		}
		u, err := f.find(name)
		switch {
		case err == nil:
			found = u.describe()
		case errors.Is(err, systemd.ErrNoUnit):
			found, err = f.unitOfFile(name)
		}
		return err
	})
	return found, err
}

// UnitOfPID is as a Manager's. It knows main processes and Service.Processes.
func (f *Fake) UnitOfPID(ctx context.Context, pid int) (found systemd.Unit, err error) {
	err = f.call(ctx, "UnitOfPID", fmt.Sprint(pid), func() error {
		for _, u := range f.units {
			if slices.ContainsFunc(u.processes(), func(p systemd.Process) bool { return p.PID == pid }) {
				found = u.describe()
				return nil
			}
		}
		return systemd.ErrNoUnit
	})
	return found, err
}

// Processes is as a Manager's.
func (f *Fake) Processes(ctx context.Context, name string) (list []systemd.Process, err error) {
	err = f.call(ctx, "Processes", name, func() error {
		u, err := f.find(name)
		if err == nil {
			list = u.processes()
		}
		return err
	})
	return list, err
}

// Dependants is as a Manager's.
func (f *Fake) Dependants(ctx context.Context, name string) (list []systemd.Unit, err error) {
	err = f.call(ctx, "Dependants", name, func() error {
		u, err := f.find(name)
		if err != nil {
			return err
		}
		for _, d := range u.stopsToo() {
			list = append(list, d.describe())
		}
		return nil
	})
	return list, err
}

// ResetFailed is as a Manager's.
func (f *Fake) ResetFailed(ctx context.Context, name string) error {
	return f.call(ctx, "ResetFailed", name, func() error {
		f.resetFailed(name)
		return nil
	})
}

func (f *Fake) resetFailed(name string) {
	u := f.units[name]
	if u == nil {
		return
	}
	u.starts = nil
	if u.active == "failed" {
		u.set("inactive", "dead")
		u.result = "success"
	}
}

// Reload brings what Edit did into force, and forgets starts as systemd 252 does.
func (f *Fake) Reload(ctx context.Context) error {
	return f.call(ctx, "Reload", "", func() error {
		for _, u := range f.units {
			u.starts = nil
			if u.edited != nil {
				u.service, u.edited = *u.edited, nil
			}
		}
		return nil
	})
}

// Start is as a Manager's.
func (f *Fake) Start(ctx context.Context, name string) (string, error) {
	return f.await(ctx, "Start", name, (*unit).start)
}

// Stop is as a Manager's.
func (f *Fake) Stop(ctx context.Context, name string) (string, error) {
	return f.await(ctx, "Stop", name, (*unit).stop)
}

// Restart is as a Manager's.
func (f *Fake) Restart(ctx context.Context, name string) (string, error) {
	return f.await(ctx, "Restart", name, (*unit).restart)
}

// await queues a job and waits for its result. queue is called with f.mu held.
func (f *Fake) await(ctx context.Context, method, name string, queue func(*unit, chan string)) (string, error) {
	if err := f.before(ctx, method, name); err != nil {
		return "", err
	}
	result := make(chan string, 1)
	f.mu.Lock()
	u, err := f.find(name)
	if err == nil {
		queue(u, result)
	}
	f.mu.Unlock()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", strings.ToLower(method), name, err)
	}
	select {
	case r := <-result:
		if err := f.after(method, name); err != nil {
			return "", err
		}
		return r, nil
	case <-ctx.Done():
		return "", fmt.Errorf("%s %s: no result yet: %w", strings.ToLower(method), name, ctx.Err())
	}
}
