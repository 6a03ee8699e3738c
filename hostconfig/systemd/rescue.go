package systemd

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

const (
	// rescueTimeout is how long each step of a rescue may take. A disk that hangs that long will not be healed by it.
	rescueTimeout = 5 * time.Minute
	// timerAccuracy is how late a rescue may start. systemd's default is a minute.
	timerAccuracy = 100 * time.Millisecond
	// maxRescueDelay bounds Rescue.After.
	maxRescueDelay = 24 * time.Hour
)

// Rescue is a dead-man switch on the node: steps that systemd takes by itself unless they are called off in time,
// whatever becomes of who armed it. It survives daemon-reload and daemon-reexec, and a reboot it does not: see BootUnit.
type Rescue struct {
	// Name of the timer and the service, without that. It begins with hotplate-, then come a-z, 0-9 and -. It must be
	// new for each Rescue.
	Name        string
	Description string
	// After is the time until the steps are taken, on the monotonic clock: a change of the wall clock does nothing, and
	// a suspended machine does not count.
	After time.Duration
	// Steps are taken in order, up to the first that fails and may not.
	Steps []Step
}

// RescueState is how far a Rescue is.
type RescueState string

const (
	// RescueAbsent means that systemd knows nothing of it. It was never armed, was disarmed or forgotten, or the node rebooted.
	RescueAbsent RescueState = "absent"
	// RescueArmed means that it waits.
	RescueArmed RescueState = "armed"
	// RescueDisarmed is what Disarm returns when it called off a Rescue that had taken no step and will take none.
	RescueDisarmed RescueState = "disarmed"
	// RescueRunning means that steps are being taken.
	RescueRunning RescueState = "running"
	// RescueRan means that all steps were taken.
	RescueRan RescueState = "ran"
	// RescueFailed means that a step failed, and those after it were not taken.
	RescueFailed RescueState = "failed"
)

// Arm starts the timer of a Rescue and returns when systemd says that it waits. ErrUnitExists means that one of this
// name is there already, and was left alone. After any other error nothing is armed, unless systemd cannot be reached;
// Disarm makes sure.
//
// The service stays loaded after it ran, so that RescueState and Disarm can tell what happened, also to a process that
// starts later; Forget takes it away.
func (m *Manager) Arm(ctx context.Context, r Rescue) error {
	if err := r.Validate(); err != nil {
		return fmt.Errorf("arm %s: %w", r.Name, err)
	}
	now, err := monotonic()
	if err != nil {
		return fmt.Errorf("arm %s: %w", r.Name, err)
	}
	startup, err := m.startup(ctx)
	if err != nil {
		return fmt.Errorf("arm %s: ask when systemd started: %w", r.Name, err)
	}
	result, err := m.job(ctx, "start", r.Name+".timer", r.starter(now+r.After-startup))
	if errors.Is(err, ErrUnitExists) {
		return fmt.Errorf("arm %s: %w", r.Name, err)
	}
	if err == nil && result != ResultDone {
		err = fmt.Errorf("the job to start its timer ended as %s", result)
	}
	if err == nil {
		err = m.confirmArmed(ctx, r)
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		_, disarmErr := m.Disarm(ctx, r.Name)
		return fmt.Errorf("arm %s: %w", r.Name, errors.Join(err, disarmErr))
	}
	return nil
}

// Validate says what would keep systemd from doing what the Rescue says.
func (r Rescue) Validate() error {
	if err := checkOwnName(r.Name); err != nil {
		return err
	}
	if r.After <= 0 || r.After > maxRescueDelay {
		return fmt.Errorf("it cannot wait for %v: more than 0 and at most %v", r.After, maxRescueDelay)
	}
	if len(r.Steps) == 0 {
		return errors.New("it has no steps")
	}
	for _, s := range r.Steps {
		if err := checkArgv(s.Argv); err != nil {
			return err
		}
	}
	return checkDescription(r.Description)
}

// starter makes the timer and the service, and starts the timer. due is counted from the start of systemd.
func (r Rescue) starter(due time.Duration) func(context.Context, *link, chan<- string) (dbus.ObjectPath, error) {
	timer := []sd.Property{
		property("Description", r.Description),
		// The first of the two counts. OnActiveSec alone is not enough: with each daemon-reload, systemd 252 begins to count
		// it anew, so whoever reloads every minute puts off a rescue of 90 seconds for ever.
		property("TimersMonotonic", []timerSpec{
			{"OnStartupSec", microseconds(due)}, {"OnActiveSec", microseconds(r.After)},
		}),
		property("AccuracyUSec", microseconds(timerAccuracy)),
		property("RemainAfterElapse", false),
		property("CollectMode", "inactive-or-failed"),
	}
	service := []sd.Property{
		property("Description", r.Description),
		property("Type", "oneshot"),
		property("ExecStart", execStarts(r.Steps)),
		property("TimeoutStartUSec", microseconds(rescueTimeout)),
		// Both keep the service loaded after it ran: it is the only witness.
		property("RemainAfterExit", true),
		property("CollectMode", "inactive"),
	}
	aux := []sd.PropertyCollection{{Name: r.Name + ".service", Properties: service}}
	return func(ctx context.Context, l *link, result chan<- string) (dbus.ObjectPath, error) {
		return l.job(ctx, result, "StartTransientUnit", r.Name+".timer", "fail", timer, aux)
	}
}

// confirmArmed reads back what systemd made of a Rescue.
func (m *Manager) confirmArmed(ctx context.Context, r Rescue) error {
	timer, err := m.Unit(ctx, r.Name+".timer")
	if err != nil {
		return err
	}
	if timer.ActiveState != "active" || timer.SubState != "waiting" {
		return fmt.Errorf("its timer is %s/%s, not active/waiting", timer.ActiveState, timer.SubState)
	}
	if err := m.confirmDue(ctx, r); err != nil {
		return err
	}
	service, err := m.Unit(ctx, r.Name+".service")
	if err != nil {
		return err
	}
	var steps []Step
	for _, e := range service.ExecStart {
		steps = append(steps, Step{Argv: e.Argv, IgnoreFailure: e.IgnoreFailure})
	}
	if !reflect.DeepEqual(steps, r.Steps) {
		return fmt.Errorf("systemd understood its steps as %v, not %v", steps, r.Steps)
	}
	return nil
}

func (m *Manager) confirmDue(ctx context.Context, r Rescue) error {
	due, err := m.due(ctx, r.Name+".timer")
	if err != nil {
		return err
	}
	now, err := monotonic()
	if err != nil {
		return err
	}
	if left := due - now; left <= 0 || left > r.After {
		return fmt.Errorf("its timer is due in %v, not in %v", left, r.After)
	}
	return nil
}

// RescueState says how far the Rescue of this name is. It changes nothing.
func (m *Manager) RescueState(ctx context.Context, name string) (RescueState, error) {
	if err := checkOwnName(name); err != nil {
		return "", err
	}
	// The timer first: if it fires between the two questions, the service tells.
	timer, err := m.Unit(ctx, name+".timer")
	waits := err == nil && timer.ActiveState == "active" && timer.SubState == "waiting"
	if err != nil && !errors.Is(err, ErrNoUnit) {
		return "", err
	}
	state, err := m.serviceState(ctx, name)
	switch {
	case err != nil || state != RescueAbsent:
		return state, err
	case waits:
		return RescueArmed, nil
	case timer.ActiveState == "active": // it has fired, and the service is about to start
		return RescueRunning, nil
	}
	return RescueAbsent, nil
}

// serviceState is the state of a Rescue as far as its service shows it: RescueAbsent when it has not begun.
func (m *Manager) serviceState(ctx context.Context, name string) (RescueState, error) {
	service, err := m.Unit(ctx, name+".service")
	switch {
	case errors.Is(err, ErrNoUnit):
		return RescueAbsent, nil
	case err != nil:
		return "", err
	case service.ActiveState == "failed":
		return RescueFailed, nil
	case service.ActiveState == "active":
		return RescueRan, nil
	case service.ActiveState != "inactive" || service.Job != 0:
		return RescueRunning, nil
	}
	return RescueAbsent, nil
}

// Disarm stops the timer of a Rescue and then says what had become of it: RescueDisarmed, or RescueAbsent when there was
// nothing to stop; RescueRunning, RescueRan or RescueFailed when it came too late. Steps that have begun go on: ask
// RescueState until it is no longer RescueRunning. It may be called again, and by another process; what it found stays
// to be found, until Forget.
func (m *Manager) Disarm(ctx context.Context, name string) (RescueState, error) {
	if err := checkOwnName(name); err != nil {
		return "", err
	}
	result, err := m.Stop(ctx, name+".timer")
	again := errors.Is(err, ErrConnectionLost) || errors.Is(err, ErrResultLost)
	if again { // it does no harm, and then it is known
		result, err = m.Stop(ctx, name+".timer")
	}
	absent := errors.Is(err, ErrNoUnit)
	if err != nil && !absent {
		return "", fmt.Errorf("disarm %s: %w", name, err)
	}
	if !absent && result != ResultDone {
		return "", fmt.Errorf("disarm %s: the job to stop its timer ended as %s", name, result)
	}
	state, err := m.serviceState(ctx, name)
	if err != nil {
		return "", fmt.Errorf("disarm %s: %w", name, err)
	}
	if state == RescueAbsent && (!absent || again) {
		return RescueDisarmed, nil
	}
	return state, nil
}

// Forget takes away what is left of a Rescue that ran, failed or was disarmed. One that still waits or runs is an error
// and is left alone.
func (m *Manager) Forget(ctx context.Context, name string) error {
	state, err := m.RescueState(ctx, name)
	if err != nil {
		return fmt.Errorf("forget %s: %w", name, err)
	}
	if state == RescueArmed || state == RescueRunning {
		return fmt.Errorf("forget %s: it is still %s", name, state)
	}
	for _, unit := range []string{name + ".timer", name + ".service"} {
		if _, err := m.Stop(ctx, unit); err != nil && !errors.Is(err, ErrNoUnit) {
			return fmt.Errorf("forget %s: %w", name, err)
		}
		if err := m.ResetFailed(ctx, unit); err != nil {
			return fmt.Errorf("forget %s: %w", name, err)
		}
	}
	return nil
}
