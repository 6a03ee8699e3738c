package restart

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// Recover takes up what an agent that died has left, and tells how it ended; nil if there was nothing. Call it before
// anything else: until then the daemon may not be what it seems.
func (r *Restarter) Recover(ctx context.Context) (*Outcome, error) {
	unlock, err := r.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	return r.recover(ctx)
}

// ErrNeedsSystemd is that of a Restarter without systemd where an earlier transaction was begun with it.
var ErrNeedsSystemd = errors.New("an earlier restart of containerd did not come to its end, and only systemd, with which it was " +
	"begun, can tell how far it is; it cannot be reached now")

// recover looks at the journal, at what is on the disk and at what systemd says; the last two are believed.
func (r *Restarter) recover(ctx context.Context) (*Outcome, error) {
	j, err := r.load()
	if err != nil || j == nil {
		return nil, err
	}
	if r.cfg.NoTimer && !j.NoTimer {
		return nil, ErrNeedsSystemd
	}
	r.log.Warn("an earlier restart of containerd did not come to its end", "begun", j.Begun, "phase", string(j.Phase))
	o, err := r.resume(ctx, j)
	if err != nil {
		return nil, fmt.Errorf("end an earlier restart of containerd: %w", err)
	}
	return &o, nil
}

func (r *Restarter) resume(ctx context.Context, j *journal) (Outcome, error) {
	if j.Phase == stuck {
		return r.mended(ctx, j)
	}
	rescued, err := r.wasRescued(ctx, j)
	if err != nil {
		return Outcome{}, err
	}
	is, err := r.content(j)
	if err != nil {
		return Outcome{}, err
	}
	switch {
	case is == isNew && j.Phase != rollingBack:
		return r.goOn(ctx, j)
	case is == isNew, j.Phase == rollingBack:
		return r.undo(ctx, j, cmp.Or(j.Kind, RolledBack), j.Reason)
	case is == isOther:
		return r.undo(ctx, j, Abandoned, errReplaced.Error())
	case rescued && j.Touched && j.Phase != verified:
		return r.undo(ctx, j, RolledBack, "the agent died in the middle, and the node put the old configuration back by itself")
	case rescued && j.Touched:
		return r.undo(ctx, j, Abandoned, "the agent died when everything was proved, and the node put the old configuration "+
			"back by itself")
	case j.Phase == restarting || j.Phase == verified:
		return r.undo(ctx, j, RolledBack, "somebody put the old configuration back")
	}
	return r.undo(ctx, j, Abandoned, "the agent died before it changed anything")
}

// wasRescued tells whether the node has put the old configuration back by itself, by the rescue or after a reboot.
func (r *Restarter) wasRescued(ctx context.Context, j *journal) (bool, error) {
	boot, err := r.bootID()
	if err != nil {
		return false, err
	}
	if boot != j.BootID {
		return r.exists(r.state(systemd.Restored(markerFile)))
	}
	state, err := r.cfg.Systemd.RescueState(ctx, j.rescue())
	if err != nil {
		return false, err
	}
	return r.awaitRescue(ctx, j, state)
}

// goOn proves a daemon that may have read the new configuration. One that has not is left alone.
func (r *Restarter) goOn(ctx context.Context, j *journal) (Outcome, error) {
	if err := r.awaitJob(ctx, j.Unit); err != nil {
		return Outcome{}, err
	}
	if r.untried(ctx, j) {
		return r.undo(ctx, j, Abandoned, "the agent died before it restarted containerd")
	}
	if j.Phase == verified { // it was watched already
		if err := r.awaitCRI(context.WithoutCancel(ctx), j.Unit); err != nil {
			return r.rollBack(ctx, j, err)
		}
		return r.commit(ctx, j, 0)
	}
	// A reboot ends all containers, and others come and go while nobody looks: which the restart has ended is not known now.
	j.Before = daemon.Running{}
	// That the caller gives up meanwhile says nothing of the daemon.
	if err := r.awaitCRI(context.WithoutCancel(ctx), j.Unit); err != nil {
		return r.rollBack(ctx, j, err)
	}
	return r.prove(ctx, j, 0)
}

// awaitJob waits until systemd has nothing to do for a unit any more: an order of the process that died is carried out all
// the same. What takes longer than a restart may is judged as it is then.
func (r *Restarter) awaitJob(ctx context.Context, unit string) error {
	for end := time.Now().Add(restartTimeout); ; {
		u, err := r.cfg.Systemd.Unit(ctx, unit)
		if err != nil || u.Job == 0 || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// mended looks whether a person has mended what hotplate could not.
func (r *Restarter) mended(ctx context.Context, j *journal) (Outcome, error) {
	if !r.works(ctx, j) {
		return Outcome{Kind: Failed, Time: time.Now(), Unit: j.Unit, File: j.File, Reason: j.Reason + "; and after the rollback it is " +
			"no better. " + r.advice(j)}, nil
	}
	if _, err := r.callOff(ctx, j); err != nil {
		return Outcome{}, err
	}
	if err := r.startDependants(ctx, j); err != nil {
		r.log.Warn("containerd works again, and what went down with it does not", "err", err)
	}
	return r.end(ctx, j, Outcome{Kind: cmp.Or(j.Kind, RolledBack), Reason: j.Reason + "; containerd works again"})
}
