package systemdtest

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// exitCode is that of a service whose Outcome is Exit.
const exitCode = 3

// unit is a service. All its fields, and all its methods but outcome, need fake.mu.
type unit struct {
	fake    *Fake
	service Service
	edited  *Service // what its file says, where that is not in force yet
	enabled bool

	active, sub string
	result      string
	changed     time.Time
	pid         int
	invocation  string
	restarts    int
	exitCode    int
	signal      int
	starts      []time.Time // those that count for the start limit

	job     uint32
	waiters []chan string // for the result of job
	revive  []*unit       // are started when job is done: what went down with this unit

	epoch int // counts what makes everything void that was about to happen by itself
}

func (u *unit) set(active, sub string) {
	u.active, u.sub, u.changed = active, sub, time.Now()
}

// settle makes void what was about to happen by itself.
func (u *unit) settle() { u.epoch++ }

// later does something after a time, unless something else happens to the unit first. prepare, if not nil, is called
// before without fake.mu.
func (u *unit) later(d time.Duration, prepare func() Outcome, do func(Outcome)) {
	epoch := u.epoch
	time.AfterFunc(d, func() {
		var o Outcome
		if prepare != nil {
			o = prepare()
		}
		u.fake.mu.Lock()
		defer u.fake.mu.Unlock()
		if u.epoch == epoch && !u.fake.closed {
			do(o)
		}
	})
}

// queue begins a job, which takes over the waiters of the one that it replaces.
func (u *unit) queue(result chan string) {
	u.fake.lastJob++
	u.job = u.fake.lastJob
	if result != nil {
		u.waiters = append(u.waiters, result)
	}
}

func (u *unit) finish(result string) {
	for _, w := range u.waiters {
		w <- result
	}
	revive := u.revive
	u.job, u.waiters, u.revive = 0, nil, nil
	if result == systemd.ResultDone {
		for _, d := range revive {
			d.begin(true)
		}
	}
}

func (u *unit) start(result chan string) {
	switch {
	case u.active == "active":
		result <- systemd.ResultDone
	case u.active == "activating" && u.sub == "start":
		u.queue(result) // joins the job that is there
	default:
		u.queue(result)
		u.restarts = 0
		u.begin(false)
	}
}

func (u *unit) restart(result chan string) {
	u.queue(result)
	u.restarts = 0
	u.again(false)
}

// again stops the unit and what a stop of it stops too, and starts it. What was stopped is started when that is done:
// see finish. What is only a part of it is started in any case.
func (u *unit) again(automatic bool) {
	for _, d := range u.downOthers() {
		if slices.Contains(d.service.PartOf, u.service.Name) {
			d.begin(true)
		} else {
			u.revive = append(u.revive, d)
		}
	}
	if u.service.StopTakes > 0 && u.active == "active" {
		u.set("deactivating", "stop-sigterm")
		u.later(u.service.StopTakes, nil, func(Outcome) { u.begin(automatic) })
		return
	}
	if u.active != "deactivating" { // else that start is still to come
		u.begin(automatic)
	}
}

func (u *unit) stop(result chan string) {
	for _, w := range u.waiters {
		w <- systemd.ResultCanceled
	}
	u.job, u.waiters, u.revive = 0, nil, nil
	u.downOthers()
	if u.active != "inactive" && u.active != "failed" {
		u.halt()
	}
	result <- systemd.ResultDone
}

// downOthers stops what a stop of the unit stops too, and returns what of it ran.
func (u *unit) downOthers() []*unit {
	var ran []*unit
	for _, d := range u.stopsToo() {
		if d.active == "active" || d.active == "activating" {
			d.halt()
			d.finish(systemd.ResultCanceled)
			ran = append(ran, d)
		}
	}
	return ran
}

func (u *unit) halt() {
	u.settle()
	u.set("inactive", "dead")
	u.pid, u.result = 0, "success"
}

// begin starts the main process. automatic is a start that nobody asked for.
func (u *unit) begin(automatic bool) {
	u.settle()
	now := time.Now()
	u.starts = slices.DeleteFunc(u.starts, func(t time.Time) bool {
		return now.Sub(t) >= u.service.StartLimitInterval
	})
	if len(u.starts) >= u.service.StartLimitBurst {
		if !automatic {
			u.result = "start-limit-hit"
		}
		u.set("failed", "failed")
		u.finish(systemd.ResultFailed)
		return
	}
	u.starts = append(u.starts, now)
	u.fake.lastPID++
	u.fake.lastID++
	u.pid, u.invocation = u.fake.lastPID, fmt.Sprintf("%032x", u.fake.lastID)
	u.result, u.exitCode, u.signal = "success", 0, 0
	u.set("activating", "start")
	u.later(0, func() Outcome {
		u.fake.pullIn(u.service.Name)
		return u.service.outcome()
	}, u.begun)
}

// outcome reads what comes of the start. It is called without fake.mu.
func (s Service) outcome() Outcome {
	if s.OnStart != nil {
		return s.OnStart()
	}
	content, err := os.ReadFile(s.Control)
	if err != nil {
		return Exit
	}
	return Outcome(strings.TrimSpace(string(content)))
}

func (u *unit) begun(o Outcome) {
	if u.service.Type == "simple" {
		u.ready()
		if o != Run {
			u.later(50*time.Millisecond, nil, func(Outcome) { u.ended("exit-code", exitCode, 0) })
		}
		return
	}
	switch o {
	case Run:
		u.later(u.service.StartTakes, nil, func(Outcome) { u.ready() })
	case Hang:
		u.later(u.service.TimeoutStart, nil, func(Outcome) { u.ended("timeout", 0, 15) })
	default:
		u.later(u.service.StartTakes, nil, func(Outcome) { u.ended("exit-code", exitCode, 0) })
	}
}

func (u *unit) ready() {
	u.set("active", "running")
	u.finish(systemd.ResultDone)
}

// ended is what happens when the main process ends that should run.
func (u *unit) ended(result string, exitCode, signal int) {
	u.settle()
	u.pid, u.result, u.exitCode, u.signal = 0, result, exitCode, signal
	for _, d := range u.fake.dependants(u.service.Name, func(s Service) []string { return s.BindsTo }) {
		d.halt()
	}
	if u.service.Restart == "no" {
		u.set("failed", "failed")
	} else {
		u.set("activating", "auto-restart")
		u.later(u.service.RestartDelay, nil, func(Outcome) {
			u.restarts++
			u.again(true) // systemd queues a restart, not a start, so it concerns the others too
		})
	}
	u.finish(systemd.ResultFailed)
}

// dependants are the units that name this one in one kind of dependency.
func (f *Fake) dependants(name string, of func(Service) []string) []*unit {
	var found []*unit
	for _, d := range f.units {
		if slices.Contains(of(d.service), name) {
			found = append(found, d)
		}
	}
	slices.SortFunc(found, func(a, b *unit) int { return cmp.Compare(a.service.Name, b.service.Name) })
	return found
}

// stopsToo are the units that a stop of this one stops, directly or not.
func (u *unit) stopsToo() []*unit {
	found := []*unit{u}
	for i := 0; i < len(found); i++ {
		for _, d := range u.fake.dependants(found[i].service.Name, func(s Service) []string {
			return slices.Concat(s.Requires, s.BindsTo, s.PartOf)
		}) {
			if !slices.Contains(found, d) {
				found = append(found, d)
			}
		}
	}
	found = found[1:]
	slices.SortFunc(found, func(a, b *unit) int { return cmp.Compare(a.service.Name, b.service.Name) })
	return found
}

func (u *unit) processes() []systemd.Process {
	var list []systemd.Process
	group := "/system.slice/" + u.service.Name
	if u.pid != 0 {
		list = append(list, systemd.Process{PID: u.pid, Args: u.service.Argv, ControlGroup: group})
	}
	return append(list, u.service.Processes...)
}

func (u *unit) names(of func(Service) []string) []string {
	var names []string
	for _, d := range u.fake.dependants(u.service.Name, of) {
		names = append(names, d.service.Name)
	}
	return names
}

func (u *unit) describe() systemd.Unit {
	s := u.service
	state := "disabled"
	if u.enabled {
		state = "enabled"
	}
	return systemd.Unit{
		Name: s.Name, Description: s.Name, LoadState: "loaded",
		ActiveState: u.active, SubState: u.sub, InvocationID: u.invocation, Job: u.job,
		NeedDaemonReload: u.edited != nil, UnitFileState: state,
		FragmentPath: "/etc/systemd/system/" + s.Name, StateChange: u.changed,
		RequiredBy:      u.names(func(s Service) []string { return s.Requires }),
		BoundBy:         u.names(func(s Service) []string { return s.BindsTo }),
		ConsistsOf:      u.names(func(s Service) []string { return s.PartOf }),
		StartLimitBurst: s.StartLimitBurst, StartLimitInterval: s.StartLimitInterval,
		Type: s.Type, Restart: s.Restart, RestartDelay: s.RestartDelay, NRestarts: u.restarts,
		Result: u.result, MainPID: u.pid, ExitCode: u.exitCode, Signal: u.signal,
		KillMode: s.KillMode, Delegate: true, TimeoutStart: s.TimeoutStart, TimeoutStop: 90 * time.Second,
		ControlGroup: "/system.slice/" + s.Name,
		ExecStart:    []systemd.Exec{{Path: s.Argv[0], Argv: s.Argv}},
	}
}
