package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/images"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
)

const (
	// idleInterval is how often the agent looks at everything although nothing was told.
	idleInterval = 30 * time.Second
	// unsettledInterval is how often it looks while something is not as it should be.
	unsettledInterval = 5 * time.Second
	// probeInterval is how old a good verdict may become while the daemon stays the same process.
	probeInterval = 10 * time.Minute
	// watchRetry is how often it tries again to watch the hosts directory when that failed.
	watchRetry = 5 * time.Minute
)

// ConfigSource tells what is wanted. config.FileSource is one.
type ConfigSource interface {
	// Next blocks until the config or a file that it names has changed; the first call returns at once.
	Next(ctx context.Context) (config.Snapshot, error)
}

// Host is the writer of the hosts directory. apply.Host is one.
type Host interface {
	Apply(ctx context.Context, desired hostconfig.Tree, opts apply.Options) (apply.Receipt, error)
}

// Daemon is the containerd of this node. daemon.Client is one.
type Daemon interface {
	Info(ctx context.Context) (daemon.Info, error)
	CheckCRI(ctx context.Context) error
}

// Prober proves whether the daemon obeys the hosts directory. probe.Prober is one.
type Prober interface {
	Probe(ctx context.Context) (probe.Verdict, error)
}

// Logins gives user and secret for the images of a registry, the host named in their references, at the host that is
// really asked for them, host or host:port; both are empty where there is no login.
type Logins func(registry, host string) (user, secret string, err error)

// Config is what an Agent needs. All fields but Node and Coordinator are required.
type Config struct {
	// Node is the node's name in reports.
	Node string
	// Version is the agent's own.
	Version string
	// Address is the containerd socket, HostsDir the directory that Host writes: for reports.
	Address, HostsDir string
	// StateDir is where the agent keeps what must survive a restart.
	StateDir string
	Source   ConfigSource
	// SourceName is what reports call the source.
	SourceName string
	Host       Host
	Daemon     Daemon
	Prober     Prober
	// NewPuller makes the Puller for the limits of a config. It is called again when they have changed. The Logins are
	// always those of the config in force.
	NewPuller func(config.Prefetch, Logins) (images.Puller, error)
	// NewRestarter makes the Restarter for the settings of a config. An error means that containerd cannot be restarted from
	// here, and says why; it is called again then, now and then.
	NewRestarter func(context.Context, RestarterConfig) (Restarter, error)
	// Coordinator is that of the cluster; nil where there is none. With one, images are what it says, and a restart waits for
	// its leave.
	Coordinator Coordinator
	// WatchHosts calls changed whenever something in the hosts directory changed, until ctx ends or it cannot.
	WatchHosts func(ctx context.Context, changed func()) error
	Log        *slog.Logger
}

func (c Config) check() error {
	var errs []error
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"Version", c.Version != ""}, {"Address", c.Address != ""}, {"HostsDir", c.HostsDir != ""},
		{"StateDir", c.StateDir != ""}, {"Source", c.Source != nil}, {"SourceName", c.SourceName != ""},
		{"Host", c.Host != nil}, {"Daemon", c.Daemon != nil}, {"Prober", c.Prober != nil},
		{"NewPuller", c.NewPuller != nil}, {"NewRestarter", c.NewRestarter != nil},
		{"WatchHosts", c.WatchHosts != nil}, {"Log", c.Log != nil},
	} {
		if !f.set {
			errs = append(errs, fmt.Errorf("agent: %s is required", f.name))
		}
	}
	return errors.Join(errs...)
}

// Agent keeps one node as its config wants it.
type Agent struct {
	cfg    Config
	view   *view
	images *images.Worker
	orders *orders
	hosts  *reconciler
	// restarts has its own goroutine, or belongs to that of Once.
	restarts *restarts
	logins   atomic.Pointer[Logins] // of the config in force; nil before the first

	// puller is for limits. Both belong to the goroutine that calls enforce.
	puller images.Puller
	limits config.Prefetch
}

// New checks cfg and reads what an earlier run left in the state directory.
func New(cfg Config) (*Agent, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	proven, err := loadTrust(filepath.Join(cfg.StateDir, provenName))
	if err != nil {
		return nil, err
	}
	a := &Agent{cfg: cfg}
	a.view = newView(report.NodeReport{
		Node:         cfg.Node,
		AgentVersion: cfg.Version,
		Config:       report.ConfigStatus{Source: cfg.SourceName},
		Containerd:   report.Containerd{Address: cfg.Address, HostsDir: cfg.HostsDir},
		AgentProxy:   report.Proxy(daemon.ProxyFrom(os.Getenv)),
	}, cfg.Log)
	wake := func() {}
	if cfg.Coordinator != nil {
		wake = cfg.Coordinator.Wake
	}
	a.view.news = wake
	var mu sync.Mutex // what was concluded last is said last
	phases := ""
	a.images = images.New(cfg.Log, func() {
		mu.Lock()
		defer mu.Unlock()
		status, reason, message := a.images.Condition()
		a.view.set(report.ImagesReady, status, reason, message)
		if now := phasesOf(a.images.Report()); now != phases {
			phases = now
			wake()
		}
	})
	if a.orders, err = newOrders(filepath.Join(cfg.StateDir, directiveName), cfg.Coordinator == nil, cfg.Log, a.images); err != nil {
		return nil, err
	}
	a.cfg.Prober = &inTurn{prober: cfg.Prober, turn: make(chan struct{}, 1)}
	need := newNeed(a.view)
	a.hosts = newReconciler(a.cfg, a.view, proven, need, a.images.RetryNow, a.images.SetWaits)
	need.ended = a.hosts.daemonChanged
	leaves := slots(freeSlots{})
	if cfg.Coordinator != nil {
		a.orders.leave.changed, a.orders.news = wake, need.wake
		leaves = a.orders.leave
	}
	a.restarts = newRestarts(a.cfg, need, a.images, leaves, a.cfg.Prober.Probe)
	return a, nil
}

// phasesOf sums up what of images a coordinator should hear at once.
func phasesOf(all []report.Image) string {
	var b strings.Builder
	for _, i := range all {
		fmt.Fprintf(&b, "%q %s %s %s\n", i.Name, i.Target, i.Phase, i.Reason)
	}
	return b.String()
}

// inTurn lets one probe run at a time: they publish the same directory.
type inTurn struct {
	prober Prober
	turn   chan struct{} // capacity 1; holds a token while a probe runs
}

func (p *inTurn) Probe(ctx context.Context) (probe.Verdict, error) {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
		return p.prober.Probe(ctx)
	case <-ctx.Done():
		return probe.Verdict{}, ctx.Err()
	}
}

// Report is the state of the node now.
func (a *Agent) Report() report.NodeReport {
	r := a.view.Report()
	r.Images, r.Unwanted, r.Disk = a.images.Report(), a.images.Unwanted(), a.images.Disk()
	r.Restart = a.restarts.need.report()
	if a.cfg.Coordinator != nil {
		r.Restart.Slot = a.orders.leave.wanted()
		if what, _ := a.restarts.need.underWay(); what != "" {
			r.Restart.Slot = report.SlotHeld // also for a restart that an earlier agent has begun
		}
	}
	throttled := a.images.Throttled()
	for _, host := range sortedKeys(throttled) {
		r.Throttled = append(r.Throttled, report.Throttle{Host: host, For: throttled[host]})
	}
	return r
}

// Run works until ctx ends and returns nil then, or an error when it cannot go on; that is ErrRelease where the coordinator
// wants the node to become as it was. It changes nothing on the node when it ends.
func (a *Agent) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	snapshots := make(chan config.Snapshot)
	g.Go(func() error { return a.readConfig(ctx, snapshots) })
	g.Go(func() error {
		a.watchHosts(ctx)
		return nil
	})
	g.Go(func() error { return a.reconcile(ctx, snapshots) })
	g.Go(func() error {
		a.hosts.watchMirrors(ctx)
		return nil
	})
	g.Go(func() error {
		a.restarts.run(ctx)
		return nil
	})
	g.Go(func() error {
		a.images.Run(ctx)
		return nil
	})
	if a.cfg.Coordinator != nil {
		g.Go(func() error { return a.report(ctx) })
	}
	return g.Wait()
}

// report talks with the coordinator until ctx ends, or it releases the node.
func (a *Agent) report(ctx context.Context) error {
	a.restarts.awaitRecovered(ctx) // or it would hear that a node does nothing which is about to end a restart
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	released := false
	a.cfg.Coordinator.Run(ctx, a.Report, func(d report.Directive) {
		a.orders.took(d)
		if d.Release {
			released = true
			cancel()
		}
	})
	if released {
		return ErrRelease
	}
	return nil
}

// Once takes the config as it is now, tries everything one time, and returns what came of it. A config that is rejected
// is an error here: there is nobody to mend it.
func (a *Agent) Once(ctx context.Context) (report.NodeReport, error) {
	a.orders.alone = true
	s, err := a.cfg.Source.Next(ctx)
	if err != nil {
		return a.Report(), fmt.Errorf("read config: %w", err)
	}
	regs, err := Registries(s)
	if err != nil {
		a.reject(err)
		return a.Report(), fmt.Errorf("config is rejected: %w", err)
	}
	if err := a.accept(s, regs); err != nil {
		return a.Report(), err
	}
	_ = a.restarts.recover(ctx) // an attempt does it again, and says so
	a.hosts.pass(ctx)
	a.restarts.act(ctx, a.restarts.need.take())
	a.images.Resume()
	if a.hosts.stale.Load() {
		a.hosts.pass(ctx)
	}
	a.hosts.sawMirrors(ctx, checkMirrors(ctx, endpoints(regs)))
	a.images.Once(ctx)
	return a.Report(), nil
}

// readConfig hands every change of the config over.
func (a *Agent) readConfig(ctx context.Context, snapshots chan<- config.Snapshot) error {
	a.orders.await(ctx)
	for {
		s, err := a.cfg.Source.Next(ctx)
		if err != nil {
			return ended(ctx, fmt.Errorf("read config: %w", err))
		}
		select {
		case snapshots <- s:
		case <-ctx.Done():
			return nil
		}
	}
}

// watchHosts asks for a pass at every change in the hosts directory. Where the kernel has no watches left, the timer
// has to do: an agent that ends would repair nothing at all.
func (a *Agent) watchHosts(ctx context.Context) {
	for ctx.Err() == nil {
		err := a.cfg.WatchHosts(ctx, a.hosts.wake)
		if ctx.Err() != nil {
			return
		}
		a.cfg.Log.Warn("changes in the hosts directory are seen late: it is not watched", "every", idleInterval, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(watchRetry):
		}
	}
}

// reconcile brings the hosts directory to what the newest good config wants: on every new config, whenever somebody
// touched the directory, and by a timer.
func (a *Agent) reconcile(ctx context.Context, snapshots <-chan config.Snapshot) error {
	a.restarts.awaitRecovered(ctx)
	timer := time.NewTimer(idleInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-snapshots:
			if err := a.take(s); err != nil {
				return err
			}
		case checks := <-a.hosts.checked:
			a.hosts.sawMirrors(ctx, checks)
			continue
		case <-a.hosts.kick:
		case <-timer.C:
		}
		settled := a.hosts.pass(ctx)
		timer.Reset(unsettledInterval)
		if settled {
			timer.Reset(idleInterval)
		}
	}
}

// take puts a snapshot in force. One that is faulty is rejected: what was in force stays so, and after a restart that is
// what was last good. Without even that, the node is left as it is.
func (a *Agent) take(s config.Snapshot) error {
	regs, err := Registries(s)
	if err == nil {
		return a.accept(s, regs)
	}
	a.reject(err)
	if a.hosts.current != nil {
		return nil
	}
	last, err := loadLastGood(a.lastGoodPath(), s.Objects)
	if err == nil {
		regs, err = Registries(last)
	}
	if err != nil {
		a.cfg.Log.Error("no earlier config to fall back to; the node stays as it is", "err", err)
		return nil
	}
	a.cfg.Log.Warn("using the last good config", "configHash", last.Hash)
	return a.enforce(last, regs)
}

func (a *Agent) accept(s config.Snapshot, regs []hostconfig.Registry) error {
	a.view.update(func(r *report.NodeReport) { r.Config.Rejected = nil })
	a.view.set(report.ConfigValid, report.True, "Accepted", "")
	for _, w := range append(slices.Clone(s.Warnings), a.unheard(s.Config)...) {
		a.cfg.Log.Warn("config", "warning", w)
	}
	if err := saveLastGood(a.lastGoodPath(), s); err != nil {
		a.cfg.Log.Error("this config would not be there to fall back to after a restart", "err", err)
	}
	return a.enforce(s, regs)
}

func (a *Agent) reject(err error) {
	a.view.update(func(r *report.NodeReport) { r.Config.Rejected = strings.Split(err.Error(), "\n") })
	reason := "Rejected"
	if errors.Is(err, config.ErrNoDocument) {
		reason = report.NoConfig
	}
	a.view.set(report.ConfigValid, report.False, reason, err.Error())
}

// enforce makes s what the reconciler and the image worker work towards.
func (a *Agent) enforce(s config.Snapshot, regs []hostconfig.Registry) error {
	if err := a.setLimits(s.Config.Prefetch); err != nil {
		return err
	}
	known := loginsOf(s)
	wanted := images.Wanted{Puller: a.puller, AtOnce: s.Config.Prefetch.MaxImages,
		WhenUnwanted: s.Config.Prefetch.WhenUnwanted, Sources: sources(regs, known)}
	a.cfg.Log.Info("config in force", "configHash", s.Hash, "registries", len(regs), "images", len(s.Config.Images))
	a.hosts.want(s, regs, func() {
		a.logins.Store(new(known.find()))
		a.orders.config(wanted, s.Config.Images, s.Hash)
		a.restarts.need.want(s.Config.Restart, s.Hash)
		// Now, and not before: Ready must not be read together with a hash that it is not about.
		a.view.update(func(r *report.NodeReport) { r.Config.Hash = s.Hash })
		a.view.news()
	})
	return nil
}

// unheard warns of what a config says to a coordinator, where there is none.
func (a *Agent) unheard(cfg *config.Config) (warnings []string) {
	if a.cfg.Coordinator != nil {
		return nil
	}
	for _, img := range cfg.Images {
		if len(img.NodeSelector) > 0 {
			warnings = append(warnings, fmt.Sprintf("image %s: its nodeSelector is for the coordinator of a cluster; this node has none, and "+
				"takes the image as wanted", img.Name))
		}
	}
	return warnings
}

// setLimits makes a Puller when the limits are others than before. One that stays keeps its counters and what it knows
// of hosts.
func (a *Agent) setLimits(limits config.Prefetch) error {
	limits.MaxImages, limits.WhenUnwanted = 0, "" // these are not the Puller's
	if a.puller != nil && reflect.DeepEqual(limits, a.limits) {
		return nil
	}
	puller, err := a.cfg.NewPuller(limits, func(registry, host string) (string, string, error) {
		return (*a.logins.Load())(registry, host) // nothing is pulled before the first config is in force
	})
	if err != nil {
		return fmt.Errorf("prepare prefetch: %w", err)
	}
	a.puller, a.limits = puller, limits
	return nil
}

func (a *Agent) lastGoodPath() string { return filepath.Join(a.cfg.StateDir, lastGoodName) }

// ended is nil when ctx is the reason for err.
func ended(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}
