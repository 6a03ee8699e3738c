package agent

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
)

// daemonTimeout bounds the questions to the daemon in one pass.
const daemonTimeout = 10 * time.Second

// reconciler brings the hosts directory to what the config wants and proves it live. Its fields belong to the goroutine
// that calls pass, but for the channels and stats.
type reconciler struct {
	cfg   Config
	log   *slog.Logger
	view  *view
	trust *trust
	flaps flaps
	need  *need
	// standing holds what somebody else did and the last pass could not or would not mend.
	standing map[string]bool
	stats    *stats
	// hostsChanged is called when containerd may find images where it did not before, or is back.
	hostsChanged func()
	// waits is told, by registry host, why images of that registry must wait; empty for one that is applied.
	waits func(map[string]string)
	// written is called once, when the hosts directory first holds what current wants; nil after that. Images must
	// wait for it: before, they would be sought where the config forbids.
	written func()

	kick  chan struct{} // capacity 1
	stale atomic.Bool   // what was known of the daemon may not hold any more
	// toCheck tells watchMirrors which endpoints there are, checked tells pass's goroutine what it found.
	toCheck chan []endpoint // capacity 1
	checked chan map[string]mirrorCheck

	current *config.Snapshot      // nil before the first good config
	regs    []hostconfig.Registry // what current wants, without overlapping CAs
	version hostconfig.Version
	process daemon.Info // the daemon that was last seen
	probed  probed
}

// probed is the newest verdict and what it is about.
type probed struct {
	verdict probe.Verdict
	ok      bool // there is a verdict
	at      time.Time
	process daemon.Info
	failed  time.Time // when a probe last came to no verdict
}

// of reports whether the verdict is about the process that info describes.
func (p probed) of(info daemon.Info) bool { return sameProcess(p.process, info) }

// sameProcess reports whether a and b are about one process of containerd, as far as that can be told.
func sameProcess(a, b daemon.Info) bool {
	return a.PID == b.PID && a.UUID == b.UUID && a.Version == b.Version
}

func newReconciler(cfg Config, v *view, t *trust, n *need, hostsChanged func(), waits func(map[string]string)) *reconciler {
	return &reconciler{
		cfg: cfg, log: cfg.Log, view: v, trust: t, need: n, stats: &stats{counts: counts{lastPass: time.Now()}},
		hostsChanged: hostsChanged, waits: waits,
		kick: make(chan struct{}, 1), toCheck: make(chan []endpoint, 1), checked: make(chan map[string]mirrorCheck),
	}
}

// wake asks for a pass soon. It never blocks.
func (r *reconciler) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// daemonChanged asks for a pass soon that believes nothing of what was known of the daemon. It never blocks.
func (r *reconciler) daemonChanged() {
	r.stale.Store(true)
	r.wake()
}

// want makes s, which asks for regs, what passes work towards. When the hosts directory is written, written is called.
func (r *reconciler) want(s config.Snapshot, regs []hostconfig.Registry, written func()) {
	r.current, r.regs, r.written = &s, regs, written
	if err := r.trust.assume(endpoints(regs)); err != nil {
		r.log.Error("CAs are not saved; a restart in the middle of a rotation would forget them", "err", err)
	}
	select {
	case <-r.toCheck: // watchMirrors has not taken the older ones yet
	default:
	}
	r.toCheck <- endpoints(regs)
}

// pass looks at the daemon and the hosts directory once and mends what it can. It reports whether all is as it should
// be; what is not is in the conditions.
func (r *reconciler) pass(ctx context.Context) (settled bool) {
	defer r.stats.add(func(c *counts) { c.passes, c.lastPass = c.passes+1, time.Now() })
	if r.stale.Swap(false) {
		r.probed = probed{}
	}
	known := r.current != nil && r.process.Version != ""
	if known {
		// First, because a daemon that hangs must not hold up the repair.
		r.apply(ctx)
	}
	version := r.version
	healthy := r.lookAtDaemon(ctx)
	if r.current == nil {
		return healthy
	}
	r.reportCertificates()
	if !known || r.version != version {
		r.apply(ctx)
	}
	live := healthy && r.probe(ctx)
	return live && r.view.Report().Condition(report.RegistriesConfigured).Status == report.True
}

// lookAtDaemon reports whether containerd and its CRI plugin answer.
func (r *reconciler) lookAtDaemon(ctx context.Context) bool {
	_, before := r.need.underWay()
	info, err := r.askDaemon(ctx)
	if err != nil {
		switch what, done := r.need.underWay(); {
		case ctx.Err() != nil:
		case what != "" || done != before: // that it is away is a part of it
			r.view.set(report.ContainerdHealthy, report.Unknown, report.Restarting, "it is being restarted by hotplate")
		default:
			r.view.set(report.ContainerdHealthy, report.False, "NotAnswering", err.Error())
		}
		return false
	}
	if r.probed.ok && r.probed.of(r.process) && !r.probed.of(info) {
		// Before it is said to be healthy: the node must not be Ready on the word of a process that is gone.
		r.need.unknown("NotProbed", "containerd is not the process any more that was probed")
	}
	if c := r.view.Report().Condition(report.ContainerdHealthy); c.Status == report.False || c.Reason == report.Restarting {
		defer r.hostsChanged() // what failed because the daemon was away need not wait for its turn
	}
	r.setVersion(info.Version)
	r.process = info
	r.view.update(func(n *report.NodeReport) {
		n.Containerd.Version = info.Version
		n.Containerd.Proxy = report.Proxy{}
		if info.Proxy != nil {
			n.Containerd.Proxy = report.Proxy(*info.Proxy)
		}
	})
	r.view.set(report.ContainerdHealthy, report.True, "Answering", "containerd "+info.Version)
	return true
}

func (r *reconciler) askDaemon(ctx context.Context) (daemon.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, daemonTimeout)
	defer cancel()
	info, err := r.cfg.Daemon.Info(ctx)
	if err == nil {
		err = r.cfg.Daemon.CheckCRI(ctx)
	}
	return info, err
}

// setVersion picks the rules of the daemon's version.
func (r *reconciler) setVersion(version string) {
	v, err := hostconfig.ParseVersion(version)
	if err != nil && version != r.process.Version {
		r.log.Warn("containerd has an unknown version; the most cautious rules apply", "version", version)
	}
	r.version = v
}

// apply writes the hosts directory. It reports whether every registry is as the config wants it.
func (r *reconciler) apply(ctx context.Context) bool {
	tree, err := hostconfig.Render(r.trust.overlapped(r.regs), r.version)
	if err != nil {
		r.view.set(report.RegistriesConfigured, report.False, "CannotRender", err.Error())
		return false
	}
	opts := apply.Options{Adopt: make(map[string]bool), Skip: make(map[string]bool)}
	for _, reg := range r.regs {
		opts.Adopt[hostconfig.HostDir(reg.Host)] = reg.Adopt
		if r.flaps.message(reg.Host, time.Now()) != "" {
			opts.Skip[hostconfig.HostDir(reg.Host)] = true
		}
	}

	receipt, err := r.cfg.Host.Apply(ctx, tree, opts)
	if ctx.Err() != nil {
		return false // the agent ends; the next start goes on
	}
	r.sawOthers(receipt)
	if len(receipt.Changed) > 0 {
		r.log.Info("hosts directory changed", "dir", r.cfg.HostsDir, "changed", strings.Join(receipt.Changed, ", "))
		r.stats.add(func(c *counts) { c.changes++ })
		r.hostsChanged()
	}
	applied := r.reportRegistries(receipt, err)
	if err == nil && r.written != nil {
		r.written()
		r.written = nil
	}
	return applied
}

// sawOthers counts and tells what somebody else did in the hosts directory. What could not be mended, or is not ours to
// mend, is found again in every pass and is news only once.
func (r *reconciler) sawOthers(receipt apply.Receipt) {
	old, now := r.standing, make(map[string]bool)
	r.standing = now
	seen := make(map[string]bool)
	for _, d := range receipt.Drift {
		key := strings.Join([]string{string(d.Kind), d.Path, d.Fingerprint}, " ")
		mended := slices.Contains(receipt.Changed, d.Path) || slices.Contains(receipt.Changed, path.Dir(d.Path))
		now[key] = !mended
		if old[key] || r.flaps.message(d.Host, time.Now()) != "" {
			continue
		}
		who, named := competitor(d)
		r.log.Warn("somebody else changed the hosts directory", "path", d.Path, "what", string(d.Kind),
			"registry", d.Host, "who", who)
		if d.Kind == hostconfig.Stray {
			continue // it is not ours
		}
		r.stats.add(func(c *counts) { c.drift++ })
		// Certificates belong to no registry; they are put back whatever happens, as no pull works without them.
		// Nor do removals count: to leave them alone would send containerd to upstream, even where the config says Deny.
		if d.Host != "" && !seen[d.Host] && d.Kind != hostconfig.Missing {
			seen[d.Host] = true
			r.flaps.saw(d.Host, who, named, time.Now())
		}
	}
	for _, l := range receipt.Left {
		key := l.Path + " " + l.Reason
		now[key] = true
		if !old[key] {
			r.log.Warn("left in the hosts directory", "path", l.Path, "why", l.Reason)
		}
	}
}

// competitor is what can be known of who changed a file, and whether that is a name: tools that write hosts.toml mark it
// in its first comment.
func competitor(d hostconfig.Drift) (who string, named bool) {
	ours := hostconfig.IsManaged([]byte("# " + d.Comment)) // edited in place, our mark left standing
	switch {
	case d.Kind == hostconfig.WrongMode:
		return fmt.Sprintf("%s is given the mode %#o by a program that leaves no name", d.Path, d.Mode), false
	case d.Kind == hostconfig.Missing:
		return d.Path + " is removed by a program that leaves no name", false
	case d.Comment != "" && !ours:
		return fmt.Sprintf("%s says %q", d.Path, d.Comment), true
	default:
		return d.Path + " is written by a program that leaves no name in it", false
	}
}

// reportRegistries states what became of each registry, and whether all are well.
func (r *reconciler) reportRegistries(receipt apply.Receipt, err error) bool {
	var out []report.Registry
	var bad []string
	waits := make(map[string]string)
	for _, reg := range r.regs {
		state := report.Registry{Host: reg.Host, State: report.RegistryApplied}
		for _, c := range receipt.Conflicts {
			// Beside a _default that allows upstream, somebody else's directory is as good as upstream.
			if c.Host == "" || c.Host == reg.Host && (reg.Host != hostconfig.DefaultHost || reg.Upstream == hostconfig.Deny) {
				state.State, state.Message = report.RegistryConflict, c.Reason+"; "+c.Action
			}
		}
		if msg := r.flaps.message(reg.Host, time.Now()); msg != "" {
			state.State, state.Message = report.RegistryFlapping, msg
		}
		if err != nil {
			state.State, state.Message = report.RegistryFailed, err.Error()
		}
		waits[reg.Host] = ""
		if state.State != report.RegistryApplied {
			waits[reg.Host] = fmt.Sprintf("waits for registry %s: %s", reg.Host, state.State)
			bad = append(bad, fmt.Sprintf("%s: %s: %s", reg.Host, state.State, state.Message))
		}
		out = append(out, state)
	}
	r.view.update(func(n *report.NodeReport) { n.Registries = keepMirrors(out, n.Registries) })
	r.waits(waits)
	switch {
	case err != nil:
		r.view.set(report.RegistriesConfigured, report.False, "WriteFailed", err.Error())
	case len(bad) > 0:
		r.view.set(report.RegistriesConfigured, report.False, "NotAllApplied", strings.Join(bad, "\n"))
	default:
		r.view.set(report.RegistriesConfigured, report.True, "Applied", count(len(r.regs), "registry", "registries"))
	}
	return err == nil && len(bad) == 0
}

// keepMirrors carries what was last seen of mirrors over to the new states.
func keepMirrors(states, old []report.Registry) []report.Registry {
	for i := range states {
		for _, o := range old {
			if o.Host == states[i].Host {
				states[i].Mirrors = o.Mirrors
			}
		}
	}
	return states
}

// probe makes sure that there is a fresh verdict on the daemon, and reports whether it obeys the hosts directory.
func (r *reconciler) probe(ctx context.Context) bool {
	if what, _ := r.need.underWay(); what != "" {
		return false // it is probed at the end
	}
	p := &r.probed
	same := p.of(r.process)
	if p.ok && p.verdict.Live && same && time.Since(p.at) < probeInterval {
		return true
	}
	if p.ok && !p.verdict.Live && same && time.Since(p.at) < idleInterval {
		return false
	}
	if time.Since(p.failed) < unsettledInterval {
		return false // its own files in the hosts directory would wake the next probe, and that one the next
	}
	verdict, err := r.cfg.Prober.Probe(ctx)
	if err != nil {
		p.failed = time.Now()
		if ctx.Err() == nil {
			r.need.unknown("ProbeFailed", err.Error())
		}
		return false
	}
	if p.ok && !p.verdict.Live && same && !verdict.Live {
		verdict.Cause = p.verdict.Cause // it differs in names and ports each time, which is nothing new
	}
	r.probed = probed{verdict: verdict, ok: true, at: time.Now(), process: r.process}
	if verdict.Live {
		r.need.live(fmt.Sprintf("live, no restart needed, because containerd (%s) asked the probe's listener, which only %s names",
			verdict.UserAgent, r.cfg.HostsDir))
		return true
	}
	r.need.needed(r.notLive(), fmt.Sprintf("Set the registry config_path to exactly %q in containerd's config and restart "+
		"containerd", r.cfg.HostsDir), verdict.Cause, r.process)
	return false
}

// notLive says why the daemon does not obey, as far as its own claims tell.
func (r *reconciler) notLive() string {
	var why string
	switch claimed := r.process.ConfigPath; {
	case claimed == r.cfg.HostsDir:
		why = "although it claims this config_path; another setting overrides it, or it was not restarted since"
	case strings.Contains(claimed, ":"):
		why = fmt.Sprintf("its config_path %q is a list, which containerd 2.1 and later ignore", claimed)
	case claimed != "":
		why = fmt.Sprintf("its config_path is %q", claimed)
	default:
		why = "its config_path is not set to it, as far as it says"
	}
	return fmt.Sprintf("containerd does not read %s: %s", r.cfg.HostsDir, why)
}

// count writes a number and what is counted.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
