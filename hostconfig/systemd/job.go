package systemd

import (
	"context"
	"fmt"
	"path"
	"strconv"
	"time"

	"github.com/godbus/dbus/v5"
)

// Results of jobs, from org.freedesktop.systemd1(5), JobRemoved.
const (
	// ResultDone means that the job was carried out. It is no proof that the service works: Type=simple is done as
	// soon as the process exists, and a job may have been merged with someone else's.
	ResultDone       = "done"
	ResultFailed     = "failed"
	ResultTimeout    = "timeout"
	ResultCanceled   = "canceled"
	ResultDependency = "dependency"
	ResultSkipped    = "skipped"
)

// jobPoll is how often a job whose result has not arrived is looked for. The signal with its result can be lost.
const jobPoll = time.Second

// Restart restarts a unit, or starts it if it does not run, and waits for the result of the job: ResultDone,
// ResultFailed, …. Only the absence of a result is an error: ErrNoUnit, ErrConnectionLost, ErrResultLost, the end of
// ctx. When ctx ends, the job goes on. Jobs of others for the same unit may be merged with this one.
//
// Call ResetFailed before: a start beyond the unit's StartLimitBurst leaves it down.
func (m *Manager) Restart(ctx context.Context, unit string) (result string, err error) {
	return m.job(ctx, "restart", unit, func(ctx context.Context, l *link, result chan<- string) (dbus.ObjectPath, error) {
		return l.job(ctx, result, "RestartUnit", unit, "replace")
	})
}

// Start starts a unit, and waits as Restart does. A unit that runs is left alone, with ResultDone.
func (m *Manager) Start(ctx context.Context, unit string) (result string, err error) {
	return m.job(ctx, "start", unit, func(ctx context.Context, l *link, result chan<- string) (dbus.ObjectPath, error) {
		return l.job(ctx, result, "StartUnit", unit, "replace")
	})
}

// Stop stops a unit, and waits as Restart does.
func (m *Manager) Stop(ctx context.Context, unit string) (result string, err error) {
	return m.job(ctx, "stop", unit, func(ctx context.Context, l *link, result chan<- string) (dbus.ObjectPath, error) {
		return l.job(ctx, result, "StopUnit", unit, "replace")
	})
}

// job queues a job and waits for its result. It does not rely on the signal with the result alone: systemd sends none on
// its own socket for a job that ends while it is being re-executed.
func (m *Manager) job(
	ctx context.Context, verb, unit string, queue func(context.Context, *link, chan<- string) (dbus.ObjectPath, error),
) (string, error) {
	if err := checkName(unit); err != nil {
		return "", err
	}
	result := make(chan string, 1)
	var job dbus.ObjectPath
	var on *link // the connection on which the result comes
	err := m.tell(ctx, func(ctx context.Context, l *link) (err error) {
		on = l
		job, err = queue(ctx, l, result)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", verb, unit, err)
	}
	r, err := m.await(ctx, on, job, result)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", verb, unit, err)
	}
	return r, nil
}

func (m *Manager) await(ctx context.Context, on *link, job dbus.ObjectPath, result chan string) (string, error) {
	poll := time.NewTicker(jobPoll)
	defer poll.Stop()
	defer func() { on.jobs.leave(job, result) }()
	for {
		select {
		case r := <-result:
			return r, nil
		case <-ctx.Done():
			return "", fmt.Errorf("no result yet: %w", ctx.Err())
		case <-on.conn.Context().Done():
		case <-poll.C:
		}
		known := false
		err := m.ask(ctx, answerTimeout, func(ctx context.Context, l *link) error {
			if l != on { // first wait there, then look whether there is something to wait for
				l.jobs.watch(job, result)
				on = l
			}
			id, err := strconv.ParseUint(path.Base(string(job)), 10, 32)
			if err != nil {
				return err
			}
			err = l.call(ctx, "GetJob", uint32(id)).Err
			if known = err == nil; dbusName(err) == nameNoSuchJob {
				return nil
			}
			return err
		})
		if err != nil {
			return "", err
		}
		if known {
			continue
		}
		select {
		case r := <-result:
			return r, nil
		default:
			return "", ErrResultLost
		}
	}
}

// ResetFailed forgets that a unit failed and how often it was started, so that it may be started again. A unit that is
// not loaded has nothing to forget.
func (m *Manager) ResetFailed(ctx context.Context, unit string) error {
	if err := checkName(unit); err != nil {
		return err
	}
	err := m.ask(ctx, answerTimeout, func(ctx context.Context, l *link) error {
		return l.call(ctx, "ResetFailedUnit", unit).Err
	})
	if err != nil && dbusName(err) != nameNoSuchUnit {
		return fmt.Errorf("reset %s: %w", unit, err)
	}
	return nil
}

// Reload makes systemd read all unit files again (daemon-reload). It also brings into force what others have edited: see
// Unit.NeedDaemonReload. systemd 252 forgets by it how often units were started.
func (m *Manager) Reload(ctx context.Context) error {
	err := m.ask(ctx, reloadTimeout, func(ctx context.Context, l *link) error { return l.call(ctx, "Reload").Err })
	if err != nil {
		return fmt.Errorf("reload systemd: %w", err)
	}
	return nil
}

// Enable makes other units pull these in, as the [Install] section of each file says, and reloads systemd, without which
// it would be so only after the next boot. A file outside systemd's own directories is given by its path on the node, and
// is linked; it must be there when systemd starts, so it may not lie on a file system that is mounted later.
func (m *Manager) Enable(ctx context.Context, files ...string) error {
	var hasInstall bool
	var changes []any
	err := m.ask(ctx, answerTimeout, func(ctx context.Context, l *link) error {
		const untilReboot, force = false, false
		return l.call(ctx, "EnableUnitFiles", files, untilReboot, force).Store(&hasInstall, &changes)
	})
	if err != nil {
		return fmt.Errorf("enable %q: %w", files, err)
	}
	if !hasInstall {
		return fmt.Errorf("enable %q: no [Install] section in them", files)
	}
	return m.Reload(ctx)
}

// Disable takes back what Enable did, by the units' names, links to files included, and reloads systemd. Units that are
// not enabled are left as they are.
func (m *Manager) Disable(ctx context.Context, units ...string) error {
	err := m.ask(ctx, answerTimeout, func(ctx context.Context, l *link) error {
		const untilReboot = false
		return l.call(ctx, "DisableUnitFiles", units, untilReboot).Err
	})
	if err != nil {
		return fmt.Errorf("disable %q: %w", units, err)
	}
	return m.Reload(ctx)
}
