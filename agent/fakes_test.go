package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/images"
	"github.com/hotplate-dev/hotplate/certs"
	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
)

// The fakes fail the test when they are used in a way that the real parts do not permit.

// oneAtATime polices that no two calls run at once.
type oneAtATime struct{ busy atomic.Bool }

func (o *oneAtATime) enter(t testing.TB, what string) (leave func()) {
	if !o.busy.CompareAndSwap(false, true) {
		t.Errorf("two calls of %s at once", what)
	}
	return func() { o.busy.Store(false) }
}

// fakeSource is a config file. Like the real one, Next returns at once when it is first called and then waits.
type fakeSource struct {
	t    testing.TB
	one  oneAtATime
	docs chan config.Snapshot
	fail chan error
}

func newFakeSource(t testing.TB) *fakeSource {
	return &fakeSource{t: t, docs: make(chan config.Snapshot, 8), fail: make(chan error, 1)}
}

func (s *fakeSource) Next(ctx context.Context) (config.Snapshot, error) {
	defer s.one.enter(s.t, "Source.Next")()
	select {
	case <-ctx.Done():
		return config.Snapshot{}, ctx.Err()
	case err := <-s.fail:
		return config.Snapshot{}, err
	case doc := <-s.docs:
		return doc, nil
	}
}

// write puts doc into the file and returns its hash.
func (s *fakeSource) write(doc string) string {
	snapshot := config.Read("config.yaml", []byte(doc), nil)
	s.docs <- snapshot
	return snapshot.Hash
}

// applied is one call of Apply.
type applied struct {
	tree hostconfig.Tree
	opts apply.Options
}

// fakeHost is a hosts directory in memory.
type fakeHost struct {
	t   testing.TB
	one oneAtATime

	mu        sync.Mutex // guards what follows
	made      []applied
	holds     hostconfig.Tree
	drift     map[string]hostconfig.Drift // by host; stays until it is mended
	conflicts []hostconfig.Conflict
	left      []apply.Left
	err       error
}

func newFakeHost(t testing.TB) *fakeHost {
	return &fakeHost{t: t, drift: make(map[string]hostconfig.Drift)}
}

func (h *fakeHost) Apply(ctx context.Context, desired hostconfig.Tree, opts apply.Options) (apply.Receipt, error) {
	defer h.one.enter(h.t, "Host.Apply")()
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return apply.Receipt{}, err
	}
	h.made = append(h.made, applied{desired, opts})
	for _, dir := range desired.HostDirs() {
		if _, ok := opts.Adopt[dir]; !ok {
			h.t.Errorf("Apply is not told whether to adopt %s", dir)
		}
	}
	r := apply.Receipt{Conflicts: h.conflicts, Left: h.left}
	for _, host := range slices.Sorted(maps.Keys(h.drift)) {
		d := h.drift[host]
		r.Drift = append(r.Drift, d)
		if h.err == nil && !opts.Skip[hostconfig.HostDir(host)] && d.Kind != hostconfig.Stray {
			r.Changed = append(r.Changed, d.Path)
			delete(h.drift, host)
		}
	}
	if h.err != nil {
		return r, h.err
	}
	for _, p := range desired.Paths() {
		if !reflect.DeepEqual(h.holds[p], desired[p]) {
			r.Changed = append(r.Changed, p)
		}
	}
	h.holds = desired
	return r, nil
}

func (h *fakeHost) set(f func(*fakeHost)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h)
}

// meddle changes the hosts.toml of a host as another program would.
func (h *fakeHost) meddle(host, comment string) {
	h.set(func(h *fakeHost) {
		h.drift[host] = hostconfig.Drift{Kind: hostconfig.Changed, Host: host, Comment: comment, Fingerprint: comment,
			Path: hostconfig.HostDir(host) + "/" + hostconfig.HostsTOML}
	})
}

func (h *fakeHost) calls() []applied {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.made)
}

func (h *fakeHost) written() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.holds != nil
}

// trusts fails the test unless the directory names exactly the CAs of want.
func (h *fakeHost) trusts(t testing.TB, host string, want certs.Bundle) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	file := h.holds[hostconfig.HostDir(host)+"/"+hostconfig.HostsTOML]
	if name := want.FileName(); !strings.Contains(string(file.Data), name) {
		t.Errorf("hosts.toml of %s does not trust %s:\n%s", host, name, file.Data)
	}
}

// fakeDaemon is containerd.
type fakeDaemon struct {
	t testing.TB

	mu   sync.Mutex // guards what follows
	info daemon.Info
	err  error
	cri  error
	hang bool
}

func (d *fakeDaemon) Info(ctx context.Context) (daemon.Info, error) {
	if _, ok := ctx.Deadline(); !ok {
		d.t.Error("containerd is asked without a bound on its answer")
	}
	d.mu.Lock()
	info, err, hang := d.info, d.err, d.hang
	d.mu.Unlock()
	if hang {
		<-ctx.Done()
		return daemon.Info{}, fmt.Errorf("ask containerd: %w", ctx.Err())
	}
	return info, err
}

func (d *fakeDaemon) CheckCRI(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		d.t.Error("CRI is asked without a bound on its answer")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cri
}

func (d *fakeDaemon) set(f func(*fakeDaemon)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

// fakeProber answers as told. It may be asked only when the directory is written.
type fakeProber struct {
	t    testing.TB
	one  oneAtATime
	host *fakeHost
	// touched is called at every probe, as the real one changes the hosts directory.
	touched func()

	mu      sync.Mutex // guards what follows
	verdict probe.Verdict
	err     error
	probes  int
}

func (p *fakeProber) Probe(context.Context) (probe.Verdict, error) {
	defer p.one.enter(p.t, "Prober.Probe")()
	if len(p.host.calls()) == 0 {
		p.t.Error("probed before the hosts directory was looked at")
	}
	p.touched()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.probes++
	v := p.verdict
	if !v.Live && p.err == nil {
		v.Cause = fmt.Sprintf("%s (%d)", v.Cause, p.probes) // the real one names a new image each time
	}
	return v, p.err
}

func (p *fakeProber) set(f func(*fakeProber)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p)
}

func (p *fakeProber) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.probes
}

// node is an agent on fakes.
type node struct {
	*Agent
	t      testing.TB
	dir    string
	source *fakeSource
	host   *fakeHost
	daemon *fakeDaemon
	prober *fakeProber
	puller *agenttest.Puller
	// restarter is the only way to restart containerd.
	restarter *fakeRestarter
	// coordinator is nil on a node by itself.
	coordinator *fakeCoordinator
	log         *agenttest.Log
	logins      Logins // of the newest puller
	watch       error  // what WatchHosts fails with
	ended       chan error
	cancel      context.CancelFunc
}

// newNode returns an agent that does not run yet, on a healthy daemon that obeys.
func newNode(t testing.TB) *node {
	t.Helper()
	n := &node{t: t, dir: t.TempDir(), source: newFakeSource(t), host: newFakeHost(t), puller: agenttest.NewPuller(t),
		log: new(agenttest.Log), ended: make(chan error, 1)}
	n.daemon = &fakeDaemon{t: t, info: daemon.Info{Version: "2.4.2", UUID: "u", PID: 7,
		ConfigPath: "/etc/containerd/certs.d"}}
	n.prober = &fakeProber{t: t, host: n.host, verdict: probe.Verdict{Live: true, UserAgent: "containerd/2.4.2"}}
	n.prober.touched = func() { n.hosts.wake() }
	n.restarter = &fakeRestarter{t: t, daemon: n.daemon, prober: n.prober}
	n.puller.Allowed = n.host.written
	n.start()
	return n
}

// start makes an Agent for what is in the state directory.
func (n *node) start() {
	n.t.Helper()
	a, err := New(n.config())
	if err != nil {
		n.t.Fatal(err)
	}
	n.Agent = a
}

func (n *node) config() Config {
	cfg := Config{
		Node: "gpu-7", Version: "v1", Address: "/run/containerd/containerd.sock", HostsDir: "/etc/containerd/certs.d",
		StateDir: n.dir, Source: n.source, SourceName: "config.yaml", Host: n.host, Daemon: n.daemon, Prober: n.prober,
		Log: n.log.Logger(),
		NewPuller: func(limits config.Prefetch, logins Logins) (images.Puller, error) {
			n.puller.Set(func(p *agenttest.State) { p.Made = append(p.Made, limits) })
			n.logins = logins
			return n.puller, nil
		},
		NewRestarter: func(_ context.Context, cfg RestarterConfig) (Restarter, error) {
			return n.restarter.madeFor(cfg)
		},
		WatchHosts: func(ctx context.Context, _ func()) error {
			if n.watch != nil {
				return n.watch
			}
			<-ctx.Done()
			return nil
		},
	}
	if n.coordinator != nil {
		cfg.Coordinator = n.coordinator
	}
	return cfg
}

// run lets the agent work in the background until the test ends.
func (n *node) run() {
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	go func() { n.ended <- n.Run(ctx) }()
	n.t.Cleanup(func() {
		if err := n.stop(); err != nil {
			n.t.Errorf("the agent ended with %v", err)
		}
	})
}

// stop ends the agent and waits for it.
func (n *node) stop() error {
	if n.cancel == nil {
		return nil
	}
	n.cancel()
	n.cancel = nil
	return <-n.ended
}

// expect fails the test unless a condition is as given, with the parts in its message.
func (n *node) expect(condition, status, reason string, parts ...string) {
	n.t.Helper()
	c := n.Report().Condition(condition)
	if string(c.Status) != status || c.Reason != reason {
		n.t.Errorf("%s is %s, %s (%s); want %s, %s", condition, c.Status, c.Reason, c.Message, status, reason)
	}
	for _, p := range parts {
		if !strings.Contains(c.Message, p) {
			n.t.Errorf("%s does not say %q: %s", condition, p, c.Message)
		}
	}
}

func discard() *log.Logger { return log.New(io.Discard, "", 0) }

func keyPair(t testing.TB, c tls.Certificate) certs.KeyPair {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := certs.ParseKeyPair(pemOf("CERTIFICATE", c.Certificate[0]), pemOf("PRIVATE KEY", der))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}
