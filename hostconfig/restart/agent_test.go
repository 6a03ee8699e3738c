package restart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/hotplate-dev/hotplate/hostconfig/apply"
	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// agent is one process that restarts containerd. It counts what it does that can be seen from outside, and something may
// happen at one of these operations. Reads that are repeated before anything is changed count once: in between nothing
// has happened but time.
type agent struct {
	*node
	r      *Restarter
	cancel context.CancelFunc

	// at is the number of the operation at which before and after are called, from 0; -1 for none. What before and after
	// return is what the operation returns; before it, it is not done then.
	at            int
	before, after func() error
	// name, if not empty, sets at to the first operation whose name begins with it.
	name string
	// always is called before every operation from at on, that one too.
	always func(name string) error

	mu      sync.Mutex
	seen    map[string]bool // reads since the last change
	ops     int
	hit     string // the operation that at is the number of
	dead    bool
	exiting bool
}

var errKilled = errors.New("the process was killed")

// newAgent makes an agent to which nothing happens.
func (n *node) newAgent() *agent {
	n.Helper()
	a := &agent{node: n, at: -1, seen: map[string]bool{}}
	cfg := Config{
		Log:     slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Systemd: agentSystemd{n.sys, a}, Daemon: agentDaemon{n.ctrd, a},
		Probe: func(ctx context.Context) (v probe.Verdict, err error) {
			err = a.op("Probe", true, func() (err error) { v, err = n.ctrd.probe(ctx); return err })
			return v, err
		},
		Root: n.root, StateDir: stateDir, HostsDir: hostsDir, Soak: n.soak,
	}
	if n.cfg != nil {
		n.cfg(&cfg)
	}
	r, err := New(cfg)
	if err != nil {
		n.Fatal(err)
	}
	r.files = agentFiles{a}
	a.r = r
	return a
}

// result is how a process ended.
type result struct {
	Outcome
	err    error
	killed bool
}

func (r result) String() string {
	switch {
	case r.killed:
		return "killed"
	case r.err != nil:
		return "error: " + r.err.Error()
	}
	return fmt.Sprintf("%s: %s", r.Kind, r.Reason)
}

// run lets the agent do its work in a goroutine of its own, which a kill ends.
func (a *agent) run() result {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a.cancel = cancel
	res := result{killed: true}
	done := make(chan struct{})
	go func() {
		defer close(done)
		o, err := a.r.Run(ctx)
		res = result{Outcome: o, err: err}
	}()
	<-done
	res.killed = res.killed || a.dead // in the middle of what another goroutine did for it
	return res
}

// runTo runs a new process that is killed after an operation.
func (n *node) runTo(name string) {
	n.Helper()
	a := n.newAgent()
	a.name, a.after = name, a.kill
	if res := a.run(); !res.killed {
		n.Fatalf("it was not killed after %q: %v", name, res)
	}
}

// run is a new process to which nothing happens.
func (n *node) run() result { n.Helper(); return n.newAgent().run() }

// op does an operation, and what is to happen at it.
func (a *agent) op(name string, reads bool, do func() error) error {
	number, err := a.begin(name, reads)
	if err != nil {
		return err
	}
	hit := number == a.at && a.at >= 0
	if hit && a.before != nil {
		if err := a.before(); err != nil {
			return a.end(name, err)
		}
	}
	if a.always != nil && a.at >= 0 && number >= a.at {
		if err := a.always(name); err != nil {
			return a.end(name, err)
		}
	}
	err = do()
	if hit && a.after != nil {
		if err := a.after(); err != nil {
			return a.end(name, err)
		}
	}
	return a.end(name, err)
}

// begin counts an operation.
func (a *agent) begin(name string, reads bool) (number int, err error) {
	a.mu.Lock()
	dead := a.dead
	number = a.ops
	switch {
	case dead:
	case reads && a.seen[name]:
		number--
		if number == a.at {
			number = -1 // it has been hit
		}
	default:
		if a.name != "" && matches(name, a.name) {
			a.at, a.name = number, ""
		}
		if number == a.at {
			a.hit = name
		}
		a.ops++
		if reads {
			a.seen[name] = true
		} else {
			clear(a.seen)
		}
	}
	a.mu.Unlock()
	if dead {
		return 0, a.end(name, errKilled)
	}
	return number, nil
}

// matches tells whether an operation's name begins so. What stands beside a file is another one.
func matches(op, name string) bool {
	return strings.HasPrefix(op, name) && !strings.HasPrefix(op, name+".")
}

// kill ends the process.
func (a *agent) kill() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dead = true
	return errKilled
}

// end ends the goroutine of a process that was killed. Restart is called in one of its own, which another waits for.
func (a *agent) end(name string, err error) error {
	a.mu.Lock()
	exit := a.dead && !a.exiting && !strings.HasPrefix(name, "Restart ")
	if exit {
		a.exiting = true
	}
	dead := a.dead
	a.mu.Unlock()
	if exit {
		runtime.Goexit()
	}
	if dead {
		return errKilled
	}
	return err
}

// agentSystemd is systemd as an agent uses it.
type agentSystemd struct {
	sys Systemd
	a   *agent
}

var _ Systemd = agentSystemd{}

func (s agentSystemd) Unit(ctx context.Context, name string) (u systemd.Unit, err error) {
	err = s.a.op("Unit "+name, true, func() (err error) { u, err = s.sys.Unit(ctx, name); return err })
	return u, err
}

func (s agentSystemd) UnitOfPID(ctx context.Context, pid int) (u systemd.Unit, err error) {
	err = s.a.op("UnitOfPID", true, func() (err error) { u, err = s.sys.UnitOfPID(ctx, pid); return err })
	return u, err
}

func (s agentSystemd) Dependants(ctx context.Context, name string) (l []systemd.Unit, err error) {
	err = s.a.op("Dependants", true, func() (err error) { l, err = s.sys.Dependants(ctx, name); return err })
	return l, err
}

func (s agentSystemd) Processes(ctx context.Context, name string) (l []systemd.Process, err error) {
	err = s.a.op("Processes", true, func() (err error) { l, err = s.sys.Processes(ctx, name); return err })
	return l, err
}

func (s agentSystemd) RunOnHost(ctx context.Context, c systemd.Command) (r systemd.Result, err error) {
	err = s.a.op("RunOnHost "+strings.Join(c.Argv, " "), false, func() (err error) { r, err = s.sys.RunOnHost(ctx, c); return err })
	return r, err
}

func (s agentSystemd) Restart(ctx context.Context, unit string) (r string, err error) {
	err = s.a.op("Restart "+unit, false, func() (err error) { r, err = s.sys.Restart(ctx, unit); return err })
	return r, err
}

func (s agentSystemd) Start(ctx context.Context, unit string) (r string, err error) {
	err = s.a.op("Start "+unit, false, func() (err error) { r, err = s.sys.Start(ctx, unit); return err })
	return r, err
}

func (s agentSystemd) ResetFailed(ctx context.Context, unit string) error {
	return s.a.op("ResetFailed "+unit, false, func() error { return s.sys.ResetFailed(ctx, unit) })
}

func (s agentSystemd) Reload(ctx context.Context) error {
	return s.a.op("Reload", false, func() error { return s.sys.Reload(ctx) })
}

func (s agentSystemd) Enable(ctx context.Context, files ...string) error {
	return s.a.op("Enable", false, func() error { return s.sys.Enable(ctx, files...) })
}

func (s agentSystemd) Disable(ctx context.Context, units ...string) error {
	return s.a.op("Disable", false, func() error { return s.sys.Disable(ctx, units...) })
}

func (s agentSystemd) Arm(ctx context.Context, r systemd.Rescue) error {
	return s.a.op("Arm", false, func() error { return s.sys.Arm(ctx, r) })
}

func (s agentSystemd) Disarm(ctx context.Context, name string) (state systemd.RescueState, err error) {
	err = s.a.op("Disarm", false, func() (err error) { state, err = s.sys.Disarm(ctx, name); return err })
	return state, err
}

func (s agentSystemd) RescueState(ctx context.Context, name string) (state systemd.RescueState, err error) {
	err = s.a.op("RescueState", true, func() (err error) { state, err = s.sys.RescueState(ctx, name); return err })
	return state, err
}

func (s agentSystemd) Forget(ctx context.Context, name string) error {
	return s.a.op("Forget", false, func() error { return s.sys.Forget(ctx, name) })
}

func (s agentSystemd) Rescues(ctx context.Context, prefix string) (names []string, err error) {
	err = s.a.op("Rescues", true, func() (err error) { names, err = s.sys.Rescues(ctx, prefix); return err })
	return names, err
}

// agentDaemon is containerd as an agent asks it.
type agentDaemon struct {
	d Daemon
	a *agent
}

var _ Daemon = agentDaemon{}

func (d agentDaemon) Info(ctx context.Context) (i daemon.Info, err error) {
	err = d.a.op("Info", true, func() (err error) { i, err = d.d.Info(ctx); return err })
	return i, err
}

func (d agentDaemon) CheckCRI(ctx context.Context) error {
	return d.a.op("CheckCRI", true, func() error { return d.d.CheckCRI(ctx) })
}

func (d agentDaemon) Running(ctx context.Context) (r daemon.Running, err error) {
	err = d.a.op("Running", true, func() (err error) { r, err = d.d.Running(ctx); return err })
	return r, err
}

func (d agentDaemon) Lost(ctx context.Context, before, now daemon.Running) (lost []daemon.Loss, err error) {
	err = d.a.op("Lost", true, func() (err error) { lost, err = d.d.Lost(ctx, before, now); return err })
	return lost, err
}

func (d agentDaemon) Ingests(ctx context.Context) (l []daemon.Ingest, err error) {
	err = d.a.op("Ingests", true, func() (err error) { l, err = d.d.Ingests(ctx); return err })
	return l, err
}

// agentFiles are files of this machine without any sync: a power cut takes away nothing that was done.
type agentFiles struct{ a *agent }

var _ files = agentFiles{}

func (f agentFiles) name(verb, path string) string {
	return verb + " " + strings.TrimPrefix(path, f.a.root)
}

func (f agentFiles) Read(path string) (data []byte, err error) {
	err = f.a.op(f.name("read", path), true, func() (err error) { data, err = osFiles{}.Read(path); return err })
	return data, err
}

func (f agentFiles) Write(path string, data []byte, mode fs.FileMode) error {
	return f.a.op(f.name("write", path), false, func() error {
		temp := apply.TempFile(path)
		if err := os.WriteFile(temp, data, mode); err != nil {
			return err
		}
		return os.Rename(temp, path)
	})
}

func (f agentFiles) Rename(from, to string) error {
	return f.a.op(f.name("rename", to), false, func() error { return os.Rename(from, to) })
}

func (f agentFiles) Remove(path string) error {
	return f.a.op(f.name("remove", path), false, func() error {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return err
		}
		return nil
	})
}

func (f agentFiles) Mkdir(path string, mode fs.FileMode) error {
	return f.a.op(f.name("mkdir", path), false, func() error { return os.Mkdir(path, mode) })
}

// logBuffer keeps what was logged.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
