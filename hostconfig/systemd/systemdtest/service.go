package systemdtest

import (
	"context"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// Systemd is what a systemd.Manager does, and a Fake.
type Systemd interface {
	Unit(ctx context.Context, name string) (systemd.Unit, error)
	UnitOfPID(ctx context.Context, pid int) (systemd.Unit, error)
	Dependants(ctx context.Context, name string) ([]systemd.Unit, error)
	Processes(ctx context.Context, name string) ([]systemd.Process, error)

	Start(ctx context.Context, unit string) (result string, err error)
	Stop(ctx context.Context, unit string) (result string, err error)
	Restart(ctx context.Context, unit string) (result string, err error)
	ResetFailed(ctx context.Context, unit string) error
	Reload(ctx context.Context) error
	Enable(ctx context.Context, files ...string) error
	Disable(ctx context.Context, units ...string) error

	RunOnHost(ctx context.Context, c systemd.Command) (systemd.Result, error)
	Executable(ctx context.Context, path string) error

	Arm(ctx context.Context, r systemd.Rescue) error
	Disarm(ctx context.Context, name string) (systemd.RescueState, error)
	RescueState(ctx context.Context, name string) (systemd.RescueState, error)
	Forget(ctx context.Context, name string) error
	Rescues(ctx context.Context, prefix string) ([]string, error)

	Version(ctx context.Context) (string, error)
	Close() error
}

var (
	_ Systemd = (*systemd.Manager)(nil)
	_ Systemd = (*Fake)(nil)
)

// Service describes a service of a test.
type Service struct {
	// Name with .service.
	Name string
	// Control is a file on the node, which tells at each start what the service does: its content is one of the
	// Outcomes. A file that is not there means Exit.
	Control string
	// OnStart is asked instead of Control, by a Fake only. The Fake calls it without holding a lock.
	OnStart func() Outcome
	// StartTakes is how long a start takes that ends as Run or Exit. Only a Fake obeys.
	StartTakes time.Duration
	// StopTakes is how long a restart takes to stop it. Only a Fake obeys.
	StopTakes time.Duration

	// Type is notify unless it is simple.
	Type string
	// Restart is always unless it is no. RestartDelay defaults to 100 ms as systemd's does.
	Restart      string
	RestartDelay time.Duration
	// TimeoutStart defaults to 90 s, as systemd's does.
	TimeoutStart time.Duration
	// StartLimitBurst and StartLimitInterval default to 5 in 10 s, as systemd's do.
	StartLimitBurst    int
	StartLimitInterval time.Duration
	// KillMode is control-group unless it says otherwise.
	KillMode string
	// Requires, BindsTo, PartOf and Wants are the units that this one depends on.
	Requires, BindsTo, PartOf, Wants []string
	// Processes are further ones in the unit's control group. Only a Fake has them.
	Processes []systemd.Process
	// Argv is what the unit starts. Only a Fake obeys.
	Argv []string
}

// Outcome is what comes of a start.
type Outcome string

// What may come of a start.
const (
	Run  Outcome = "run"  // it says that it is ready, and runs on
	Exit Outcome = "exit" // it exits with code 3 before that
	Hang Outcome = "hang" // it never says that it is ready
)

// WithDefaults is the service with what is not said filled in.
func (s Service) WithDefaults() Service {
	def := func(v *string, value string) {
		if *v == "" {
			*v = value
		}
	}
	defTime := func(v *time.Duration, value time.Duration) {
		if *v == 0 {
			*v = value
		}
	}
	def(&s.Type, "notify")
	def(&s.Restart, "always")
	def(&s.KillMode, "control-group")
	defTime(&s.RestartDelay, 100*time.Millisecond)
	defTime(&s.TimeoutStart, 90*time.Second)
	defTime(&s.StartLimitInterval, 10*time.Second)
	if s.StartLimitBurst == 0 {
		s.StartLimitBurst = 5
	}
	if len(s.Argv) == 0 {
		s.Argv = []string{"/usr/bin/service"}
	}
	return s
}
