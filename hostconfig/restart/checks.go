package restart

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/configtoml"
	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/supervised"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

const (
	// assessTimeout bounds all checks together.
	assessTimeout = time.Minute
	// settled is how long the daemon must have run at least, maxSettled at most: a start limit may be for ever, and is reset
	// before a restart.
	settled, maxSettled = 10 * time.Second, time.Minute
	// minBurst is how many starts the unit must be allowed: ours and, if that goes wrong, two more.
	minBurst = 3
	// shimSettles is how long a shim may be there before containerd knows its task.
	shimSettles = 2 * time.Second
	// maxUnsure is how often a configuration is tried of which nobody could say how the daemon is with it.
	maxUnsure = 2
	// A configuration that was set maxReverts times in revertsIn is not set again: somebody else sets another one.
	maxReverts, revertsIn = 3, 24 * time.Hour
	// stalledAfter is when a blob that does not grow is no longer taken for a pull under way: some lie there for good.
	stalledAfter = 2 * time.Minute
)

// survey collects checks.
type survey struct{ checks []Check }

func (s *survey) add(name string, v Verdict, detail string) {
	s.checks = append(s.checks, Check{Name: name, Verdict: v, Detail: detail})
}

// worst is the verdict of all.
func (s *survey) worst() Verdict {
	order := []Verdict{Pass, Note, Defer, Refuse}
	worst := Pass
	for _, c := range s.checks {
		if slices.Index(order, c.Verdict) > slices.Index(order, worst) {
			worst = c.Verdict
		}
	}
	return worst
}

// reasons are the details of a verdict.
func (s *survey) reasons(v Verdict) string {
	var all []string
	for _, c := range s.checks {
		if c.Verdict == v {
			all = append(all, c.Name+": "+c.Detail)
		}
	}
	return strings.Join(all, "; ")
}

// Assessment is what a restart would do, and whether it may.
type Assessment struct {
	Checks []Check
	// Edit is the change of the configuration; zero where there is none, or where it is not known.
	Edit configtoml.Edit
	// Live means that the running daemon obeys the hosts directory, so that there is nothing to do.
	Live bool

	target target
	before daemon.Running
	down   []string // units to be started again
}

// Verdict is the worst of all checks.
func (a Assessment) Verdict() Verdict { return (&survey{a.Checks}).worst() }

// Outcome is how a restart ends that is assessed so, if that does not let it go on: over is true then.
func (a Assessment) Outcome() (o Outcome, over bool) {
	s := &survey{a.Checks}
	o = Outcome{Time: time.Now(), Unit: a.target.unit.Name, File: a.Edit.Path, Checks: a.Checks}
	switch worst := s.worst(); {
	case a.Live:
		o.Kind, o.Reason = NotNeeded, s.reasons(Pass)
	case worst == Refuse:
		o.Kind, o.Reason = Refused, s.reasons(Refuse)
	case worst == Defer:
		o.Kind, o.Reason = Deferred, s.reasons(Defer)
	default:
		return o, false
	}
	return o, true
}

// Assess looks at everything that a restart depends on. It changes nothing, but for a file in StateDir and a program that
// runs for a moment on the node. An error means that it could not be found out.
// It is ErrBusy while somebody restarts.
func (r *Restarter) Assess(ctx context.Context) (Assessment, error) {
	unlock, err := r.lock()
	if err != nil {
		return Assessment{}, err
	}
	defer unlock()
	return r.assess(ctx)
}

func (r *Restarter) assess(ctx context.Context) (Assessment, error) {
	ctx, cancel := context.WithTimeout(ctx, assessTimeout)
	defer cancel()
	s := &survey{}
	var a Assessment
	err := r.need(ctx, &a, s)
	if err == nil && !a.Live && s.worst() != Refuse {
		a.target, err = r.find(ctx, s)
	}
	if err == nil && !a.Live && s.worst() != Refuse {
		err = r.look(ctx, &a, s)
	}
	a.Checks, a.Edit = s.checks, a.target.edit
	if err != nil {
		return a, fmt.Errorf("look whether containerd may be restarted: %w", err)
	}
	return a, nil
}

// answers returns nil when CRI works. A daemon that is not there is not waited for as long as its client would.
func (r *Restarter) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, criTimeout)
	defer cancel()
	return r.cfg.Daemon.CheckCRI(ctx)
}

// need finds out whether the daemon works, and whether it obeys the hosts directory already.
func (r *Restarter) need(ctx context.Context, a *Assessment, s *survey) error {
	if err := r.answers(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.add("health", Refuse, "containerd does not work now, and must be well before it is changed: "+withoutValues(err.Error()))
		return nil
	}
	verdict, err := r.cfg.Probe(ctx)
	if err != nil {
		return err
	}
	a.Live = verdict.Live
	if a.Live {
		s.add("need", Pass, fmt.Sprintf("the running containerd (%s) reads %s: no restart is needed", verdict.UserAgent, r.cfg.HostsDir))
		return nil
	}
	s.add("need", Pass, fmt.Sprintf("the running containerd does not read %s", r.cfg.HostsDir))
	return nil
}

// look goes through the checks of a daemon whose unit and configuration are known, those that cost little first.
func (r *Restarter) look(ctx context.Context, a *Assessment, s *survey) error {
	r.checkUnit(a.target.unit, s)
	var err error
	if a.down, err = r.checkDependants(ctx, a.target.unit.Name, s); err != nil {
		return err
	}
	if err := r.checkHistory(a.target, s); err != nil {
		return err
	}
	r.checkDisk(a.target, s)
	r.checkFile(a.target, s)
	checkImports(a.target, s)
	if err := r.checkOthers(ctx, s); err != nil {
		return err
	}
	if s.worst() == Refuse {
		return nil // what follows asks shims, or runs programs
	}
	if err := r.checkRunning(ctx, a, s); err != nil || s.worst() == Refuse {
		return err
	}
	if err := r.checkPulls(ctx, s); err != nil {
		return err
	}
	err = r.checkPrograms(ctx, a, s)
	if errors.Is(err, supervised.ErrCannotCheck) {
		s.add("candidate", Refuse, err.Error())
		return nil
	}
	return err
}

// checkPrograms goes through the checks that run programs.
func (r *Restarter) checkPrograms(ctx context.Context, a *Assessment, s *survey) error {
	for _, check := range []func(context.Context, *Assessment, *survey) error{r.checkBinary, r.checkRescue} {
		if err := check(ctx, a, s); err != nil || s.worst() == Refuse {
			return err
		}
	}
	return r.checkCandidate(ctx, a.target, s)
}

// checkOthers defers while the rescue of another hotplate waits, which has another state directory and knows nothing of our
// lock. Both would put back what the other has changed.
func (r *Restarter) checkOthers(ctx context.Context, s *survey) error {
	names, err := r.cfg.Systemd.Rescues(ctx, rescuePrefix)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		s.add("busy", Defer, others(names).Error())
	}
	return nil
}

func others(names []string) error {
	return fmt.Errorf("another hotplate, with another state directory, restarts containerd: %s.timer waits", few(names))
}

// checkUnit refuses units of which a restart takes containers along, or of which it is not known when they are up.
func (r *Restarter) checkUnit(u systemd.Unit, s *survey) {
	name, before := u.Name, len(s.checks)
	bad := func(is bool, v Verdict, format string, args ...any) {
		if is {
			s.add("unit", v, fmt.Sprintf(format, args...))
		}
	}
	bad(u.LoadState != "loaded", Refuse, "%s is %s: its unit file is gone or broken", name, u.LoadState)
	bad(u.NeedDaemonReload, Refuse, "the file of %s was edited since systemd read it: run systemctl daemon-reload, and look "+
		"whether it is still right", name)
	bad(u.KillMode != "process", Refuse, "%s has KillMode=%s, with which a restart kills every container: set KillMode=process",
		name, u.KillMode)
	bad(!u.Delegate, Refuse, "%s has not Delegate=yes: systemd may take the cgroups of containers away", name)
	bad(u.Type != "notify", Refuse, "%s has Type=%s, with which systemd does not know when containerd is up: set Type=notify",
		name, u.Type)
	bad(u.Watchdog != 0 && u.Watchdog != systemd.Forever, Refuse, "%s has WatchdogSec, which containerd does not serve", name)
	bad(u.StartLimitInterval > 0 && u.StartLimitBurst < minBurst, Refuse, "%s may be started %d times in %s, and a restart "+
		"that is taken back needs %d: raise StartLimitBurst", name, u.StartLimitBurst, u.StartLimitInterval, minBurst)
	bad(u.ActiveState != "active" || u.SubState != "running", Defer, "%s is %s/%s", name, u.ActiveState, u.SubState)
	bad(u.Job != 0, Defer, "systemd has a job for %s", name)
	age := time.Since(u.StateChange)
	must := min(max(settled, u.StartLimitInterval), maxSettled)
	bad(age >= 0 && age < must, Defer, "%s was started %s ago: it must have run for %s", name, age.Round(time.Second), must)
	switch {
	case len(s.checks) > before:
	case r.cfg.NoTimer:
		s.add("unit", Pass, fmt.Sprintf("%s alone is told to end; whatever has started it has to start it again", name))
	default:
		s.add("unit", Pass, fmt.Sprintf("%s spares its containers (KillMode=process, Delegate=yes)", name))
	}
}

// checkDependants finds the units that go down with containerd's and may not come back by themselves: down are those of them
// that may, sorted.
func (r *Restarter) checkDependants(ctx context.Context, unit string, s *survey) (down []string, err error) {
	units, err := r.cfg.Systemd.Dependants(ctx, unit)
	if err != nil {
		return nil, err
	}
	var refused []string
	for _, u := range units {
		switch {
		case u.ActiveState != "active" && u.ActiveState != "activating" && u.ActiveState != "reloading":
		case slices.Contains(r.cfg.Dependants, u.Name):
			down = append(down, u.Name)
		default:
			refused = append(refused, u.Name)
		}
	}
	slices.Sort(down)
	switch {
	case len(refused) > 0:
		s.add("dependants", Refuse, fmt.Sprintf("%s would go down with %s, and after a failed start stay down: list them in "+
			"restart.dependants if that may be", strings.Join(refused, ", "), unit))
	case len(down) > 0:
		s.add("dependants", Note, strings.Join(down, ", ")+" go down too and are started again")
	default:
		s.add("dependants", Pass, "no other unit goes down with it")
	}
	return down, nil
}

// checkHistory refuses what was tried and taken back, or what somebody takes back again and again.
func (r *Restarter) checkHistory(t target, s *survey) error {
	j := newJournal(t.unit.Name, t.edit, t.info)
	why, err := r.poisoned(j)
	if err != nil {
		return err
	}
	all, err := r.originals()
	if err != nil {
		return err
	}
	if o := all[j.File]; o.NewSum == j.NewSum && len(o.Times) == maxReverts && time.Since(o.Times[0]).Abs() < revertsIn {
		s.add("history", Refuse, fmt.Sprintf("hotplate has set this %d times since %s, and somebody puts the old configuration back: "+
			"change it where it comes from, or let it be set once more with hotplate restart --again", maxReverts,
			o.Times[0].UTC().Format(time.RFC3339)))
	}
	if why != "" {
		s.add("history", Refuse, "this very configuration was tried and taken back: "+why+"; change it, or let it be "+
			"tried once more with hotplate restart --again")
	}
	return nil
}

// checkRunning sees that every shim answers and none is forgotten, and that nothing is half begun.
func (r *Restarter) checkRunning(ctx context.Context, a *Assessment, s *survey) error {
	running, err := r.cfg.Daemon.Running(ctx)
	if errors.Is(err, daemon.ErrShimHangs) {
		s.add("shims", Refuse, err.Error()+"; a restart would kill its containers: find out why, end the shim, and ask again")
		return nil
	}
	if err != nil {
		return err
	}
	a.before = running
	for _, o := range running.Orphans {
		s.add("shims", Refuse, fmt.Sprintf("task %s/%s (pid %d) belongs to no container: containerd may hang when it starts "+
			"(containerd issue 13848); remove it with ctr -n %s task rm -f %s", o.Namespace, o.ID, o.PID, o.Namespace, o.ID))
	}
	for _, o := range running.Strays {
		s.add("shims", Refuse, fmt.Sprintf("task %s/%s (pid %d) has no process in its cgroup, so that containerd would end it when "+
			"it starts: systemd has moved it, as a daemon-reexec does on cgroup v1; end the pod first, or drain the node",
			o.Namespace, o.ID, o.PID))
	}
	for _, d := range running.Duplicates {
		s.add("pods", Refuse, "there are two of pod "+d+": containerd does not start with that (containerd issue 6095); remove one")
	}
	if err := r.checkShims(ctx, a, s); err != nil {
		return err
	}
	if len(running.Idle) > 0 {
		s.add("busy", Defer, "containers are created and not started, or have no task: "+few(running.Idle))
	}
	if s.worst() != Refuse {
		s.add("shims", Pass, fmt.Sprintf("%d tasks answer", len(running.Tasks)))
	}
	return nil
}

// checkShims looks for shims that containerd itself has forgotten, which only a list of processes shows. One that is about to
// be known, because its container is being created, is given a moment.
func (r *Restarter) checkShims(ctx context.Context, a *Assessment, s *survey) error {
	unknown, err := r.unknownShims(ctx, a)
	if err != nil || len(unknown) == 0 {
		return err
	}
	select {
	case <-time.After(shimSettles):
	case <-ctx.Done():
		return ctx.Err()
	}
	if a.before, err = r.cfg.Daemon.Running(ctx); err != nil {
		return err
	}
	again, err := r.unknownShims(ctx, a)
	if err != nil {
		return err
	}
	for pid, name := range again {
		if unknown[pid] == name {
			s.add("shims", Refuse, fmt.Sprintf("the shim with pid %d is that of %s, which containerd does not know: end it", pid, name))
		} else {
			s.add("busy", Defer, name+" is being created")
		}
	}
	return nil
}

// unknownShims are the shims of tasks that containerd does not know, by their pids.
func (r *Restarter) unknownShims(ctx context.Context, a *Assessment) (map[int]string, error) {
	processes, err := r.cfg.Systemd.Processes(ctx, a.target.unit.Name)
	if err != nil {
		return nil, err
	}
	known := make(map[string]bool)
	for _, t := range a.before.Tasks {
		known[t.Namespace+"/"+t.ID] = true
	}
	unknown := make(map[int]string)
	for _, p := range processes {
		namespace, id, ok := shim(p.Args)
		// A shim may serve the containers of its whole pod, and is named after the pod.
		if name := namespace + "/" + id; ok && !known[name] {
			unknown[p.PID] = name
		}
	}
	return unknown, nil
}

// shim reads off a command line whose shim it is (core/runtime/v2/shim/util.go, Command, 2.4.2).
func shim(args []string) (namespace, id string, ok bool) {
	if len(args) == 0 || !strings.Contains(args[0], "containerd-shim") {
		return "", "", false
	}
	for i := 1; i+1 < len(args); i++ {
		switch args[i] {
		case "-namespace":
			namespace = args[i+1]
		case "-id":
			id = args[i+1]
		}
	}
	return namespace, id, namespace != "" && id != ""
}

// checkPulls defers while the daemon fetches: a restart throws a pull's unfinished blobs away.
func (r *Restarter) checkPulls(ctx context.Context, s *survey) error {
	ingests, err := r.cfg.Daemon.Ingests(ctx)
	if err != nil {
		return err
	}
	var active []string
	for _, in := range ingests {
		// One of the future is from before somebody has set the clock.
		if time.Since(in.UpdatedAt).Abs() < stalledAfter {
			active = append(active, fmt.Sprintf("%s at %d of %d bytes", in.Ref, in.Offset, in.Total))
		}
	}
	if len(active) > 0 {
		s.add("busy", Defer, "images are being pulled: "+few(active))
	}
	return nil
}

// few lists the first of many.
func few[T any](all []T) string {
	const most = 3
	var words []string
	for _, one := range all[:min(len(all), most)] {
		words = append(words, fmt.Sprint(one))
	}
	text := strings.Join(words, ", ")
	if len(all) > most {
		text += fmt.Sprintf(" and %d more", len(all)-most)
	}
	return text
}

// poisoned says why the journal's configuration is not tried again; empty if it may be tried.
func (r *Restarter) poisoned(j *journal) (string, error) {
	all, err := r.poison()
	if is := all[j.key()]; is.Unsure == 0 || is.Unsure >= maxUnsure {
		return is.Reason, err
	}
	return "", err
}

// refusal is an entry of poisonFile.
type refusal struct {
	Time   time.Time `json:"time"`
	Reason string    `json:"reason"`
	// Unsure is how often it was taken back without a verdict on the daemon; 0 where there was one.
	Unsure int    `json:"unsure,omitempty"`
	By     string `json:"by,omitempty"` // the transaction that noted it last
}

func (r *Restarter) poison() (all map[string]refusal, err error) {
	if _, err = r.loadJSON(poisonFile, &all); err != nil {
		err = fmt.Errorf("what was taken back before is not known: %w; to try everything again, hotplate restart --again", err)
	}
	return all, err
}

// addPoison notes that j's configuration is not to be tried again.
func (r *Restarter) addPoison(j *journal, reason string) error {
	all, err := r.poison()
	if err != nil || all == nil {
		all = make(map[string]refusal) // what cannot be read is worth less than what has just been seen
	}
	is, known := all[j.key()]
	if known && is.By == j.ID { // noted before a crash
		return nil
	}
	next := refusal{Time: time.Now(), Reason: reason, By: j.ID}
	if j.Unsure && (!known || is.Unsure > 0) {
		next.Unsure = is.Unsure + 1
	}
	all[j.key()] = next
	for len(all) > maxRecords {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(all)), func(a, b string) int { return all[a].Time.Compare(all[b].Time) })
		delete(all, oldest)
	}
	return r.saveJSON(poisonFile, all)
}

// Forgive lets every configuration be tried again that was rolled back, or that somebody puts back again and again.
func (r *Restarter) Forgive() error {
	all, err := r.originals()
	for file, o := range all {
		o.Times = nil
		all[file] = o
	}
	if err == nil && len(all) > 0 {
		err = r.saveJSON(originalsFile, all)
	}
	return errors.Join(err, r.remove(r.state(poisonFile)))
}
