package systemdtest

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

func rescueFires(t *testing.T, n Node) {
	s := newScene(t, n)
	name := s.Prefix() + "rescue"
	file := filepath.Join(s.Dir(), "config")
	s.write(file, "new")
	s.write(file+".old", "old")
	steps := append(step("/bin/sleep", while), systemd.Step{Argv: []string{"/bin/false"}, IgnoreFailure: true})
	steps = append(steps, systemd.RestoreFile(file+".old", file)...)
	s.arm(name, soon, steps)
	if state := s.state(name); state != systemd.RescueArmed {
		t.Errorf("it is %s", state)
	}
	again := systemd.Rescue{Name: name, Description: "another", After: never, Steps: steps}
	if err := s.sys.Arm(s.ctx, again); !errors.Is(err, systemd.ErrUnitExists) {
		t.Errorf("armed a second time: %v", err)
	}
	if err := s.sys.Forget(s.ctx, name); err == nil {
		t.Error("one that is armed was forgotten")
	}
	s.waitState(name, systemd.RescueRunning)
	if err := s.sys.Forget(s.ctx, name); err == nil {
		t.Error("one that runs was forgotten")
	}
	s.waitState(name, systemd.RescueRan)
	if got := s.read(file); got != "old" {
		t.Errorf("the file holds %q", got)
	}
	s.disarm(name, systemd.RescueRan)
	s.disarm(name, systemd.RescueRan) // it is still known
	if err := s.sys.Forget(s.ctx, name); err != nil {
		t.Fatal(err)
	}
	s.gone(name)
	if err := s.sys.Forget(s.ctx, name); err != nil {
		t.Error(err)
	}
	s.arm(name, never, step("/bin/true")) // the name is free again
	s.disarm(name, systemd.RescueDisarmed)
}

func rescueFails(t *testing.T, n Node) {
	s := newScene(t, n)
	name := s.Prefix() + "rescue"
	file := filepath.Join(s.Dir(), "config")
	s.write(file, "new")
	s.arm(name, soon, systemd.RestoreFile(file+".nowhere", file), step("/bin/mv", file, file+".moved"))
	s.waitState(name, systemd.RescueFailed)
	if got := s.read(file); got != "new" {
		t.Errorf("the file holds %q", got)
	}
	s.disarm(name, systemd.RescueFailed)
	if err := s.sys.Forget(s.ctx, name); err != nil {
		t.Fatal(err)
	}
	s.gone(name)
}

func rescueDisarmed(t *testing.T, n Node) {
	s := newScene(t, n)
	name := s.Prefix() + "rescue"
	s.disarm(name, systemd.RescueAbsent)
	s.arm(name, never, step("/bin/true"))
	timer := s.unit(name + ".timer")
	if timer.ActiveState != "active" || timer.SubState != "waiting" || timer.UnitFileState != "transient" ||
		timer.FragmentPath != "/run/systemd/transient/"+name+".timer" { // what BootUnit relies on
		t.Errorf("the timer is %+v", timer)
	}
	if u := s.unit(name + ".service"); u.ActiveState != "inactive" || len(u.ExecStart) != 1 {
		t.Errorf("the service is %+v", u)
	}
	s.disarm(name, systemd.RescueDisarmed)
	s.gone(name)
	s.disarm(name, systemd.RescueAbsent)
	for what, r := range map[string]systemd.Rescue{
		"a dollar":        {Name: name, Description: "x", After: never, Steps: step("/bin/echo", "$HOME")},
		"no steps":        {Name: name, Description: "x", After: never},
		"no time":         {Name: name, Description: "x", Steps: step("/bin/true")},
		"a foreign name":  {Name: "containerd", Description: "x", After: never, Steps: step("/bin/true")},
		"a relative path": {Name: name, Description: "x", After: never, Steps: step("true")},
	} {
		if err := s.sys.Arm(s.ctx, r); err == nil {
			t.Errorf("%s: armed", what)
		}
	}
	s.gone(name)
}

func rescuesAreListed(t *testing.T, n Node) {
	s := newScene(t, n)
	first, second, other := s.Prefix()+"listed-b", s.Prefix()+"listed-a", s.Prefix()+"rescue"
	list := func(want ...string) {
		t.Helper()
		if got, err := s.sys.Rescues(s.ctx, s.Prefix()+"listed-"); err != nil || !slices.Equal(got, want) {
			t.Errorf("listed are %q, %v; want %q", got, err, want)
		}
	}
	list()
	s.arm(first, soon, step("/bin/true"))
	s.arm(second, never, step("/bin/true"))
	s.arm(other, never, step("/bin/true"))
	list(second, first)
	s.waitState(first, systemd.RescueRan)
	list(second)
	s.disarm(second, systemd.RescueDisarmed)
	list()
	s.disarm(other, systemd.RescueDisarmed)
	if err := s.sys.Forget(s.ctx, first); err != nil {
		t.Fatal(err)
	}
}

func rescueDisarmedTooLate(t *testing.T, n Node) {
	s := newScene(t, n)
	name := s.Prefix() + "rescue"
	file := filepath.Join(s.Dir(), "file")
	s.write(file, "")
	s.arm(name, soon, step("/bin/sleep", while), step("/bin/mv", file, file+".moved"))
	s.waitState(name, systemd.RescueRunning)
	s.disarm(name, systemd.RescueRunning)
	s.waitState(name, systemd.RescueRan)
	if !s.exists(file + ".moved") {
		t.Error("its last step was not taken")
	}
	s.disarm(name, systemd.RescueRan)
	if err := s.sys.Forget(s.ctx, name); err != nil {
		t.Fatal(err)
	}
	s.gone(name)
}

// heals arms a rescue for a service that runs, lets breakIt, and waits until the rescue has healed it.
func heals(t *testing.T, n Node, svc func(*Service), breakIt func(s *scene, svc Service)) {
	s := newScene(t, n)
	name := s.Prefix() + "rescue"
	app := s.service("app", Run)
	svc(&app)
	needs := s.service("needs", Run)
	needs.BindsTo = []string{app.Name}
	s.Define(app, needs)
	s.job(s.sys.Start, app.Name, systemd.ResultDone)
	s.job(s.sys.Start, needs.Name, systemd.ResultDone)
	s.write(app.Control+".old", string(Run))
	s.arm(name, soon, systemd.RestoreFile(app.Control+".old", app.Control), systemd.RestartUnit(app.Name, needs.Name))
	breakIt(s, app)
	s.waitState(name, systemd.RescueRan)
	s.waitUnit(app.Name, "active", "running")
	s.waitUnit(needs.Name, "active", "running")
	s.disarm(name, systemd.RescueRan)
	if err := s.sys.Forget(s.ctx, name); err != nil {
		t.Fatal(err)
	}
}

func rescueHealsAutoRestart(t *testing.T, n Node) {
	heals(t, n, func(svc *Service) { svc.RestartDelay = time.Hour }, func(s *scene, svc Service) {
		s.control(svc, Exit)
		s.job(s.sys.Restart, svc.Name, systemd.ResultFailed)
		s.waitUnit(svc.Name, "activating", "auto-restart")
	})
}

func rescueHealsStartLimit(t *testing.T, n Node) {
	heals(t, n, func(svc *Service) {
		svc.StartLimitBurst, svc.StartLimitInterval = 2, time.Hour
	}, func(s *scene, svc Service) {
		s.control(svc, Exit)
		s.job(s.sys.Restart, svc.Name, systemd.ResultFailed)
		s.waitUnit(svc.Name, "failed", "failed")
	})
}

func rescueHealsHang(t *testing.T, n Node) {
	heals(t, n, func(*Service) {}, func(s *scene, svc Service) {
		s.control(svc, Hang)
		s.job(s.sys.Restart, svc.Name, systemd.ResultDone) // the rescue's restart was merged with it
	})
}

func rescueHealsStopped(t *testing.T, n Node) {
	heals(t, n, func(*Service) {}, func(s *scene, svc Service) {
		s.control(svc, Exit)
		s.job(s.sys.Stop, svc.Name, systemd.ResultDone)
	})
}
