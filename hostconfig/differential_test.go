package hostconfig_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/certs"
	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/hostconfigtest"
)

var (
	v17 = hostconfig.Version{Major: 1, Minor: 7, Patch: 20}
	v24 = hostconfig.Version{Major: 2, Minor: 4, Patch: 2}
)

// TestRenderedTreeMeansToContainerdWhatTheConfigMeans renders generated configs and asks containerd's own parser what
// they say. The expectation is written from the config's documentation, not from Render.
func TestRenderedTreeMeansToContainerdWhatTheConfigMeans(t *testing.T) {
	n := 3000
	if testing.Short() {
		n = 300
	}
	gen := newGenerator(1)
	dir := t.TempDir()
	for i := range n {
		regs := gen.registries()
		// What is rendered for other versions has to mean the same to 2.4.
		v := []hostconfig.Version{v24, v17, {}}[i%3]
		reset(t, dir)
		if v != v24 {
			// These need a form that 2.4 does not read; what 1.x reads is compared through Explain.
			regs = slices.DeleteFunc(regs, needsBrackets)
		}
		tree, err := hostconfig.Render(regs, v)
		if err != nil {
			t.Fatalf("config %d: %v", i, err)
		}
		if err := hostconfigtest.WriteTree(dir, tree); err != nil {
			t.Fatal(err)
		}
		for _, reg := range regs {
			compareWithContainerd(t, dir, reg, v)
		}
		if t.Failed() {
			t.Fatalf("config %d, containerd %s:\n%s", i, v, show(tree))
		}
	}
}

func compareWithContainerd(t *testing.T, dir string, reg hostconfig.Registry, v hostconfig.Version) {
	t.Helper()
	host := reg.Host
	if host == hostconfig.DefaultHost {
		host = "elsewhere.example.com"
	}
	got, err := hostconfigtest.Load(t.Context(), dir, host)
	if err != nil {
		t.Errorf("%s: containerd cannot use it: %v", reg.Host, err)
		return
	}
	want := meaning(reg, host, v)
	if diff := cmp.Diff(want, got, cmpHosts()...); diff != "" {
		t.Errorf("%s: the config means (-), containerd reads (+):\n%s", reg.Host, diff)
	}
	compareExplain(t, os.DirFS(dir), host, v24, got)
}

// needsBrackets reports whether a [host] table may have to hold an IPv6 address.
func needsBrackets(reg hostconfig.Registry) bool {
	return len(reg.Mirrors) == 0 && reg.Host[0] == '[' ||
		slices.ContainsFunc(reg.Mirrors, func(m hostconfig.Mirror) bool { return strings.Contains(m.URL, "[") })
}

// TestRenderedTreeMeansToExplainWhatTheConfigMeans does the same for 1.7, whose own parser is not among our modules.
func TestRenderedTreeMeansToExplainWhatTheConfigMeans(t *testing.T) {
	gen := newGenerator(2)
	for i := range 1000 {
		regs := gen.registries()
		tree, err := hostconfig.Render(regs, v17)
		if err != nil {
			t.Fatalf("config %d: %v", i, err)
		}
		for _, reg := range regs {
			host := reg.Host
			if host == hostconfig.DefaultHost {
				host = "elsewhere.example.com"
			}
			want := meaning(reg, host, v17)
			for i := range want {
				caps := slices.Clone(want[i].Capabilities)
				want[i].Capabilities = slices.DeleteFunc(caps, func(c hostconfig.Capability) bool {
					return c == hostconfig.CapabilityReferrers
				})
			}
			compareExplain(t, mapFS(tree), host, v17, want)
		}
		if t.Failed() {
			t.Fatalf("config %d:\n%s", i, show(tree))
		}
	}
}

func mapFS(tree hostconfig.Tree) fstest.MapFS {
	out := fstest.MapFS{}
	for p, f := range tree {
		out[p] = &fstest.MapFile{Data: f.Data, Mode: f.Mode}
	}
	return out
}

// compareExplain checks that Explain says what containerd does.
func compareExplain(t *testing.T, fsys fs.FS, host string, v hostconfig.Version, want []hostconfigtest.Host) {
	t.Helper()
	res, err := hostconfig.Explain(fsys, host, v)
	if err != nil {
		t.Errorf("explain %s: %v", host, err)
		return
	}
	if res.Failure != "" {
		t.Errorf("explain %s: containerd can use it, but: %s", host, res.Failure)
		return
	}
	type brief struct {
		URL          string
		Capabilities []hostconfig.Capability
		Header       http.Header
		SkipVerify   bool
		CAs, Pairs   bool
	}
	var a, b []brief
	for _, h := range want {
		a = append(a, brief{h.URL, h.Capabilities, h.Header, h.SkipVerify, h.RootCAs != nil, len(h.Certificates) > 0})
	}
	for _, h := range res.Hosts {
		b = append(b, brief{
			h.URL, h.Capabilities, hostconfig.HeaderOf(h), h.SkipVerify, hostconfig.HasCA(h), len(h.Client) > 0,
		})
	}
	if diff := cmp.Diff(a, b, cmp.Comparer(sameHeader)); diff != "" {
		t.Errorf("explain %s: containerd reads (-), Explain says (+):\n%s", host, diff)
	}
}

// meaning is what a registry's documentation promises.
func meaning(reg hostconfig.Registry, host string, v hostconfig.Version) []hostconfigtest.Host {
	var hosts []hostconfigtest.Host
	for _, m := range reg.Mirrors {
		hosts = append(hosts, mirrorMeaning(m, v))
	}
	if reg.Upstream == hostconfig.Deny {
		if len(hosts) == 1 { // stands there twice, for containerd before 1.7.32
			hosts = append(hosts, hosts[0])
		}
		return hosts
	}
	up := hostconfigtest.Host{
		URL: "https://" + host + "/v2",
		Capabilities: []hostconfig.Capability{
			hostconfig.CapabilityPull, hostconfig.CapabilityResolve, hostconfig.CapabilityPush,
			hostconfig.CapabilityReferrers,
		},
	}
	if host == "docker.io" {
		up.URL = "https://registry-1.docker.io/v2"
	}
	setTLS(&up, reg.TLS)
	plain := reg.TLS.CA.IsZero() && reg.TLS.Client == nil && !reg.TLS.SkipVerify
	if name, port, err := net.SplitHostPort(host); plain && (host == "localhost" || name == "localhost" ||
		net.ParseIP(name).IsLoopback()) {
		// containerd's own rule for a registry on the same machine: with an ambiguous port it tries HTTPS, and
		// then HTTP.
		up.SkipVerify = port != "80"
		if err == nil && port == "80" {
			up.URL = "http://" + host + "/v2"
		}
		return append(hosts, up)
	}
	if len(hosts) == 0 {
		hosts = append(hosts, up)
	}
	return append(hosts, up)
}

func mirrorMeaning(m hostconfig.Mirror, v hostconfig.Version) hostconfigtest.Host {
	h := hostconfigtest.Host{URL: m.URL + "/v2", Header: http.Header{}}
	if m.Path != "" {
		h.URL += "/" + m.Path
	}
	for _, c := range []hostconfig.Capability{
		hostconfig.CapabilityPull, hostconfig.CapabilityResolve, hostconfig.CapabilityPush,
		hostconfig.CapabilityReferrers,
	} {
		byDefault := len(m.Capabilities) == 0 && c != hostconfig.CapabilityPush && c != hostconfig.CapabilityReferrers
		known := c != hostconfig.CapabilityReferrers || v == v24
		if byDefault || slices.Contains(m.Capabilities, c) && known {
			h.Capabilities = append(h.Capabilities, c)
		}
	}
	for name, values := range m.Header {
		h.Header[http.CanonicalHeaderKey(name)] = values
	}
	setTLS(&h, m.TLS)
	hasTLS := h.SkipVerify || h.RootCAs != nil || h.Certificates != nil
	if rest, ok := strings.CutPrefix(h.URL, "http://"); ok && hasTLS && !strings.Contains(m.URL+"/", ":80/") {
		h.URL = "https://" + rest // tried first
	}
	return h
}

func setTLS(h *hostconfigtest.Host, conf hostconfig.TLS) {
	h.SkipVerify = conf.SkipVerify
	if !conf.CA.IsZero() {
		system, err := x509.SystemCertPool()
		if err != nil {
			panic(err)
		}
		h.RootCAs = conf.CA.Pool(system)
	}
	if conf.Client != nil {
		c, err := conf.Client.TLS()
		if err != nil {
			panic(err)
		}
		h.Certificates = []tls.Certificate{c}
	}
}

func cmpHosts() []cmp.Option {
	return []cmp.Option{
		cmp.Comparer(func(a, b *x509.CertPool) bool { return (a == nil) == (b == nil) && (a == nil || a.Equal(b)) }),
		cmp.Comparer(func(a, b tls.Certificate) bool {
			return slices.EqualFunc(a.Certificate, b.Certificate, bytes.Equal) &&
				fmt.Sprint(a.PrivateKey) == fmt.Sprint(b.PrivateKey)
		}),
		cmp.Comparer(sameHeader),
	}
}

// sameHeader takes no header and an empty one for the same.
func sameHeader(a, b http.Header) bool {
	if len(a) != len(b) {
		return false
	}
	for name := range a {
		if !slices.Equal(a[name], b[name]) {
			return false
		}
	}
	return true
}

// generator makes valid configs, with every setting set and unset.
type generator struct {
	*rand.Rand
	cas   []certs.Bundle
	pairs []*certs.KeyPair
}

func newGenerator(seed uint64) *generator {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0))}
	for n := range byte(4) {
		g.cas = append(g.cas, hostconfigtest.CA(n))
		g.pairs = append(g.pairs, hostconfigtest.KeyPair(n))
	}
	return g
}

func pick[T any](g *generator, list ...T) T { return list[g.IntN(len(list))] }

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

func (g *generator) registries() []hostconfig.Registry {
	hosts := []string{
		"docker.io", "_default", "registry.example.com", "registry.example.com:5000", "10.0.0.7:8443", "localhost",
		"localhost:5000", "127.0.0.1:80", "[::1]:5000", "[fd00::1]", "[fd00::1]:443", "ghcr.io", "UPPER.example.com",
	}
	g.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	var regs []hostconfig.Registry
	for _, host := range hosts[:1+g.IntN(4)] {
		regs = append(regs, g.registry(host))
	}
	return regs
}

func (g *generator) registry(host string) hostconfig.Registry {
	reg := hostconfig.Registry{Host: host, Upstream: pick(g, hostconfig.Allow, hostconfig.Deny), TLS: g.tls()}
	count := g.IntN(4)
	local := strings.HasPrefix(host, "localhost") || strings.HasPrefix(host, "127.") || strings.HasPrefix(host, "[::1]")
	if reg.Upstream == hostconfig.Deny || host == hostconfig.DefaultHost || local {
		count = max(count, 1)
	}
	seen := map[string]bool{}
	for len(reg.Mirrors) < count {
		m := g.mirror()
		if key := m.URL + "/" + m.Path; !seen[key] {
			seen[key] = true
			reg.Mirrors = append(reg.Mirrors, m)
		}
	}
	return reg
}

func (g *generator) mirror() hostconfig.Mirror {
	m := hostconfig.Mirror{
		URL: pick(g, "https://", "https://", "http://") + pick(g, "harbor.example.com", "harbor.example.com:8443",
			"a.example.com:80", "10.0.0.1", "[fd00::2]:5000", "[fd00::2]", "httpd.example.com", "cache_1:5000"),
		Path: pick(g, "", "", "proxy", "proxy/docker-hub", "a.b/c__d/e--f"),
		TLS:  g.tls(),
	}
	if g.chance(40) {
		m.Capabilities = []hostconfig.Capability{pick(g, hostconfig.CapabilityPull, hostconfig.CapabilityPush)}
		for _, c := range []hostconfig.Capability{
			hostconfig.CapabilityReferrers, hostconfig.CapabilityResolve, hostconfig.CapabilityPull,
		} {
			if g.chance(50) {
				m.Capabilities = append(m.Capabilities, c)
			}
		}
	}
	if g.chance(30) {
		m.Header = http.Header{pick(g, "Authorization", "x-tenant", "X-A.b|c"): {g.value()}}
		if g.chance(50) {
			m.Header["X-More"] = []string{g.value(), g.value()}
		}
	}
	m.DialTimeout = pick(g, 0, 0, 500*time.Millisecond, 90*time.Second)
	return m
}

// value is a header's value with what TOML has to quote.
func (g *generator) value() string {
	const alphabet = "abc 019\"'\\#=[]{}\t,é€𝄞\u0085\u2028\uFEFF"
	runes := []rune(alphabet)
	var b strings.Builder
	for range g.IntN(12) {
		b.WriteRune(runes[g.IntN(len(runes))])
	}
	return b.String()
}

func (g *generator) tls() hostconfig.TLS {
	var conf hostconfig.TLS
	if g.chance(40) {
		conf.CA = certs.Merge(pick(g, g.cas...), pick(g, g.cas...))
	}
	if g.chance(25) {
		conf.Client = pick(g, g.pairs...)
	}
	conf.SkipVerify = g.chance(15)
	return conf
}

func reset(t *testing.T, dir string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		if err := os.RemoveAll(dir + "/" + d.Name()); err != nil {
			t.Fatal(err)
		}
	}
}

func show(tree hostconfig.Tree) string {
	var b strings.Builder
	for _, p := range tree.Paths() {
		if strings.HasSuffix(p, hostconfig.HostsTOML) {
			fmt.Fprintf(&b, "-- %s --\n%s\n", p, tree[p].Data)
		}
	}
	return b.String()
}
