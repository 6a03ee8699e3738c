package restart

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// rescueTimeout is how long a rescue that has begun is waited for.
const rescueTimeout = 30 * time.Second

// commit ends a transaction whose new configuration is in force.
func (r *Restarter) commit(ctx context.Context, j *journal, down time.Duration) (Outcome, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if err := r.save(j, verified); err != nil {
		return Outcome{}, err
	}
	rescued, err := r.callOff(ctx, j)
	if err != nil {
		return Outcome{}, err
	}
	is, err := r.content(j)
	if err != nil {
		return Outcome{}, err
	}
	if rescued || is == isOld {
		return r.undo(ctx, j, Abandoned, "the node's own timer put the old configuration back before it was called off")
	}
	return r.end(ctx, j, Outcome{Kind: Restarted, Reason: j.Why, Downtime: down})
}

// callOff disarms the rescue. It reports whether that has put the old configuration back, and waits for it if so.
func (r *Restarter) callOff(ctx context.Context, j *journal) (rescued bool, err error) {
	// First, so that a reboot in between does not undo what is good.
	if err := r.remove(r.state(markerFile)); err != nil {
		return false, err
	}
	state, err := r.cfg.Systemd.Disarm(ctx, j.rescue())
	if err != nil {
		return false, err
	}
	if rescued, err = r.awaitRescue(ctx, j, state); err == nil && !rescued && !j.NoTimer {
		r.log.Info("the rescue is called off", "rescue", j.rescue())
	}
	return rescued, err
}

// awaitRescue waits for a rescue that runs, and reports whether it has done everything. One that failed has not: what is on
// the disk tells how far it came.
func (r *Restarter) awaitRescue(ctx context.Context, j *journal, state systemd.RescueState) (rescued bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, rescueTimeout)
	defer cancel()
	for state == systemd.RescueRunning {
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return true, fmt.Errorf("%s.service, which puts the old configuration back, has run for %s", j.rescue(), rescueTimeout)
		}
		if state, err = r.cfg.Systemd.RescueState(ctx, j.rescue()); err != nil {
			return true, err
		}
	}
	return state == systemd.RescueRan, nil
}

// rollBack takes a transaction back whose daemon is not as it should be, or not seen to be so.
func (r *Restarter) rollBack(ctx context.Context, j *journal, why error) (Outcome, error) {
	j.Unsure = !errors.As(why, new(sickError))
	return r.undo(ctx, j, RolledBack, why.Error())
}

// undo takes a transaction back and ends it. kind says how that is called if it succeeds. It may be called again after a
// crash in its middle.
func (r *Restarter) undo(ctx context.Context, j *journal, kind Kind, reason string) (Outcome, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if kind == RolledBack && r.untried(ctx, j) {
		kind = Abandoned
	}
	reason = withoutValues(reason)
	r.log.Warn("taking the new configuration of containerd back", "file", j.File, "why", reason)
	j.Kind, j.Reason = kind, reason
	if err := r.save(j, rollingBack); err != nil {
		r.log.Error("the rollback is not noted", "err", err) // it is more important than its note
	}
	rescued, err := r.wasRescued(ctx, j)
	if err != nil {
		return Outcome{}, err
	}
	o := Outcome{Kind: kind, Reason: reason}
	if j.Touched || rescued {
		o.Downtime, err = r.restore(ctx, j, rescued)
	}
	switch {
	case errors.As(err, new(sickError)) && ctx.Err() == nil:
		return r.giveUp(ctx, j, err)
	case err != nil:
		return Outcome{}, fmt.Errorf("put containerd's old configuration back: %w; the node's timer tries it too, if there is one", err)
	}
	late, err := r.callOff(ctx, j)
	if err == nil && late {
		err = r.awaitCRI(ctx, j.Unit) // it has restarted the daemon once more
	}
	if err != nil {
		return Outcome{}, err
	}
	o.Rescued = rescued || late
	return r.end(ctx, j, o)
}

// untried tells whether the daemon is still the one that has not read the new configuration, and goes on. One that takes long
// to stop has been hurt already.
func (r *Restarter) untried(ctx context.Context, j *journal) bool {
	u, err := r.cfg.Systemd.Unit(ctx, j.Unit)
	return err == nil && u.InvocationID == j.Invocation && u.ActiveState == "active" && u.Job == 0
}

// restore puts the old configuration back and sees that the daemon works with it. The error is a sickError when it does not.
func (r *Restarter) restore(ctx context.Context, j *journal, rescued bool) (downtime time.Duration, err error) {
	done, err := r.takeBack(ctx, j)
	switch {
	case err != nil:
		return 0, err
	case done == isOther:
		return 0, r.startDependants(ctx, j)
	}
	// Whoever wrote the new one after the rescue had acted may have restarted the daemon with it.
	return r.heal(ctx, j, rescued && done == isOld)
}

// giveUp says that nothing helps. The rescue is called off: it has nothing else to put back, and would put it in the place of
// what a person writes now.
func (r *Restarter) giveUp(ctx context.Context, j *journal, cause error) (Outcome, error) {
	armed := ""
	if _, err := r.callOff(ctx, j); err != nil {
		armed = fmt.Sprintf(" Edit %s after %s only: until then %s.timer, which could not be called off (%v), may put the old "+
			"one in its place.", j.File, time.Now().Add(r.after()).Format(time.TimeOnly), j.rescue(), err)
	}
	o := Outcome{Kind: Failed, Reason: fmt.Sprintf("%s; and after the rollback it is no better: %v. "+
		"%s%s", j.Reason, cause, r.advice(j), armed)}
	return r.record(j, o), r.save(j, stuck)
}

// advice is for whoever has to mend what hotplate cannot.
func (r *Restarter) advice(j *journal) string {
	return fmt.Sprintf("hotplate does not touch it any more, until it works again. Look at %s", r.words(j.Unit))
}

// takeBack puts the old configuration in its place, unless somebody else has put another one there and containerd works. What
// was there before the new one was written is left alone. It reports what it found: isOld, where nothing was to be written,
// isNew, where it was, or isOther, which is left.
func (r *Restarter) takeBack(ctx context.Context, j *journal) (found content, err error) {
	is, err := r.content(j)
	if err != nil || is == isOld || !j.Touched {
		return isOld, err
	}
	if is == isOther {
		if r.awaitCRI(ctx, j.Unit) == nil { // who wrote it may be about to restart containerd
			return isOther, nil
		}
		if err := r.setAside(j); err != nil {
			return isOther, err
		}
	}
	if j.Created { // the backup may be damaged; the journal is not
		return isNew, r.remove(j.File)
	}
	return isNew, r.putOld(j)
}

// putOld puts the old configuration in its place. Where there is no room to write it, what stands ready beside it will do.
func (r *Restarter) putOld(j *journal) error {
	err := r.write(j.File, j.Old, j.Mode)
	if err == nil {
		return nil
	}
	ready := systemd.RestoreTemp(j.File)
	if data, rerr := r.read(ready); rerr != nil || sum(data) != j.OldSum {
		return err
	}
	return r.files.Rename(r.here(ready), r.here(j.File))
}

// setAside keeps what somebody else has put in the place of the configuration.
func (r *Restarter) setAside(j *journal) error {
	data, err := r.found(j.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = r.keep(j, data)
	}
	if err != nil {
		return fmt.Errorf("keep what somebody else has written into %s: %w", j.File, err)
	}
	return nil
}

// found is what somebody else has put into a place: of a link, where it leads.
func (r *Restarter) found(node string) ([]byte, error) {
	data, err := r.read(node)
	if !errors.Is(err, errLink) {
		return data, err
	}
	to, err := os.Readlink(r.here(node))
	return []byte("a link to " + to + "\n"), err
}

// keep keeps somebody else's configuration.
func (r *Restarter) keep(j *journal, data []byte) error {
	file := r.state("foreign-" + j.ID)
	if err := r.write(file, data, 0o600); err != nil {
		return err
	}
	r.log.Warn("what somebody else has written in the place of containerd's configuration is kept", "file", j.File, "copy", file)
	return nil
}

// sift keeps what the rescue has found in the place of the configuration, unless it is ours.
func (r *Restarter) sift(j *journal) error {
	data, err := r.found(systemd.Kept(j.File))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil && (sum(data) == j.NewSum || !j.Created && sum(data) == j.OldSum):
		return nil
	case err == nil:
		err = r.keep(j, data)
	}
	if err != nil {
		return fmt.Errorf("keep what somebody else has written into %s, which is %s now: %w", j.File, systemd.Kept(j.File), err)
	}
	return nil
}

// works tells whether the daemon runs and serves CRI.
func (r *Restarter) works(ctx context.Context, j *journal) bool {
	ctx, cancel := context.WithTimeout(ctx, criTimeout)
	defer cancel()
	u, err := r.cfg.Systemd.Unit(ctx, j.Unit)
	return err == nil && u.ActiveState == "active" && u.SubState == "running" && r.cfg.Daemon.CheckCRI(ctx) == nil
}

// heal sees that the daemon works with the configuration on the disk. It restarts it unless it has not been restarted
// since, or was by the rescue.
func (r *Restarter) heal(ctx context.Context, j *journal, rescued bool) (downtime time.Duration, err error) {
	u, err := r.cfg.Systemd.Unit(ctx, j.Unit)
	if err != nil {
		return 0, err
	}
	if rescued {
		if err := r.awaitCRI(ctx, j.Unit); err == nil {
			return 0, r.startDependants(ctx, j)
		}
	}
	switch {
	case u.InvocationID == j.Invocation && r.works(ctx, j):
		return 0, nil
	case r.healed == healed{j.ID, u.InvocationID} && r.works(ctx, j):
		return 0, r.startDependants(ctx, j)
	}
	began := time.Now()
	if err = r.order(ctx, j.Unit); err == nil {
		err = r.awaitCRI(ctx, j.Unit)
	}
	if err != nil {
		// The rescue or systemd itself may have had more luck meanwhile.
		now, uerr := r.cfg.Systemd.Unit(ctx, j.Unit)
		if uerr != nil || now.InvocationID == u.InvocationID || !r.works(ctx, j) {
			return 0, err
		}
	}
	if now, err := r.cfg.Systemd.Unit(ctx, j.Unit); err == nil {
		r.healed = healed{j.ID, now.InvocationID}
	}
	return time.Since(began).Round(time.Millisecond), r.startDependants(ctx, j)
}

// end writes the record and forgets the transaction, the journal last: what is left without it nobody would take away. Who
// dies in between ends it once more.
func (r *Restarter) end(ctx context.Context, j *journal, o Outcome) (Outcome, error) {
	if err := r.sift(j); err != nil {
		return Outcome{}, err // it is the only copy
	}
	var errs []error
	if o.Kind == RolledBack {
		if err := r.addPoison(j, o.Reason); err != nil { // it may be tried once more; to go on with this one would do so in any case
			errs = append(errs, fmt.Errorf("note that this configuration is not to be tried again: %w", err))
		}
	}
	if o.Kind == Restarted {
		if err := r.addOriginal(j); err != nil {
			errs = append(errs, fmt.Errorf("keep containerd's configuration as it was, for an uninstall: %w", err))
		}
	}
	files := beside(j.File)
	for _, name := range []string{candidate, backupFile, backupSum, unchangedSum, markerFile, systemd.Restored(markerFile)} {
		files = append(files, r.state(name))
	}
	for _, file := range files {
		if err := r.remove(file); err != nil {
			r.log.Warn("a file of the restart stays until the next one", "err", err)
		}
	}
	if err := r.cfg.Systemd.Forget(ctx, j.rescue()); err != nil {
		r.log.Warn("what is left of the rescue stays in systemd until the next boot", "unit", j.rescue(), "err", err)
	}
	o = r.record(j, o)
	return o, errors.Join(append(errs, r.remove(r.state(journalFile)))...)
}

// record keeps how an attempt ended, for whoever asks later.
func (r *Restarter) record(j *journal, o Outcome) Outcome {
	o.Time, o.Unit, o.File = time.Now(), j.Unit, j.File
	all, err := r.Records()
	if err != nil {
		r.log.Warn("the record of earlier restarts cannot be read and begins anew", "err", err)
	}
	all = append([]Outcome{o}, all...)
	if err := r.saveJSON(recordFile, all[:min(len(all), maxRecords)]); err != nil {
		r.log.Warn("how the restart ended is not kept", "err", err)
	}
	level := r.log.Info
	if o.Kind != Restarted {
		level = r.log.Warn
	}
	level("restart of containerd ended", "how", string(o.Kind), "why", o.Reason, "unit", o.Unit, "downtime", o.Downtime)
	return o
}

// Records are how the last attempts that changed anything ended, the newest first.
func (r *Restarter) Records() (all []Outcome, err error) {
	_, err = r.loadJSON(recordFile, &all)
	return all, err
}
