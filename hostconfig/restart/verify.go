package restart

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/supervised"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// sickError says that a unit itself is not well, and not only that nobody could be asked.
type sickError struct{ error }

func (e sickError) Unwrap() error { return e.error }

func sick(format string, args ...any) error { return sickError{fmt.Errorf(format, args...)} }

// order restarts the unit and waits for the job's own result, which is believed only when it is bad. Meanwhile it looks at
// the unit: a daemon that has died need not be waited for.
func (r *Restarter) order(ctx context.Context, unit string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, restartTimeout,
		sick("%s has not started within %s", unit, restartTimeout))
	defer cancel()
	before, err := r.cfg.Systemd.Unit(ctx, unit)
	if err != nil {
		return err
	}
	// Without this the restart fails when the unit has been started often, and leaves it down.
	if err := r.cfg.Systemd.ResetFailed(ctx, unit); err != nil {
		return fmt.Errorf("reset the start limit of %s: %w", unit, err)
	}
	type answer struct {
		result string
		err    error
	}
	answers := make(chan answer, 1)
	go func() {
		result, err := r.cfg.Systemd.Restart(ctx, unit)
		answers <- answer{result, err}
	}()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case a := <-answers:
			return r.judge(ctx, unit, a.result, a.err)
		case <-tick.C:
			// A busy systemd still shows for a while how the one before has ended.
			if err := r.dead(ctx, unit, before.InvocationID); err != nil {
				cancel()
				<-answers
				return err
			}
		}
	}
}

// judge says what the answer to a restart means. Where there is none, the unit itself is asked.
func (r *Restarter) judge(ctx context.Context, unit, result string, err error) error {
	switch {
	case errors.Is(err, systemd.ErrResultLost), errors.Is(err, systemd.ErrConnectionLost):
		return nil // the unit and CRI will tell
	case errors.Is(err, supervised.ErrNotRestarted):
		return sick("%s: %w", unit, err)
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("restart %s: %w", unit, err)
	case result != systemd.ResultDone:
		return sick("%s did not start (%s)%s", unit, result, r.why(ctx, unit))
	}
	return nil
}

// dead returns an error when the unit has failed, or waits to be started again after it has failed; not for the invocation
// except.
func (r *Restarter) dead(ctx context.Context, unit, except string) error {
	u, err := r.cfg.Systemd.Unit(ctx, unit)
	if err != nil {
		return nil //nolint:nilerr // systemd may be busy; the answer or the timeout tells
	}
	if u.InvocationID != except && (u.ActiveState == "failed" || u.SubState == "auto-restart") {
		return sick("%s did not start (%s)", unit, u.Result)
	}
	return nil
}

// why adds what systemd knows of a unit that failed.
func (r *Restarter) why(ctx context.Context, unit string) string {
	u, err := r.cfg.Systemd.Unit(ctx, unit)
	if err != nil {
		return ""
	}
	return fmt.Sprintf(": %s/%s, %s; %s has its words", u.ActiveState, u.SubState, u.Result, r.words(unit))
}

// words is where a unit's output is found.
func (r *Restarter) words(unit string) string {
	if r.cfg.NoTimer {
		return "the log of " + unit
	}
	return "journalctl -u " + unit
}

// awaitCRI waits until CRI works. A daemon whose CRI plugin failed never will, and is not waited for.
func (r *Restarter) awaitCRI(ctx context.Context, unit string) error {
	ctx, cancel := context.WithTimeout(ctx, criTimeout)
	defer cancel()
	for {
		err := r.cfg.Daemon.CheckCRI(ctx)
		if err == nil {
			return nil
		}
		if strings.Contains(err.Error(), "did not load") {
			return sickError{err}
		}
		if dead := r.dead(ctx, unit, ""); dead != nil {
			return dead
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return sick("CRI does not work %s after the start: %w", criTimeout, err)
		}
	}
}

// maxTries is how often something is looked at while nobody can be asked. A daemon that answers badly is not asked again.
const maxTries = 3

// surely looks once more where nobody could be asked: that is no verdict on the daemon.
func (r *Restarter) surely(ctx context.Context, look func(context.Context) error) error {
	for try := 1; ; try++ {
		err := look(ctx)
		if err == nil || errors.As(err, new(sickError)) || try == maxTries {
			return err
		}
		r.log.Warn("whether containerd is well could not be seen", "err", err, "try", try)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return err
		}
	}
}

// verify sees that the daemon is a new one, obeys the hosts directory, and has lost nothing. It returns the invocation that
// is to stay.
func (r *Restarter) verify(ctx context.Context, j *journal) (invocation string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), verifyTimeout+dependantTimeout)
	defer cancel()
	err = r.surely(ctx, func(ctx context.Context) (err error) {
		invocation, err = r.proved(ctx, j)
		return err
	})
	return invocation, err
}

// proved is one try of verify.
func (r *Restarter) proved(ctx context.Context, j *journal) (invocation string, err error) {
	u, err := r.cfg.Systemd.Unit(ctx, j.Unit)
	if err != nil {
		return "", err
	}
	if u.InvocationID == j.Invocation {
		return "", sick("%s was not restarted, whatever systemd says", j.Unit)
	}
	if err := r.still(ctx, j, u.InvocationID); err != nil {
		return "", err
	}
	if err := r.startDependants(ctx, j); err != nil {
		return "", err
	}
	if err := r.kept(ctx, j); err != nil {
		return "", err
	}
	verdict, err := r.cfg.Probe(ctx)
	if err != nil {
		return "", err
	}
	if !verdict.Live {
		return "", sick("the restarted containerd does not read %s either: %s", r.cfg.HostsDir, verdict.Cause)
	}
	r.log.Info("containerd obeys the hosts directory", "dir", r.cfg.HostsDir)
	return u.InvocationID, nil
}

// kept sees that every container is what it was. A shim that does not answer now is no reason to go back: one more restart is
// what would kill its containers.
func (r *Restarter) kept(ctx context.Context, j *journal) error {
	running, err := r.cfg.Daemon.Running(ctx)
	switch {
	case errors.Is(err, daemon.ErrShimHangs):
		r.log.Warn("whether all containers are kept is not known, and containerd is not restarted once more for it", "err", err)
		return nil
	case err != nil:
		return err
	}
	lost, err := r.cfg.Daemon.Lost(ctx, j.Before, running)
	switch {
	case err != nil:
		return err
	case len(lost) > 0:
		return sick("containers were lost: %s", few(lost))
	}
	r.log.Info("containerd has kept every container", "tasks", len(running.Tasks))
	return nil
}

// still sees that the daemon is the one of that invocation, runs, and that nobody has changed the file.
func (r *Restarter) still(ctx context.Context, j *journal, invocation string) error {
	is, err := r.content(j)
	if err != nil {
		return err
	}
	if is != isNew {
		return sick("%s: %w", j.File, errReplaced)
	}
	u, err := r.cfg.Systemd.Unit(ctx, j.Unit)
	switch {
	case err != nil:
		return err
	case u.InvocationID != invocation:
		return sick("%s was started once more%s", j.Unit, r.why(ctx, j.Unit))
	case u.ActiveState != "active":
		return sick("%s is %s/%s, %s", j.Unit, u.ActiveState, u.SubState, u.Result)
	}
	return nil
}

// errReplaced means that the new configuration is not in its place any more.
var errReplaced = errors.New("the configuration was replaced by somebody else meanwhile, perhaps by the rescue")

// errNotWatched means that the caller has gone before the daemon was watched for long enough.
var errNotWatched = errors.New("containerd was not watched to the end of its soak time; the next start goes on, or a rescue acts")

// soak watches the daemon for a while.
func (r *Restarter) soak(ctx context.Context, j *journal, invocation string) error {
	r.log.Info("watching containerd before its new configuration is believed", "for", r.cfg.Soak)
	end := time.Now().Add(r.cfg.Soak)
	for {
		// That the caller gives up meanwhile says nothing of the daemon.
		err := r.surely(context.WithoutCancel(ctx), func(ctx context.Context) error { return r.stillWell(ctx, j, invocation) })
		if err != nil {
			return err
		}
		left := time.Until(end)
		if left <= 0 {
			return nil
		}
		select {
		case <-time.After(min(left, time.Second)):
		case <-ctx.Done():
			return errNotWatched
		}
	}
}

// stillWell looks once. CRI may be slow for a moment.
func (r *Restarter) stillWell(ctx context.Context, j *journal, invocation string) error {
	if err := r.still(ctx, j, invocation); err != nil {
		return err
	}
	return r.awaitCRI(ctx, j.Unit)
}

// startDependants starts what went down with containerd.
func (r *Restarter) startDependants(ctx context.Context, j *journal) error {
	ctx, cancel := context.WithTimeout(ctx, dependantTimeout)
	defer cancel()
	for _, unit := range j.Dependants {
		if err := r.cfg.Systemd.ResetFailed(ctx, unit); err != nil {
			return fmt.Errorf("start %s, which went down with containerd: %w", unit, err)
		}
		result, err := r.cfg.Systemd.Start(ctx, unit)
		if err != nil {
			return fmt.Errorf("start %s, which went down with containerd: %w", unit, err)
		}
		if result != systemd.ResultDone {
			return sick("%s, which went down with containerd, did not start (%s)", unit, result)
		}
	}
	return nil
}

// bootID changes with every boot of the node.
func (r *Restarter) bootID() (string, error) {
	data, err := os.ReadFile(r.here("/proc/sys/kernel/random/boot_id"))
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
