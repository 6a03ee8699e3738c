package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
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
	"time"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/certs"
	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
	"github.com/hotplate-dev/hotplate/prefetch"
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
	snapshot := config.Read("config.yaml", []byte(doc))
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

// fakePuller is containerd's images.
type fakePuller struct {
	t     testing.TB
	one   oneAtATime
	takes time.Duration // how long Ensure takes
	// allowed reports whether images may be sought.
	allowed func() bool
	// inside is called in Ensure, with its Progress, and may be nil.
	inside func(ctx context.Context, img prefetch.Image, pr *prefetch.Progress) error

	mu     sync.Mutex // guards what follows
	did    []string   // what was asked, in order
	fails  map[string]error
	ready  map[string]string // digests by ref
	broken error             // of Check
	sweeps error
	made   []config.Prefetch // limits it was made for
	pins   []prefetch.Pin
}

func newFakePuller(t testing.TB) *fakePuller {
	return &fakePuller{t: t, takes: time.Second, allowed: func() bool { return true }, fails: make(map[string]error),
		ready: make(map[string]string)}
}

func (p *fakePuller) Ensure(ctx context.Context, img prefetch.Image, pr *prefetch.Progress) (prefetch.Result, error) {
	defer p.one.enter(p.t, "Puller")()
	if !p.allowed() {
		p.t.Errorf("%s is sought before the hosts directory is written", img.Ref)
	}
	if pr == nil {
		p.t.Error("no Progress is given")
	}
	p.note("ensure " + img.Ref)
	if p.inside != nil {
		if err := p.inside(ctx, img, pr); err != nil {
			return prefetch.Result{}, err
		}
	}
	select {
	case <-ctx.Done():
		p.note("cancelled " + img.Ref)
		return prefetch.Result{}, ctx.Err()
	case <-time.After(p.takes):
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.fails[img.Ref]; err != nil {
		return prefetch.Result{}, err
	}
	p.ready[img.Ref] = "sha256:of-" + img.Ref
	return p.result(img, 1<<20), nil
}

// result is of an image that is ready. The caller holds mu.
func (p *fakePuller) result(img prefetch.Image, fetched int64) prefetch.Result {
	return prefetch.Result{Ref: img.Ref, Digest: p.ready[img.Ref], ConfigDigest: "sha256:id-of-" + img.Ref, Pinned: img.Pin, BytesFetched: fetched,
		Duration: time.Second}
}

func (p *fakePuller) Check(ctx context.Context, img prefetch.Image, digest string) (prefetch.Result, bool, error) {
	defer p.one.enter(p.t, "Puller")()
	p.note("check " + img.Ref)
	p.mu.Lock()
	defer p.mu.Unlock()
	if want := "sha256:of-" + img.Ref; digest != want {
		p.t.Errorf("%s is checked for %q, want %q", img.Ref, digest, want)
	}
	if err := cmp.Or(ctx.Err(), p.broken); err != nil {
		return prefetch.Result{}, false, err
	}
	if p.ready[img.Ref] == "" {
		return prefetch.Result{Ref: img.Ref, Note: "containerd has no image " + img.Ref}, false, nil
	}
	return p.result(img, 0), true, nil
}

func (p *fakePuller) Sweep(_ context.Context, wanted []prefetch.Image) error {
	defer p.one.enter(p.t, "Puller")()
	var refs []string
	for _, w := range wanted {
		refs = append(refs, w.Ref)
	}
	p.note("sweep " + strings.Join(refs, " "))
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sweeps
}

func (p *fakePuller) Pins(context.Context) ([]prefetch.Pin, error) {
	defer p.one.enter(p.t, "Puller")()
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.pins), nil
}

func (p *fakePuller) Unpin(_ context.Context, id string) error {
	defer p.one.enter(p.t, "Puller")()
	p.note("unpin " + id)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pins = slices.DeleteFunc(p.pins, func(pin prefetch.Pin) bool { return pin.ImageID.String() == id })
	return nil
}

func (p *fakePuller) note(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.did = append(p.did, what)
}

func (p *fakePuller) set(f func(*fakePuller)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p)
}

// took returns what was asked since it was last called.
func (p *fakePuller) took() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	did := p.did
	p.did = nil
	return did
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
	puller *fakePuller
	log    *logged
	logins Logins // of the newest puller
	watch  error  // what WatchHosts fails with
	ended  chan error
	cancel context.CancelFunc
}

// newNode returns an agent that does not run yet, on a healthy daemon that obeys.
func newNode(t testing.TB) *node {
	t.Helper()
	n := &node{t: t, dir: t.TempDir(), source: newFakeSource(t), host: newFakeHost(t), puller: newFakePuller(t),
		log: new(logged), ended: make(chan error, 1)}
	n.daemon = &fakeDaemon{t: t, info: daemon.Info{Version: "2.4.2", UUID: "u", PID: 7,
		ConfigPath: "/etc/containerd/certs.d"}}
	n.prober = &fakeProber{t: t, host: n.host, verdict: probe.Verdict{Live: true, UserAgent: "containerd/2.4.2"}}
	n.prober.touched = func() { n.hosts.wake() }
	n.puller.allowed = n.host.written
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
	return Config{
		Node: "gpu-7", Version: "v1", Address: "/run/containerd/containerd.sock", HostsDir: "/etc/containerd/certs.d",
		StateDir: n.dir, Source: n.source, SourceName: "config.yaml", Host: n.host, Daemon: n.daemon, Prober: n.prober,
		Log: n.log.logger(),
		NewPuller: func(limits config.Prefetch, logins Logins) (Puller, error) {
			n.puller.set(func(p *fakePuller) { p.made = append(p.made, limits) })
			n.logins = logins
			return n.puller, nil
		},
		WatchHosts: func(ctx context.Context, _ func()) error {
			if n.watch != nil {
				return n.watch
			}
			<-ctx.Done()
			return nil
		},
	}
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

var errBroken = errors.New("it is broken")

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
