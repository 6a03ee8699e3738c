package restart

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"path/filepath"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
	"github.com/hotplate-dev/hotplate/hostconfig/supervised"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// Systemd is what a restart asks of the node's systemd; *systemd.Manager is one. Its methods' contracts stand there. Without
// systemd, *supervised.Manager stands in for it.
type Systemd interface {
	Unit(ctx context.Context, name string) (systemd.Unit, error)
	UnitOfPID(ctx context.Context, pid int) (systemd.Unit, error)
	Dependants(ctx context.Context, name string) ([]systemd.Unit, error)
	Processes(ctx context.Context, name string) ([]systemd.Process, error)
	RunOnHost(ctx context.Context, c systemd.Command) (systemd.Result, error)
	Restart(ctx context.Context, unit string) (result string, err error)
	Start(ctx context.Context, unit string) (result string, err error)
	ResetFailed(ctx context.Context, unit string) error
	Reload(ctx context.Context) error
	Enable(ctx context.Context, files ...string) error
	Disable(ctx context.Context, units ...string) error
	Arm(ctx context.Context, r systemd.Rescue) error
	Disarm(ctx context.Context, name string) (systemd.RescueState, error)
	RescueState(ctx context.Context, name string) (systemd.RescueState, error)
	Forget(ctx context.Context, name string) error
	Rescues(ctx context.Context, prefix string) ([]string, error)
}

var (
	_ Systemd = (*systemd.Manager)(nil)
	_ Systemd = (*supervised.Manager)(nil)
)

// Daemon is what a restart asks of containerd; *daemon.Client is one. It heals itself when the daemon is back.
type Daemon interface {
	Info(ctx context.Context) (daemon.Info, error)
	CheckCRI(ctx context.Context) error
	Running(ctx context.Context) (daemon.Running, error)
	Lost(ctx context.Context, before, now daemon.Running) ([]daemon.Loss, error)
	Ingests(ctx context.Context) ([]daemon.Ingest, error)
}

var _ Daemon = (*daemon.Client)(nil)

// Config is what a Restarter needs. Paths are those on the node.
type Config struct {
	Log     *slog.Logger
	Systemd Systemd
	Daemon  Daemon
	// NoTimer says that Systemd is none, and can arm and install nothing, as with package supervised: nobody but this
	// program puts the old configuration back. Who restarts then has to say WithoutRescue.
	NoTimer bool
	// WithoutRescue allows a restart of which the rollback depends on this program alone. If it is killed in the middle, the
	// new configuration stays until it runs again, whatever containerd makes of it. It means nothing without NoTimer.
	WithoutRescue bool
	// Probe finds out whether the running daemon obeys HostsDir.
	Probe func(context.Context) (probe.Verdict, error)
	// Slot waits for the leave to restart, and returns what gives it back. Nil: it is always given.
	Slot func(context.Context) (release func(), err error)

	// Address is the path of containerd's socket. It helps to tell what platform this is.
	Address string
	// Root is where the node's root directory is in this process's file system. Empty: the same paths.
	Root string
	// StateDir is a directory on a disk of the node. Only the Restarter writes into StateDir/restart.
	StateDir string
	// HostsDir is what config_path has to be.
	HostsDir string
	// Unit is containerd's unit. Empty: the one that the daemon's process belongs to.
	Unit string
	// Dependants are units that a restart of containerd may take down, because it is followed by their start.
	Dependants []string
	// Convert allows to take legacy `mirrors` out of the configuration.
	Convert bool
	// Soak is for how long a restarted daemon is watched before it is believed. Zero stands for DefaultSoak.
	Soak time.Duration
}

// DefaultSoak is Config.Soak where nothing is said.
const DefaultSoak = 30 * time.Second

// Restarter changes containerd's configuration and restarts it. Its methods may be called concurrently, also by several
// processes: one works, the others get ErrBusy.
type Restarter struct {
	cfg   Config
	log   *slog.Logger
	files files
	// healed is what a rollback has started, so that one that cannot be brought to its end does not restart it again and again.
	// Whoever has the lock has it, and told: the checks that were logged last.
	healed healed
	told   []Check
}

// healed is a daemon that works with the old configuration of a transaction.
type healed struct{ transaction, invocation string }

// ErrBusy means that somebody else is at it: another agent, or hotplate restart.
var ErrBusy = errors.New("another restart of containerd is under way on this node")

// New returns a Restarter.
func New(cfg Config) (*Restarter, error) {
	switch {
	case cfg.Log == nil, cfg.Systemd == nil, cfg.Daemon == nil, cfg.Probe == nil:
		return nil, errors.New("restart: Log, Systemd, Daemon and Probe are required")
	case !path.IsAbs(cfg.StateDir), !path.IsAbs(cfg.HostsDir):
		return nil, fmt.Errorf("restart: StateDir %q and HostsDir %q must be absolute", cfg.StateDir, cfg.HostsDir)
	case cfg.Soak < 0 || cfg.Soak > maxSoak:
		return nil, fmt.Errorf("restart: a soak time of %s: it may be up to %s", cfg.Soak, maxSoak)
	}
	if cfg.Soak == 0 {
		cfg.Soak = DefaultSoak
	}
	return &Restarter{cfg: cfg, log: cfg.Log, files: osFiles{}}, nil
}

// here is where a path of the node is for this process.
func (r *Restarter) here(node string) string { return filepath.Join("/", r.cfg.Root, node) }

// state is a file of ours, by its path on the node.
func (r *Restarter) state(name string) string { return path.Join(r.cfg.StateDir, "restart", name) }

// Kind is how an attempt ended.
type Kind string

// How an attempt can end.
const (
	// NotNeeded: the configuration and the daemon are as they should be.
	NotNeeded Kind = "NotNeeded"
	// Refused: it is not safe here; Checks say why. Nothing was touched.
	Refused Kind = "Refused"
	// Deferred: the node is busy; Checks say with what. Nothing was touched. Try again later.
	Deferred Kind = "Deferred"
	// Restarted: the new configuration is in force, and proved.
	Restarted Kind = "Restarted"
	// RolledBack: the new configuration was tried and taken back; the daemon runs as before. It is not tried again.
	RolledBack Kind = "RolledBack"
	// Abandoned: an earlier attempt ended before containerd was restarted. The file is as it was.
	Abandoned Kind = "Abandoned"
	// Failed: the daemon does not work, or it is not known whether it does. A person has to look.
	Failed Kind = "Failed"
)

// Outcome is how an attempt ended, and what led to it.
type Outcome struct {
	Kind Kind      `json:"kind"`
	Time time.Time `json:"time"`
	// Reason is for people: what happened, and the next step where there is one.
	Reason string `json:"reason"`
	Unit   string `json:"unit,omitempty"`
	// File is what was changed, or would be.
	File string `json:"file,omitempty"`
	// Downtime is from the order to restart until CRI answered again, in nanoseconds; 0 where nothing was restarted.
	Downtime time.Duration `json:"downtime,omitempty"`
	// Rescued says that the node's own timer or boot unit put the old configuration back, and not this program.
	Rescued bool    `json:"rescued,omitempty"`
	Checks  []Check `json:"checks,omitempty"`
}

// Verdict is what a Check comes to.
type Verdict string

// The verdicts, the worst last.
const (
	Pass   Verdict = "pass"
	Note   Verdict = "note"   // worth knowing, keeps from nothing
	Defer  Verdict = "defer"  // not now
	Refuse Verdict = "refuse" // not until somebody changes something
)

// Check is one thing that was looked at before a restart.
type Check struct {
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	// Detail names the object, and for Defer and Refuse what to do.
	Detail string `json:"detail,omitempty"`
}
