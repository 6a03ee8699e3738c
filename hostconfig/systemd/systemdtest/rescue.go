package systemdtest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// rescue is one that is armed or was. Its fields need Fake.mu.
type rescue struct {
	systemd.Rescue
	state systemd.RescueState
	timer *time.Timer
	// loaded is whether the timer's unit is: until Disarm or Forget, since the service stays loaded after it ran.
	loaded bool
}

// rescueUnit needs f.mu.
func (f *Fake) rescueUnit(name string) (r *rescue, part string) {
	if base, ok := strings.CutSuffix(name, ".timer"); ok {
		return f.rescues[base], "timer"
	}
	if base, ok := strings.CutSuffix(name, ".service"); ok {
		return f.rescues[base], "service"
	}
	return nil, ""
}

// describe gives the few properties by which the state of a rescue is known.
func (r *rescue) describe(part string) (systemd.Unit, error) {
	u := systemd.Unit{
		Name: r.Name + "." + part, Description: r.Description, LoadState: "loaded", UnitFileState: "transient",
		FragmentPath: "/run/systemd/transient/" + r.Name + "." + part,
	}
	if part == "timer" {
		u.ActiveState, u.SubState = "active", "waiting"
		if r.state != systemd.RescueArmed {
			u.SubState = "running"
		}
		if !r.loaded {
			return systemd.Unit{}, systemd.ErrNoUnit
		}
		return u, nil
	}
	switch r.state {
	case systemd.RescueRunning:
		u.ActiveState, u.SubState = "activating", "start"
	case systemd.RescueRan:
		u.ActiveState, u.SubState = "active", "exited"
	case systemd.RescueFailed:
		u.ActiveState, u.SubState = "failed", "failed"
	default:
		u.ActiveState, u.SubState = "inactive", "dead"
	}
	for _, s := range r.Steps {
		u.ExecStart = append(u.ExecStart, systemd.Exec{Path: s.Argv[0], Argv: s.Argv, IgnoreFailure: s.IgnoreFailure})
	}
	return u, nil
}

// Arm is as a Manager's.
func (f *Fake) Arm(ctx context.Context, r systemd.Rescue) error {
	if err := r.Validate(); err != nil {
		return fmt.Errorf("arm %s: %w", r.Name, err)
	}
	return f.call(ctx, "Arm", r.Name, func() error {
		if f.rescues[r.Name] != nil {
			return systemd.ErrUnitExists
		}
		armed := &rescue{Rescue: r, state: systemd.RescueArmed, loaded: true}
		armed.timer = time.AfterFunc(r.After, func() { f.fire(armed) })
		f.rescues[r.Name] = armed
		return nil
	})
}

// fire takes the steps of a rescue.
func (f *Fake) fire(r *rescue) {
	f.mu.Lock()
	if f.closed || r.state != systemd.RescueArmed {
		f.mu.Unlock()
		return
	}
	r.state = systemd.RescueRunning
	f.runs.Add(1)
	f.mu.Unlock()
	defer f.runs.Done()

	state := systemd.RescueRan
	for _, s := range r.Steps {
		if f.exec(f.ctx, systemd.Command{Argv: s.Argv}).ExitCode != 0 && !s.IgnoreFailure {
			state = systemd.RescueFailed
			break
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rescues[r.Name] == r { // the node did not reboot meanwhile
		r.state = state
	}
}

// Disarm is as a Manager's.
func (f *Fake) Disarm(ctx context.Context, name string) (state systemd.RescueState, err error) {
	err = f.call(ctx, "Disarm", name, func() error {
		r := f.rescues[name]
		switch {
		case r == nil:
			state = systemd.RescueAbsent
		case r.state == systemd.RescueArmed:
			r.timer.Stop()
			delete(f.rescues, name)
			state = systemd.RescueDisarmed
		default:
			r.loaded = false
			state = r.state
		}
		return nil
	})
	return state, err
}

// RescueState is as a Manager's.
func (f *Fake) RescueState(ctx context.Context, name string) (state systemd.RescueState, err error) {
	err = f.call(ctx, "RescueState", name, func() error {
		state = systemd.RescueAbsent
		if r := f.rescues[name]; r != nil {
			state = r.state
		}
		return nil
	})
	return state, err
}

// Forget is as a Manager's.
func (f *Fake) Forget(ctx context.Context, name string) error {
	return f.call(ctx, "Forget", name, func() error {
		r := f.rescues[name]
		if r == nil {
			return nil
		}
		if r.state == systemd.RescueArmed || r.state == systemd.RescueRunning {
			return fmt.Errorf("it is still %s", r.state)
		}
		delete(f.rescues, name)
		return nil
	})
}

// Rescues is as a Manager's.
func (f *Fake) Rescues(ctx context.Context, prefix string) (names []string, err error) {
	err = f.call(ctx, "Rescues", prefix, func() error {
		for name, r := range f.rescues {
			if strings.HasPrefix(name, prefix) && (r.state == systemd.RescueArmed || r.state == systemd.RescueRunning) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return nil
	})
	return names, err
}

// Known are the names of the rescues of which anything is left, for tests that nothing is.
func (f *Fake) Known() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.rescues))
}
