package restart

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// How long each step may take. The rescue waits for longer than all of them together.
const (
	// lookTimeout is for the last look before anything is changed.
	lookTimeout = 15 * time.Second
	// restartTimeout is until systemd has a result. A daemon that is slow to start because it has much to load is given
	// up then, and loses nothing.
	restartTimeout = 20 * time.Second
	// criTimeout is until CRI answers after that.
	criTimeout = 10 * time.Second
	// verifyTimeout is for everything else that is looked at, the probe first.
	verifyTimeout = 30 * time.Second
	// dependantTimeout is for the start of all units that went down too.
	dependantTimeout = 20 * time.Second
	// slack is for the disk, the bus and a busy machine.
	slack = 40 * time.Second
	// maxSoak keeps the rescue's delay within what systemd is asked for.
	maxSoak = time.Hour
	// poll is how often systemd is asked for the unit's state meanwhile.
	poll = 50 * time.Millisecond
	// undoTimeout bounds a rollback, also after the caller has given up.
	undoTimeout = 2 * time.Minute
)

const (
	rescuePrefix = "hotplate-rescue-"
	bootName     = "hotplate-restore"
	bootFile     = "/etc/systemd/system/" + bootName + ".service"
)

// after is when the rescue acts.
func (r *Restarter) after() time.Duration {
	return lookTimeout + restartTimeout + criTimeout + verifyTimeout + dependantTimeout + r.cfg.Soak + slack
}

// Run does what package doc describes, from the end of an earlier transaction on. An error means that it is not known
// what there is to do, or that nothing could be noted; whatever was begun is then taken up by the next Run or Recover.
func (r *Restarter) Run(ctx context.Context) (Outcome, error) {
	unlock, err := r.lock()
	if err != nil {
		return Outcome{}, err
	}
	defer unlock()
	if o, err := r.recover(ctx); err != nil || o != nil {
		return deref(o), err // what was found is told before anything new is begun
	}
	a, err := r.assess(ctx)
	if err != nil {
		return Outcome{}, err
	}
	r.tell(a.Checks)
	if o, over := a.Outcome(); over {
		return o, nil
	}
	if r.cfg.Slot != nil {
		release, err := r.cfg.Slot(ctx)
		if err != nil {
			return Outcome{}, fmt.Errorf("wait for the leave to restart containerd: %w", err)
		}
		defer release()
		// That may have taken long.
		if a, err = r.assess(ctx); err != nil {
			return Outcome{}, err
		}
		r.tell(a.Checks)
		if o, over := a.Outcome(); over {
			return o, nil
		}
	}
	return r.transact(ctx, a)
}

// tell logs what was found, unless it is what was told last: it may be looked at every minute.
func (r *Restarter) tell(checks []Check) {
	if slices.Equal(checks, r.told) {
		return
	}
	r.told = checks
	for _, c := range checks {
		r.log.Info("looked before a restart", "check", c.Name, "verdict", string(c.Verdict), "detail", c.Detail)
	}
}

func deref(o *Outcome) Outcome {
	if o == nil {
		return Outcome{}
	}
	return *o
}

// transact changes the file and restarts the daemon.
func (r *Restarter) transact(ctx context.Context, a Assessment) (Outcome, error) {
	j := newJournal(a.target.unit.Name, a.Edit, a.target.info)
	j.Dependants, j.Before, j.Invocation, j.NoTimer = a.down, a.before, a.target.unit.InvocationID, r.cfg.NoTimer
	var err error
	if j.BootID, err = r.bootID(); err != nil {
		return Outcome{}, err
	}
	if err := r.prepare(ctx, j); err != nil {
		// Nothing is changed yet, but something may be armed.
		return r.undo(ctx, j, Abandoned, "it could not be prepared: "+err.Error())
	}
	if err := r.swap(ctx, j, a.Edit.New); err != nil {
		return r.undo(ctx, j, Abandoned, err.Error())
	}
	// From here on the caller's end does not leave anything half done: the work goes on, which is bounded.
	down, err := r.restart(context.WithoutCancel(ctx), j)
	if err != nil {
		return r.rollBack(ctx, j, err)
	}
	return r.prove(ctx, j, down)
}

// prove ends a transaction whose daemon has been restarted: it commits or rolls back.
func (r *Restarter) prove(ctx context.Context, j *journal, down time.Duration) (Outcome, error) {
	invocation, err := r.verify(ctx, j)
	if err == nil {
		err = r.soak(ctx, j, invocation)
	}
	switch {
	case errors.Is(err, errNotWatched):
		return Outcome{}, err
	case err != nil:
		return r.rollBack(ctx, j, err)
	}
	return r.commit(ctx, j, down)
}

// prepare makes everything durable that a rollback needs, and arms the rescue.
func (r *Restarter) prepare(ctx context.Context, j *journal) error {
	if err := r.save(j, preparing); err != nil {
		return err
	}
	if err := r.backup(j); err != nil {
		return fmt.Errorf("keep the old configuration: %w", err)
	}
	r.log.Info("the old configuration is kept", "file", j.File, "journal", r.state(journalFile))
	if r.cfg.NoTimer { // checkRescue has seen that this may be
		r.log.Warn("nobody but this program puts the old configuration of containerd back", "file", j.File)
		return nil
	}
	if err := r.installBoot(ctx, j); err != nil {
		return fmt.Errorf("install the unit that puts the old configuration back after a reboot: %w", err)
	}
	r.log.Info("after a reboot in the middle the old configuration comes back", "unit", BootUnit)
	if err := r.save(j, armed); err != nil {
		return err
	}
	marker := r.state(markerFile)
	// One that an earlier transaction has left would say that this one was taken back after a reboot.
	if err := r.remove(systemd.Restored(marker)); err != nil {
		return err
	}
	if err := r.write(marker, []byte(j.ID+"\n"), 0o600); err != nil {
		return err
	}
	if err := r.cfg.Systemd.Arm(ctx, r.rescue(j)); err != nil {
		return err
	}
	if err := r.alone(ctx, j); err != nil {
		return err
	}
	// Somebody else's restart between the two would have let the boot unit act.
	there, err := r.exists(marker)
	if err == nil && !there {
		err = errors.New("somebody else restarted containerd meanwhile")
	}
	r.log.Info("the old configuration comes back by itself unless that is called off", "rescue", j.rescue(), "after", r.after())
	return err
}

// alone sees that no other hotplate has armed a rescue at the same time. If one has, both see it.
func (r *Restarter) alone(ctx context.Context, j *journal) error {
	names, err := r.cfg.Systemd.Rescues(ctx, rescuePrefix)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == j.rescue() })
	if len(names) > 0 {
		return others(names)
	}
	return nil
}

// backup writes the old configuration twice, and reads it again: into our state, and beside the configuration, from where it
// comes back by a rename, which needs no room.
func (r *Restarter) backup(j *journal) error {
	if j.Created {
		return nil
	}
	ready := systemd.RestoreTemp(j.File)
	for _, file := range []string{r.state(backupFile), ready} {
		if err := r.write(file, j.Old, j.Mode); err != nil {
			return err
		}
		data, err := r.read(file)
		if err == nil && sum(data) != sum(j.Old) {
			err = fmt.Errorf("what was written to %s is not what is read from it: the disk is damaged", file)
		}
		if err != nil {
			return err
		}
	}
	return r.write(r.state(backupSum), sumLine(sum(j.Old), ready), 0o600)
}

// sumLine is a line as sha256sum --check reads it.
func sumLine(sum, file string) []byte { return []byte(sum + "  " + file + "\n") }

// rescue is the timer that takes j back without us. What somebody else has written meanwhile is kept.
func (r *Restarter) rescue(j *journal) systemd.Rescue {
	return systemd.Rescue{
		Name: j.rescue(), Description: "hotplate: restore the configuration of containerd", After: r.after(),
		Steps: append(r.restoreSteps(j, systemd.KeepFile(j.File)...), systemd.RestartUnit(j.Unit, j.Dependants...)...),
	}
}

// restoreSteps put the old configuration back without us, right after the steps before. A backup that was damaged meanwhile
// is not put back: a configuration that passed the preflight is better than that.
func (r *Restarter) restoreSteps(j *journal, before ...systemd.Step) []systemd.Step {
	if j.Created {
		return append(before, systemd.RemoveFile(j.File)...)
	}
	return systemd.PutReady(r.state(backupFile), r.state(backupSum), j.File, before...)
}

// bootUnit is what takes j back after a reboot.
func (r *Restarter) bootUnit(j *journal) systemd.BootUnit {
	return systemd.BootUnit{
		Name: bootName, Description: "hotplate: restore the configuration of containerd after a reboot",
		Marker: r.state(markerFile), Rescues: rescuePrefix, Before: j.Unit, Unchanged: r.state(unchangedSum),
		Steps: r.restoreSteps(j),
	}
}

// installBoot installs the boot unit, unless the same is there. systemd writes it for us: /etc/systemd need not be mounted
// where we are.
func (r *Restarter) installBoot(ctx context.Context, j *journal) error {
	if err := r.write(r.state(unchangedSum), sumLine(j.NewSum, j.File), 0o600); err != nil {
		return err
	}
	unit := r.bootUnit(j)
	text, err := unit.Render()
	if err != nil {
		return err
	}
	source := r.state(bootName + ".service")
	if same, err := r.bootInstalled(ctx, source, text, unit); err != nil || same {
		return err
	}
	if err := r.write(source, []byte(text), 0o644); err != nil {
		return err
	}
	for _, step := range systemd.RestoreFile(source, bootFile) {
		result, err := r.cfg.Systemd.RunOnHost(ctx, systemd.Command{Name: "install", Argv: step.Argv})
		if err == nil && result.ExitCode != 0 && !step.IgnoreFailure {
			err = fmt.Errorf("%s: %s", step.Argv[0], lastWord(result.Stderr))
		}
		if err != nil && !step.IgnoreFailure {
			return err
		}
	}
	if err := r.cfg.Systemd.Reload(ctx); err != nil {
		return err
	}
	return r.cfg.Systemd.Enable(ctx, path.Base(bootFile))
}

// bootInstalled tells whether the boot unit is there as it should be, and not one that another hotplate has installed over it.
// Then systemd need not read all units anew, which may change others too.
func (r *Restarter) bootInstalled(ctx context.Context, source, text string, unit systemd.BootUnit) (bool, error) {
	data, err := r.read(source)
	if err != nil || string(data) != text {
		return false, nil //nolint:nilerr // it is written anew
	}
	u, err := r.cfg.Systemd.Unit(ctx, path.Base(bootFile))
	if errors.Is(err, systemd.ErrNoUnit) {
		return false, nil
	}
	same := slices.EqualFunc(u.ExecStart, unit.ExecStart(), func(e systemd.Exec, s systemd.Step) bool { return slices.Equal(e.Argv, s.Argv) })
	return err == nil && same && u.UnitFileState == "enabled" && u.FragmentPath == bootFile && !u.NeedDaemonReload, err
}

// swap puts the new configuration in its place, if the old one is still there and the node is as it was.
func (r *Restarter) swap(ctx context.Context, j *journal, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := r.unchanged(ctx, j); err != nil {
		return err
	}
	j.Touched = true
	if err := r.save(j, swapping); err != nil {
		return err
	}
	switch is, err := r.content(j); {
	case err != nil:
		return err
	case is != isOld:
		j.Touched = false
		return fmt.Errorf("%s was changed by somebody else meanwhile", j.File)
	}
	if err := r.guarded(ctx, j); err != nil {
		j.Touched = false
		return err
	}
	if err := r.writeConfig(j, data); err != nil {
		return err
	}
	r.log.Info("configuration of containerd changed", "file", j.File, "what", j.Why)
	return nil
}

// guarded sees that the rescue still waits: without it nothing would take back what is written now.
func (r *Restarter) guarded(ctx context.Context, j *journal) error {
	if r.cfg.NoTimer {
		return nil
	}
	state, err := r.cfg.Systemd.RescueState(ctx, j.rescue())
	if err == nil && state != systemd.RescueArmed {
		err = fmt.Errorf("%s.timer, which would take it back, does not wait any more", j.rescue())
	}
	return err
}

// unchanged sees that what was found before is still so. systemd has read all units anew since, whose files somebody may have
// edited: of a drop-in in a new directory it does not say before that it has to be read (systemd 252).
func (r *Restarter) unchanged(ctx context.Context, j *journal) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	u, err := r.cfg.Systemd.Unit(ctx, j.Unit)
	if err != nil {
		return err
	}
	s := &survey{}
	r.checkUnit(u, s)
	down, err := r.checkDependants(ctx, j.Unit, s)
	if err != nil {
		return err
	}
	running, err := r.cfg.Daemon.Running(ctx)
	switch {
	case s.worst() == Refuse:
		return errors.New(s.reasons(Refuse))
	case s.worst() == Defer:
		return errors.New(s.reasons(Defer))
	case u.InvocationID != j.Invocation:
		return fmt.Errorf("somebody else restarted %s meanwhile", j.Unit)
	case !slices.Equal(down, j.Dependants): // whom the rescue starts again
		return fmt.Errorf("%s go down with %s now", few(down), j.Unit)
	case err != nil:
		return err
	case len(running.Idle) > 0:
		return errors.New("a container is being created meanwhile")
	case len(running.Strays) > 0:
		return errors.New("systemd has moved a container's processes out of their cgroup meanwhile")
	}
	j.Before = running
	return nil
}

// writeConfig replaces containerd's configuration, or makes it, with its directory if need be.
func (r *Restarter) writeConfig(j *journal, data []byte) error {
	err := r.write(j.File, data, j.Mode)
	if errors.Is(err, fs.ErrNotExist) && j.Created {
		if err = r.files.Mkdir(r.here(path.Dir(j.File)), 0o755); err == nil {
			err = r.write(j.File, data, j.Mode)
		}
	}
	return err
}

// restart orders the restart and waits until CRI answers again.
func (r *Restarter) restart(ctx context.Context, j *journal) (downtime time.Duration, err error) {
	if err := r.save(j, restarting); err != nil {
		return 0, err
	}
	began := time.Now()
	r.log.Info("restarting containerd", "unit", j.Unit, "tasks", len(j.Before.Tasks))
	if err := r.order(ctx, j.Unit); err != nil {
		return 0, err
	}
	if err := r.awaitCRI(ctx, j.Unit); err != nil {
		return 0, err
	}
	downtime = time.Since(began).Round(time.Millisecond)
	r.log.Info("containerd answers again", "unit", j.Unit, "downtime", downtime)
	return downtime, nil
}
