package systemdtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// Node is where the suite runs a case: a Fake, or real systemd. It is for one case alone.
type Node interface {
	// Systemd is what is tested.
	Systemd() Systemd
	// Dir is a directory of the case, as the node sees it.
	Dir() string
	// Local is where the test finds a file of the node.
	Local(path string) string
	// Prefix begins the names of the units of the case.
	Prefix() string
	// Define writes the files of services, and reloads systemd.
	Define(services ...Service)
	// Edit writes the file of a service, and does not.
	Edit(s Service)
}

// Case is one test of the suite.
type Case struct {
	Name string
	Test func(t *testing.T, n Node)
	// Alone means that no other case may reload systemd meanwhile, which brings edited files into force and, in systemd
	// 252, forgets how often units were started.
	Alone bool
}

// Cases is the suite that a Systemd passes.
func Cases() []Case {
	return []Case{
		{Name: "NoSuchUnit", Test: noSuchUnit},
		{Name: "Restart", Test: restart},
		{Name: "RestartOfAUnitThatFails", Test: restartFails},
		{Name: "RestartNo", Test: restartNo},
		{Name: "StartLimit", Test: startLimit, Alone: true},
		{Name: "HangUntilTheContextEnds", Test: hang},
		{Name: "HangUntilTheTimeout", Test: hangTimeout},
		{Name: "JobsAreMerged", Test: jobsAreMerged},
		{Name: "SimpleIsDoneAtOnce", Test: simple},
		{Name: "MainProcessKilled", Test: killed, Alone: true},
		{Name: "Dependants", Test: dependants},
		{Name: "EditedUnit", Test: editedUnit, Alone: true},
		{Name: "EnableAndDisable", Test: enable, Alone: true},
		{Name: "RunOnHost", Test: runOnHost},
		{Name: "RunOnHostIsStopped", Test: runOnHostIsStopped},
		{Name: "RescueFires", Test: rescueFires},
		{Name: "RescueFails", Test: rescueFails},
		{Name: "RescueDisarmed", Test: rescueDisarmed},
		{Name: "RescuesAreListed", Test: rescuesAreListed},
		{Name: "RescueDisarmedTooLate", Test: rescueDisarmedTooLate},
		{Name: "RescueHealsAutoRestart", Test: rescueHealsAutoRestart},
		{Name: "RescueHealsStartLimit", Test: rescueHealsStartLimit, Alone: true},
		{Name: "RescueHealsHang", Test: rescueHealsHang},
		{Name: "RescueHealsStopped", Test: rescueHealsStopped},
	}
}

const (
	// soon is how long a rescue waits that a case wants to fire. What a case does before that takes time on a busy machine.
	soon = 10 * time.Second
	// while, in seconds, is for how long it then runs in a case that wants to see it run.
	while = "10"
	// never is how long one waits that must not.
	never = time.Hour
)

// scene is what a case works with.
type scene struct {
	*testing.T
	Node
	ctx context.Context
	sys Systemd
}

func newScene(t *testing.T, n Node) *scene {
	return &scene{T: t, Node: n, ctx: t.Context(), sys: n.Systemd()}
}

// service is a service of the case, with its control file.
func (s *scene) service(name string, o Outcome) Service {
	s.Helper()
	svc := Service{Name: s.Prefix() + name + ".service", Control: filepath.Join(s.Dir(), name)}
	s.control(svc, o)
	return svc
}

// control tells a service what to do from the next start on.
func (s *scene) control(svc Service, o Outcome) {
	s.Helper()
	s.write(svc.Control, string(o))
}

// write writes a file, at once: a service that is starting reads the old content or the new one.
func (s *scene) write(path, content string) {
	s.Helper()
	temp := s.Local(path) + ".new"
	if err := errors.Join(os.WriteFile(temp, []byte(content), 0o644), os.Rename(temp, s.Local(path))); err != nil {
		s.Fatal(err)
	}
}

func (s *scene) read(path string) string {
	s.Helper()
	content, err := os.ReadFile(s.Local(path))
	if err != nil {
		s.Fatal(err)
	}
	return string(content)
}

func (s *scene) exists(path string) bool {
	_, err := os.Stat(s.Local(path))
	return err == nil
}

func (s *scene) unit(name string) systemd.Unit {
	s.Helper()
	u, err := s.sys.Unit(s.ctx, name)
	if err != nil {
		s.Fatal(err)
	}
	return u
}

// job checks the result of a job.
func (s *scene) job(do func(context.Context, string) (string, error), unit, want string) {
	s.Helper()
	got, err := do(s.ctx, unit)
	if err != nil || got != want {
		s.Fatalf("the job for %s ended as %q, %v; want %s", unit, got, err, want)
	}
}

// waitUnit waits for a state of a unit.
func (s *scene) waitUnit(name, active, sub string) systemd.Unit {
	s.Helper()
	var u systemd.Unit
	if !s.eventually(func() bool {
		u = s.unit(name)
		return u.ActiveState == active && u.SubState == sub
	}) {
		s.Fatalf("waited in vain until %s is %s/%s: it is %+v", name, active, sub, u)
	}
	return u
}

// wait waits until ok.
func (s *scene) wait(what string, ok func() bool) {
	s.Helper()
	if !s.eventually(ok) {
		s.Fatalf("waited in vain until %s", what)
	}
}

// eventually waits until ok. The time bounds a test that hangs, it is no measure.
func (s *scene) eventually(ok func() bool) bool {
	s.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

func (s *scene) state(name string) systemd.RescueState {
	s.Helper()
	state, err := s.sys.RescueState(s.ctx, name)
	if err != nil {
		s.Fatal(err)
	}
	return state
}

func (s *scene) waitState(name string, want systemd.RescueState) {
	s.Helper()
	s.wait(name+" is "+string(want), func() bool { return s.state(name) == want })
}

func (s *scene) arm(name string, after time.Duration, steps ...[]systemd.Step) {
	s.Helper()
	r := systemd.Rescue{Name: name, Description: "a rescue of a test", After: after, Steps: slices.Concat(steps...)}
	if err := s.sys.Arm(s.ctx, r); err != nil {
		s.Fatal(err)
	}
}

func (s *scene) disarm(name string, want systemd.RescueState) {
	s.Helper()
	if got, err := s.sys.Disarm(s.ctx, name); err != nil || got != want {
		s.Fatalf("disarmed: %q, %v; want %s", got, err, want)
	}
}

func (s *scene) wantNoUnit(what string, err error) {
	s.Helper()
	if !errors.Is(err, systemd.ErrNoUnit) {
		s.Errorf("%s: %v, not ErrNoUnit", what, err)
	}
}

// gone checks that nothing is left of a rescue.
func (s *scene) gone(name string) {
	s.Helper()
	for _, part := range []string{".timer", ".service"} {
		_, err := s.sys.Unit(s.ctx, name+part)
		s.wantNoUnit(name+part, err)
	}
	if state := s.state(name); state != systemd.RescueAbsent {
		s.Errorf("it is %s", state)
	}
}

func step(argv ...string) []systemd.Step { return []systemd.Step{{Argv: argv}} }
