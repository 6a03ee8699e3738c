package systemd

import (
	"context"
	"errors"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// Reexecute replaces PID 1's process by a new one of the same program (daemon-reexec), and returns when the old one has
// left.
func (m *Manager) Reexecute(ctx context.Context) error {
	l, err := m.connected(ctx)
	if err != nil {
		return err
	}
	before := l.owner(ctx)
	// There is no reply: who would send it is gone.
	err = l.object(managerPath).CallWithContext(ctx, managerInterface+".Reexecute", dbus.FlagNoReplyExpected).Err
	for err == nil && !l.isGone() {
		if owner := l.owner(ctx); before != "" && owner != "" && owner != before {
			return nil // it has come back to the bus as another
		}
		time.Sleep(time.Millisecond)
		err = ctx.Err()
	}
	return err
}

// owner is the bus name of PID 1's process, or empty when there is none, or no bus.
func (l *link) owner(ctx context.Context) string {
	var name string
	if l.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetNameOwner", 0, destination).Store(&name) != nil {
		return ""
	}
	return name
}

// ArmAnything is Arm without any check. Only Rescue.After counts.
func (m *Manager) ArmAnything(ctx context.Context, r Rescue) error {
	result, err := m.job(ctx, "start", r.Name+".timer", r.starter(1e6*time.Hour))
	if err == nil && result != ResultDone {
		err = errors.New(result)
	}
	return err
}

// Timer is what systemd says of a timer.
func (m *Manager) Timer(ctx context.Context, unit string) (map[string]any, error) {
	l, err := m.connected(ctx)
	if err != nil {
		return nil, err
	}
	props, err := l.all(ctx, unitPath(unit))
	out := map[string]any{}
	for name, v := range props {
		out[name] = v.Value()
	}
	return out, err
}

// RunUnits are the units of RunOnHost that are there.
func (m *Manager) RunUnits(ctx context.Context) ([]string, error) {
	return m.list(ctx, "", runPrefix+"*")
}

// FailAndForget runs a command that fails, as a caller would that dies before it can take the unit away.
func (m *Manager) FailAndForget(ctx context.Context) error {
	unit := runPrefix + "left.service"
	result, err := m.job(ctx, "start", unit, func(ctx context.Context, l *link, ch chan<- string) (dbus.ObjectPath, error) {
		return l.job(ctx, ch, "StartTransientUnit", unit, "fail", []sd.Property{
			property("Type", "oneshot"), property("CollectMode", "inactive"),
			property("ExecStart", []execStart{{"/bin/false", []string{"/bin/false"}, false}}),
		}, []sd.PropertyCollection{})
	})
	if err == nil && result != ResultFailed {
		err = errors.New(result)
	}
	return err
}

// Sweep is what RunOnHost does first, for units that failed longer than age ago.
func (m *Manager) Sweep(ctx context.Context, age time.Duration) { m.sweep(ctx, age) }

// CheckText is checkText.
func CheckText(s string) error { return checkText(s) }
