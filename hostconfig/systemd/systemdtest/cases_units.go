package systemdtest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

func noSuchUnit(t *testing.T, n Node) {
	s := newScene(t, n)
	name := s.Prefix() + "nowhere.service"
	_, err := s.sys.Unit(s.ctx, name)
	s.wantNoUnit("Unit", err)
	_, err = s.sys.Processes(s.ctx, name)
	s.wantNoUnit("Processes", err)
	_, err = s.sys.Dependants(s.ctx, name)
	s.wantNoUnit("Dependants", err)
	_, err = s.sys.Start(s.ctx, name)
	s.wantNoUnit("Start", err)
	_, err = s.sys.Stop(s.ctx, name)
	s.wantNoUnit("Stop", err)
	_, err = s.sys.Restart(s.ctx, name)
	s.wantNoUnit("Restart", err)
	_, err = s.sys.UnitOfPID(s.ctx, 1<<22-1)
	s.wantNoUnit("UnitOfPID", err)
	_, err = s.sys.UnitOfPID(s.ctx, 0)
	s.wantNoUnit("UnitOfPID of 0", err)
	if err := s.sys.ResetFailed(s.ctx, name); err != nil {
		t.Error(err)
	}
	if _, err := s.sys.Unit(s.ctx, "containerd"); err == nil || errors.Is(err, systemd.ErrNoUnit) {
		t.Errorf("a name without a type: %v", err)
	}
}

func restart(t *testing.T, n Node) {
	s := newScene(t, n)
	svc := s.service("app", Run)
	svc.KillMode, svc.StartLimitBurst, svc.TimeoutStart = "process", 7, 60*time.Second
	s.Define(svc)
	u := s.unit(svc.Name)
	if u.ActiveState != "inactive" || u.MainPID != 0 || u.InvocationID != "" {
		t.Errorf("before its first start it is %s with pid %d, invocation %q", u.ActiveState, u.MainPID, u.InvocationID)
	}
	s.job(s.sys.Restart, svc.Name, systemd.ResultDone)
	first := s.unit(svc.Name)
	s.job(s.sys.Start, svc.Name, systemd.ResultDone) // does nothing
	s.job(s.sys.Restart, svc.Name, systemd.ResultDone)
	u = s.unit(svc.Name)
	if u.MainPID == 0 || u.MainPID == first.MainPID {
		t.Errorf("main pid %d, before %d", u.MainPID, first.MainPID)
	}
	if len(u.InvocationID) != 32 || u.InvocationID == first.InvocationID {
		t.Errorf("invocation %q, before %q", u.InvocationID, first.InvocationID)
	}
	want := systemd.Unit{
		Name: svc.Name, LoadState: "loaded", ActiveState: "active", SubState: "running", Result: "success",
		Type: "notify", Restart: "always", RestartDelay: 100 * time.Millisecond, KillMode: "process",
		StartLimitBurst: 7, StartLimitInterval: 10 * time.Second, TimeoutStart: time.Minute,
	}
	got := systemd.Unit{
		Name: u.Name, LoadState: u.LoadState, ActiveState: u.ActiveState, SubState: u.SubState, Result: u.Result,
		Type: u.Type, Restart: u.Restart, RestartDelay: u.RestartDelay, KillMode: u.KillMode,
		StartLimitBurst: u.StartLimitBurst, StartLimitInterval: u.StartLimitInterval, TimeoutStart: u.TimeoutStart,
		Job: u.Job, NRestarts: u.NRestarts, NeedDaemonReload: u.NeedDaemonReload,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if len(u.ExecStart) != 1 || u.ExecStart[0].Path == "" || u.ExecStart[0].Path != u.ExecStart[0].Argv[0] {
		t.Errorf("ExecStart is %v", u.ExecStart)
	}
	if of, err := s.sys.UnitOfPID(s.ctx, u.MainPID); err != nil || of.Name != svc.Name {
		t.Errorf("pid %d is of %q, %v", u.MainPID, of.Name, err)
	}
	s.wait("its main process is its only one", func() bool { // what told systemd that it is ready may not have ended yet
		list, err := s.sys.Processes(s.ctx, svc.Name)
		return err == nil && len(list) == 1 && list[0].PID == u.MainPID && len(list[0].Args) > 0 &&
			list[0].ControlGroup == u.ControlGroup
	})
	s.job(s.sys.Stop, svc.Name, systemd.ResultDone)
	s.waitUnit(svc.Name, "inactive", "dead")
}

func restartFails(t *testing.T, n Node) {
	s := newScene(t, n)
	svc := s.service("app", Run)
	svc.RestartDelay = time.Hour
	s.Define(svc)
	s.job(s.sys.Start, svc.Name, systemd.ResultDone)
	s.control(svc, Exit)
	s.job(s.sys.Restart, svc.Name, systemd.ResultFailed)
	u := s.waitUnit(svc.Name, "activating", "auto-restart")
	if u.Result != "exit-code" || u.ExitCode != exitCode || u.MainPID != 0 {
		t.Errorf("result %s, exit code %d, pid %d", u.Result, u.ExitCode, u.MainPID)
	}
	s.control(svc, Run)
	s.job(s.sys.Restart, svc.Name, systemd.ResultDone)
	if u := s.unit(svc.Name); u.Result != "success" || u.NRestarts != 0 {
		t.Errorf("result %s, %d restarts", u.Result, u.NRestarts)
	}
}

func restartNo(t *testing.T, n Node) {
	s := newScene(t, n)
	svc := s.service("app", Exit)
	svc.Restart = "no"
	s.Define(svc)
	s.job(s.sys.Start, svc.Name, systemd.ResultFailed)
	if u := s.waitUnit(svc.Name, "failed", "failed"); u.Result != "exit-code" {
		t.Errorf("result %s", u.Result)
	}
	if err := s.sys.ResetFailed(s.ctx, svc.Name); err != nil {
		t.Error(err)
	}
	s.waitUnit(svc.Name, "inactive", "dead")
}

func startLimit(t *testing.T, n Node) {
	s := newScene(t, n)
	svc := s.service("app", Exit)
	svc.StartLimitBurst, svc.StartLimitInterval = 3, time.Hour
	s.Define(svc)
	s.job(s.sys.Start, svc.Name, systemd.ResultFailed)
	if u := s.waitUnit(svc.Name, "failed", "failed"); u.Result != "exit-code" || u.NRestarts != 3 {
		t.Errorf("result %s after %d restarts", u.Result, u.NRestarts)
	}
	s.control(svc, Run)
	s.job(s.sys.Restart, svc.Name, systemd.ResultFailed)
	if u := s.unit(svc.Name); u.ActiveState != "failed" {
		t.Errorf("it is %s/%s", u.ActiveState, u.SubState)
	}
	if err := s.sys.ResetFailed(s.ctx, svc.Name); err != nil {
		t.Fatal(err)
	}
	for range svc.StartLimitBurst {
		s.job(s.sys.Restart, svc.Name, systemd.ResultDone)
	}
	s.job(s.sys.Restart, svc.Name, systemd.ResultFailed) // by hand counts as well, and the service is down now
	if u := s.unit(svc.Name); u.ActiveState != "failed" || u.Result != "start-limit-hit" {
		t.Errorf("it is %s, %s", u.ActiveState, u.Result)
	}
	if err := s.sys.Reload(s.ctx); err != nil { // forgets the starts, though not that it failed
		t.Fatal(err)
	}
	if u := s.unit(svc.Name); u.ActiveState != "failed" {
		t.Errorf("after a reload it is %s", u.ActiveState)
	}
	s.job(s.sys.Restart, svc.Name, systemd.ResultDone)
}

func hang(t *testing.T, n Node) {
	s := newScene(t, n)
	svc := s.service("app", Hang)
	s.Define(svc)
	short, cancel := context.WithTimeout(s.ctx, time.Second)
	defer cancel()
	if r, err := s.sys.Start(short, svc.Name); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%q, %v", r, err)
	}
	u := s.waitUnit(svc.Name, "activating", "start")
	if u.Job == 0 || u.MainPID == 0 {
		t.Errorf("job %d, pid %d", u.Job, u.MainPID)
	}
	s.control(svc, Run)
	s.job(s.sys.Restart, svc.Name, systemd.ResultDone)
	if u := s.unit(svc.Name); u.Job != 0 || u.ActiveState != "active" {
		t.Errorf("it is %s, job %d", u.ActiveState, u.Job)
	}
}

func hangTimeout(t *testing.T, n Node) {
	s := newScene(t, n)
	svc := s.service("app", Hang)
	svc.TimeoutStart, svc.RestartDelay = 2*time.Second, time.Hour
	s.Define(svc)
	s.job(s.sys.Start, svc.Name, systemd.ResultFailed)
	if u := s.waitUnit(svc.Name, "activating", "auto-restart"); u.Result != "timeout" {
		t.Errorf("result %s", u.Result)
	}
}

func jobsAreMerged(t *testing.T, n Node) {
	s := newScene(t, n)
	svc := s.service("app", Hang)
	s.Define(svc)
	waits := make(chan string)
	go func() {
		result, err := s.sys.Restart(s.ctx, svc.Name)
		waits <- fmt.Sprint(result, err)
	}()
	s.wait("it starts", func() bool { u := s.unit(svc.Name); return u.Job != 0 && u.SubState == "start" })
	s.control(svc, Run)
	s.job(s.sys.Restart, svc.Name, systemd.ResultDone)
	if got := <-waits; got != systemd.ResultDone+"<nil>" {
		t.Errorf("who waited for the first got %s", got)
	}
}

func simple(t *testing.T, n Node) {
	s := newScene(t, n)
	svc := s.service("app", Exit)
	svc.Type, svc.RestartDelay = "simple", time.Hour
	s.Define(svc)
	s.job(s.sys.Start, svc.Name, systemd.ResultDone) // a lie
	if u := s.waitUnit(svc.Name, "activating", "auto-restart"); u.Result != "exit-code" {
		t.Errorf("result %s", u.Result)
	}
}

func killed(t *testing.T, n Node) {
	s := newScene(t, n)
	svc := s.service("app", Run)
	// Were it restarted before what is bound to it has stopped, that would be restarted too.
	svc.RestartDelay = 3 * time.Second
	binds := s.service("binds", Run)
	binds.BindsTo = []string{svc.Name}
	requires := s.service("requires", Run)
	requires.Requires = []string{svc.Name}
	s.Define(svc, binds, requires)
	for _, name := range []string{svc.Name, binds.Name, requires.Name} {
		s.job(s.sys.Start, name, systemd.ResultDone)
	}
	before, requiresBefore := s.unit(svc.Name), s.unit(requires.Name)
	kill := systemd.Command{Name: "kill", Argv: []string{"/bin/kill", "-9", fmt.Sprint(before.MainPID)}}
	if r, err := s.sys.RunOnHost(s.ctx, kill); err != nil || r.ExitCode != 0 {
		t.Fatal(r, err)
	}
	var u systemd.Unit
	s.wait("it runs again", func() bool {
		u = s.unit(svc.Name)
		return u.SubState == "running" && u.InvocationID != before.InvocationID
	})
	if u.NRestarts != 1 {
		t.Errorf("%d restarts", u.NRestarts)
	}
	s.waitUnit(binds.Name, "inactive", "dead")
	s.wait("who requires it runs again", func() bool {
		u := s.unit(requires.Name)
		return u.SubState == "running" && u.InvocationID != requiresBefore.InvocationID
	})
}

func dependants(t *testing.T, n Node) {
	s := newScene(t, n)
	svc := s.service("app", Run)
	svc.RestartDelay = time.Hour
	var names []string
	all := []Service{svc}
	for _, kind := range []string{"requires", "binds", "part", "wants"} {
		d := s.service(kind, Run)
		on := []string{svc.Name}
		switch kind {
		case "requires":
			d.Requires = on
		case "binds":
			d.BindsTo = on
		case "part":
			d.PartOf = on
		case "wants":
			d.Wants = on
		}
		names, all = append(names, d.Name), append(all, d)
	}
	second := s.service("second", Run)
	second.Requires = names[:1]
	s.Define(append(all, second)...)
	requires, binds, part, wants := names[0], names[1], names[2], names[3]

	before := map[string]string{}
	for _, name := range append([]string{svc.Name, second.Name}, names...) {
		s.job(s.sys.Start, name, systemd.ResultDone)
		before[name] = s.unit(name).InvocationID
	}
	list, err := s.sys.Dependants(s.ctx, svc.Name)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range list {
		got = append(got, u.Name)
		if u.ActiveState != "active" {
			t.Errorf("%s is %s", u.Name, u.ActiveState)
		}
	}
	if diff := cmp.Diff([]string{binds, part, requires, second.Name}, got); diff != "" {
		t.Errorf("dependants (-want +got):\n%s", diff)
	}

	s.job(s.sys.Restart, svc.Name, systemd.ResultDone)
	for _, name := range []string{requires, binds, part} {
		s.wait(name+" runs again", func() bool {
			u := s.unit(name)
			return u.SubState == "running" && u.InvocationID != before[name]
		})
	}
	if u := s.unit(wants); u.InvocationID != before[wants] {
		t.Error("who only wants it was restarted")
	}

	s.control(svc, Exit)
	s.job(s.sys.Restart, svc.Name, systemd.ResultFailed)
	for _, name := range []string{requires, binds} {
		s.waitUnit(name, "inactive", "dead")
	}
	s.waitUnit(part, "active", "running")
	s.control(svc, Run)
	s.job(s.sys.Restart, svc.Name, systemd.ResultDone)
	for _, name := range []string{requires, binds} { // the healed service does not bring them back
		s.waitUnit(name, "inactive", "dead")
		s.job(s.sys.Start, name, systemd.ResultDone)
		s.waitUnit(name, "active", "running")
	}
}

func editedUnit(t *testing.T, n Node) {
	s := newScene(t, n)
	svc := s.service("app", Run)
	svc.KillMode = "process"
	s.Define(svc)
	s.job(s.sys.Start, svc.Name, systemd.ResultDone)
	if s.unit(svc.Name).NeedDaemonReload {
		t.Error("it needs a reload from the start")
	}
	svc.KillMode = "mixed"
	s.Edit(svc)
	if u := s.unit(svc.Name); u.KillMode != "process" || !u.NeedDaemonReload {
		t.Errorf("edited: kill mode %s, needs a reload: %v", u.KillMode, u.NeedDaemonReload)
	}
	if err := s.sys.Reload(s.ctx); err != nil {
		t.Fatal(err)
	}
	if u := s.unit(svc.Name); u.KillMode != "mixed" || u.NeedDaemonReload {
		t.Errorf("reloaded: kill mode %s, needs a reload: %v", u.KillMode, u.NeedDaemonReload)
	}
}

func enable(t *testing.T, n Node) {
	s := newScene(t, n)
	svc := s.service("app", Run)
	s.Define(svc)
	for _, want := range []string{"enabled", "disabled"} {
		do := s.sys.Enable
		if want == "disabled" {
			do = s.sys.Disable
		}
		for range 2 { // the second time changes nothing
			if err := do(s.ctx, svc.Name); err != nil {
				t.Fatal(err)
			}
		}
		if u := s.unit(svc.Name); u.UnitFileState != want {
			t.Errorf("it is %s, not %s", u.UnitFileState, want)
		}
	}
	if err := s.sys.Enable(s.ctx, s.Prefix()+"nowhere.service"); err == nil {
		t.Error("enabled what is not there")
	}
}
