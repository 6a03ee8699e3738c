package hostconfig_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"github.com/hotplate-dev/hotplate/certs"
	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/hostconfigtest"
)

var update = flag.Bool("update", false, "write the golden files")

func goldenCases() map[string][]hostconfig.Registry {
	harbor := hostconfig.Mirror{URL: "https://harbor.example.com", Path: "proxy-docker-hub",
		TLS: hostconfig.TLS{CA: hostconfigtest.CA(1)}}
	backup := hostconfig.Mirror{URL: "https://backup.example.com:8443", TLS: hostconfig.TLS{CA: hostconfigtest.CA(2)}}
	login := hostconfig.Mirror{URL: "https://models.example.com", Path: "llm",
		Header:       http.Header{"authorization": {"Basic dXNlcjpwYXNz"}, "X-Tenant": {"a", "b \"c\""}},
		TLS:          hostconfig.TLS{CA: hostconfigtest.CA(1), Client: hostconfigtest.KeyPair(3)},
		Capabilities: []hostconfig.Capability{"referrers", "resolve", "pull", "push"},
		DialTimeout:  500 * time.Millisecond}
	plain := hostconfig.Mirror{URL: "http://127.0.0.1:5000"}
	return map[string][]hostconfig.Registry{
		"cache": {{Host: "docker.io", Upstream: hostconfig.Allow, Mirrors: []hostconfig.Mirror{harbor}}},
		"wall":  {{Host: "docker.io", Upstream: hostconfig.Deny, Mirrors: []hostconfig.Mirror{harbor}}},
		"wall-two-mirrors": {
			{Host: "docker.io", Upstream: hostconfig.Deny, Mirrors: []hostconfig.Mirror{backup, harbor}},
		},
		"wall-with-login": {
			{Host: "registry.example.com:5000", Upstream: hostconfig.Deny, Mirrors: []hostconfig.Mirror{login}},
		},
		"cache-with-login": {{Host: "registry.example.com:5000", Upstream: hostconfig.Allow,
			Mirrors: []hostconfig.Mirror{login, backup},
			TLS: hostconfig.TLS{
				CA: certs.Merge(hostconfigtest.CA(3), hostconfigtest.CA(2)), Client: hostconfigtest.KeyPair(1),
			}}},
		"registry-with-private-ca": {{Host: "harbor.example.com", Upstream: hostconfig.Allow,
			TLS: hostconfig.TLS{CA: hostconfigtest.CA(1)}}},
		"registry-exempt-from-default": {{Host: "quay.io", Upstream: hostconfig.Allow}},
		"default": {
			{Host: "_default", Upstream: hostconfig.Allow, Mirrors: []hostconfig.Mirror{plain},
				TLS: hostconfig.TLS{CA: hostconfigtest.CA(1)}},
		},
		"default-wall": {
			{Host: "_default", Upstream: hostconfig.Deny, Mirrors: []hostconfig.Mirror{plain, harbor}},
		},
		"same-machine": {
			{Host: "localhost:5000", Upstream: hostconfig.Allow, Mirrors: []hostconfig.Mirror{plain}},
		},
		"addresses": {
			{Host: "[::1]:5000", Upstream: hostconfig.Deny, Mirrors: []hostconfig.Mirror{plain}},
			{Host: "[fd00::1]", Upstream: hostconfig.Allow, TLS: hostconfig.TLS{SkipVerify: true}},
			{Host: "10.0.0.1:5000", Upstream: hostconfig.Allow, Mirrors: []hostconfig.Mirror{harbor}},
		},
	}
}

func TestRenderGolden(t *testing.T) {
	for name, regs := range goldenCases() {
		for version, v := range map[string]hostconfig.Version{"1.7": v17, "2.4": v24} {
			t.Run(name+"/"+version, func(t *testing.T) {
				tree, err := hostconfig.Render(regs, v)
				if err != nil {
					t.Fatal(err)
				}
				golden(t, filepath.Join("testdata", "render", name+"-"+version+".golden"), listing(tree))
			})
		}
	}
}

// listing shows a tree: hosts.toml in full, of PEM files the hash.
func listing(tree hostconfig.Tree) string {
	var b strings.Builder
	for _, p := range tree.Paths() {
		f := tree[p]
		fmt.Fprintf(&b, "-- %s %#o --\n", p, f.Mode)
		if strings.HasSuffix(p, ".pem") {
			fmt.Fprintf(&b, "sha256 %s\n", f.SHA256())
			continue
		}
		b.Write(f.Data)
	}
	return b.String()
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run with -update to write it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got, -update writes it):\n%s", path, diff)
	}
}

func TestRenderIsDeterministic(t *testing.T) {
	gen := newGenerator(7)
	for range 200 {
		regs := gen.registries()
		a, errA := hostconfig.Render(regs, v24)
		gen.Shuffle(len(regs), func(i, j int) { regs[i], regs[j] = regs[j], regs[i] })
		b, errB := hostconfig.Render(regs, v24)
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if diff := cmp.Diff(a, b); diff != "" {
			t.Fatalf("the order of registries changes the tree:\n%s", diff)
		}
	}
}

func TestRenderedFilesThatHoldSecretsArePrivate(t *testing.T) {
	gen := newGenerator(8)
	for range 300 {
		tree, err := hostconfig.Render(gen.registries(), v24)
		if err != nil {
			t.Fatal(err)
		}
		for p, f := range tree {
			secret := strings.Contains(string(f.Data), "PRIVATE KEY") || strings.Contains(string(f.Data), "header]")
			if want := map[bool]os.FileMode{true: 0o600, false: 0o644}[secret]; f.Mode != want {
				t.Errorf("%s has mode %#o, want %#o", p, f.Mode, want)
			}
			for _, suffix := range []string{".crt", ".cert", ".key"} {
				if strings.HasSuffix(p, suffix) {
					t.Errorf("%s: containerd would use it towards upstream when hosts.toml does not parse", p)
				}
			}
			if strings.HasSuffix(p, hostconfig.HostsTOML) && !hostconfig.IsManaged(f.Data) {
				t.Errorf("%s does not begin with the header", p)
			}
		}
	}
}

func TestRenderRefuses(t *testing.T) {
	good := hostconfig.Mirror{URL: "https://m.example.com"}
	with := func(change func(m *hostconfig.Mirror)) []hostconfig.Registry {
		m := good
		change(&m)
		return []hostconfig.Registry{{Host: "docker.io", Upstream: hostconfig.Allow, Mirrors: []hostconfig.Mirror{m}}}
	}
	host := func(h string) []hostconfig.Registry {
		return []hostconfig.Registry{{Host: h, Upstream: hostconfig.Allow, Mirrors: []hostconfig.Mirror{good}}}
	}
	url := func(u string) []hostconfig.Registry { return with(func(m *hostconfig.Mirror) { m.URL = u }) }
	path := func(p string) []hostconfig.Registry { return with(func(m *hostconfig.Mirror) { m.Path = p }) }
	header := func(name string, values ...string) []hostconfig.Registry {
		return with(func(m *hostconfig.Mirror) { m.Header = http.Header{name: values} })
	}
	for name, tc := range map[string]struct {
		regs []hostconfig.Registry
		v    hostconfig.Version
		want string
	}{
		"a host that leads out":          {regs: host("../../etc"), want: "host"},
		"a host with a slash":            {regs: host("a.example.com/b"), want: `'/'`},
		"a host with a NUL":              {regs: host("a\x00.example.com"), want: `'\x00'`},
		"a host with a space":            {regs: host("a b.example.com"), want: `' '`},
		"a wildcard":                     {regs: host("*.example.com"), want: `'*'`},
		"an empty host":                  {regs: host(""), want: "it has no name"},
		"a host with a leading dot":      {regs: host(".example.com"), want: "empty part"},
		"the shared directory as a host": {regs: host(".hotplate"), want: "empty part"},
		"a host with a leading dash":     {regs: host("-a.example.com"), want: "dash"},
		"a host that is only dots":       {regs: host(".."), want: "empty part"},
		"a host with an underscore":      {regs: host("a_5000_"), want: `'_'`},
		"a host with a scheme":           {regs: host("https://a.example.com"), want: "host"},
		"a host with an empty port":      {regs: host("a.example.com:"), want: "port"},
		"a host with a port too high":    {regs: host("a.example.com:65536"), want: "port"},
		"an IPv6 host without brackets":  {regs: host("fd00::1"), want: "host"},
		"an IPv6 host with a zone":       {regs: host("[fe80::1%eth0]"), want: "without zone"},
		"a host that is too long":        {regs: host(strings.Repeat("a.", 200) + "com"), want: "longer"},
		"a host twice": {
			regs: append(host("a.example.com"), host("a.example.com")...), want: "entry 2 is a second one",
		},
		"a URL without scheme":           {regs: url("m.example.com"), want: "https://"},
		"a URL that only looks like one": {regs: url("httpd.example.com:5000"), want: "https://"},
		"a URL with another scheme":      {regs: url("ftp://m.example.com"), want: "https://"},
		"a URL with a path":              {regs: url("https://m.example.com/v2/x"), want: "belongs in path"},
		"a URL with a slash":             {regs: url("https://m.example.com/"), want: "belongs in path"},
		"a URL with a query":             {regs: url("https://m.example.com?x=y"), want: "belongs in path"},
		"a URL with a fragment":          {regs: url("https://m.example.com#x"), want: "belongs in path"},
		"a URL with a login":             {regs: url("https://user:hunter2@m.example.com"), want: "login"},
		"a URL with a bad port":          {regs: url("https://m.example.com:0"), want: "port"},
		"a URL in capitals":              {regs: url("HTTPS://m.example.com"), want: "plain form"},
		"a URL without host":             {regs: url("https://"), want: "no host"},
		"a path with v2":                 {regs: path("v2/library"), want: "leave that out"},
		"a path that is v2":              {regs: path("v2"), want: "leave that out"},
		"a path that leads out":          {regs: path("a/../../b"), want: "not a path component"},
		"a path with a leading slash":    {regs: path("/a"), want: "not a path component"},
		"a path with capitals":           {regs: path("Proxy"), want: "not a path component"},
		"a path with a query":            {regs: path("a?b"), want: "not a path component"},
		"a header with a line break":     {regs: header("X-A", "hunter2\r\nX-B: c"), want: "line break"},
		"a header that is not UTF-8":     {regs: header("X-A", "\xff"), want: "not UTF-8"},
		"a header name with a space":     {regs: header("X A", "b"), want: "not a header name"},
		"a header without a value":       {regs: header("X-A"), want: "no value"},
		"the Host header":                {regs: header("host", "b"), want: "cannot be set"},
		"a header in two spellings": {
			regs: with(func(m *hostconfig.Mirror) { m.Header = http.Header{"x-a": {"b"}, "X-A": {"b"}} }),
			want: "twice",
		},
		"an unknown capability": {
			regs: with(func(m *hostconfig.Mirror) { m.Capabilities = []hostconfig.Capability{"delete"} }),
			want: "delete",
		},
		"referrers only, on an old containerd": {
			regs: with(func(m *hostconfig.Mirror) { m.Capabilities = []hostconfig.Capability{"referrers"} }), v: v17,
			want: "referrers is its only capability",
		},
		"a negative timeout": {
			regs: with(func(m *hostconfig.Mirror) { m.DialTimeout = -1 }), want: "negative",
		},
		"an empty client certificate": {
			regs: with(func(m *hostconfig.Mirror) { m.TLS.Client = &certs.KeyPair{} }), want: "is empty",
		},
		"no upstream": {
			regs: []hostconfig.Registry{{Host: "docker.io", Mirrors: []hostconfig.Mirror{good}}},
			want: "Allow or Deny",
		},
		"a wall of nothing": {
			regs: []hostconfig.Registry{{Host: "docker.io", Upstream: hostconfig.Deny}}, want: "no mirror",
		},
		"a mirror twice": {
			regs: []hostconfig.Registry{{
				Host: "docker.io", Upstream: hostconfig.Allow, Mirrors: []hostconfig.Mirror{good, good},
			}},
			want: "twice",
		},
		"an old bare default": {
			regs: []hostconfig.Registry{{Host: "_default", Upstream: hostconfig.Allow}}, v: v17, want: "1.7.32",
		},
		"an IPv6 mirror, and the version not known": {regs: url("https://[fd00::1]"), want: "version is not known"},
		"a bare default": {
			regs: []hostconfig.Registry{{Host: "_default", Upstream: hostconfig.Allow}}, want: "containerd unknown",
		},
	} {
		t.Run(name, func(t *testing.T) {
			tree, err := hostconfig.Render(tc.regs, tc.v)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got error %v, want one with %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows a secret: %v", err)
			}
			if tree != nil {
				t.Error("there is a tree beside the error")
			}
		})
	}
}

func TestRenderReportsAllFaults(t *testing.T) {
	_, err := hostconfig.Render([]hostconfig.Registry{
		{Host: "bad host", Upstream: "maybe"},
		{Host: "docker.io", Upstream: hostconfig.Allow, Mirrors: []hostconfig.Mirror{
			{URL: "x"}, {URL: "https://m.example.com", Path: "../x", Header: http.Header{"A": {"\n"}, "B": nil}},
		}},
	}, v24)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"bad host", `upstream is "maybe"`, "mirror 1", "mirror 2", "header A", "header B"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
}

// The [host] table may be missing where the version reads such a file.
func TestRenderDefaultWithoutMirrorsWhereItCanBeRead(t *testing.T) {
	tree, err := hostconfig.Render([]hostconfig.Registry{
		{Host: "_default", Upstream: hostconfig.Allow, TLS: hostconfig.TLS{CA: hostconfigtest.CA(1)}},
	}, hostconfig.Version{Major: 1, Minor: 7, Patch: 32})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := hostconfigtest.WriteTree(dir, tree); err != nil {
		t.Fatal(err)
	}
	hosts, err := hostconfigtest.Load(t.Context(), dir, "r.example.com")
	if err != nil {
		t.Fatal(err)
	}
	if len(hosts) != 1 || hosts[0].RootCAs == nil || hosts[0].URL != "https://r.example.com/v2" {
		t.Errorf("got %+v", hosts)
	}
}

// What the emitter writes reads back as it was, whatever it is.
func FuzzTOMLString(f *testing.F) {
	for _, s := range []string{"", "a", `"\`, "\x00\x1f\x7f\t\n", "é𝄞\u0085\u2028", "a.b-c_d", "# ' ="} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		key, value = strings.ToValidUTF8(key, "?"), strings.ToValidUTF8(value, "?")
		var got map[string]map[string]string
		k := hostconfig.TOMLKey(key)
		doc := fmt.Sprintf("[%s]\n%s = %s\n", k, k, hostconfig.TOMLString(value))
		if err := toml.Unmarshal([]byte(doc), &got); err != nil {
			t.Fatalf("%q does not parse: %v", doc, err)
		}
		if diff := cmp.Diff(map[string]map[string]string{key: {key: value}}, got); diff != "" {
			t.Fatalf("%q (-want +got):\n%s", doc, diff)
		}
	})
}

func TestHostNames(t *testing.T) {
	for host, want := range map[string][]string{
		"docker.io":          {"docker.io", "_default"},
		"r.example.com:5000": {"r.example.com_5000_", "r.example.com:5000", "_default"},
		"[::1]:5000":         {"[::1]_5000_", "[::1]:5000", "_default"},
		"[fd00::1]":          {"[fd00:_1]_", "[fd00::1]", "_default"},
		"_default":           {"_default"},
	} {
		if err := hostconfig.ValidHost(host); err != nil {
			t.Errorf("%s: %v", host, err)
		}
		if diff := cmp.Diff(want, hostconfig.LookupDirs(host)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", host, diff)
		}
		for _, dir := range want {
			if got := hostconfig.HostOfDir(dir); got != host && dir != hostconfig.DefaultHost {
				t.Errorf("%s is the directory of %s, not of %s", dir, host, got)
			}
		}
	}
}

// Names that are accepted stay inside of the directory, and back and forth they are the same.
func FuzzValidHost(f *testing.F) {
	for _, s := range []string{
		"docker.io", "[::1]:5000", "a:1", "..", "a/b", "[fd00::1]", "_default", "a_1_", "[::ffff:1.2.3.4]",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if hostconfig.ValidHost(host) != nil {
			return
		}
		for _, dir := range hostconfig.LookupDirs(host) {
			if !filepath.IsLocal(dir) || strings.ContainsAny(dir, "/\x00") || strings.HasPrefix(dir, ".") {
				t.Fatalf("%q leads to %q", host, dir)
			}
		}
		if got := hostconfig.HostOfDir(hostconfig.HostDir(host)); got != host {
			t.Fatalf("the directory of %q is that of %q", host, got)
		}
	})
}

func TestGeneratorCoversEverySetting(t *testing.T) {
	g := &generator{Rand: rand.New(rand.NewPCG(1, 0))}
	g.cas, g.pairs = []certs.Bundle{hostconfigtest.CA(0)}, []*certs.KeyPair{hostconfigtest.KeyPair(0)}
	seen := map[string]bool{}
	for range 500 {
		for _, r := range g.registries() {
			seen[string(r.Upstream)] = true
			seen[fmt.Sprint("mirrors ", len(r.Mirrors))] = true
			seen[fmt.Sprint("own client ", r.TLS.Client != nil)] = true
			for _, m := range r.Mirrors {
				seen[fmt.Sprint("header ", m.Header != nil)] = true
				seen[fmt.Sprint("skip ", m.TLS.SkipVerify)] = true
				seen[fmt.Sprint("path ", m.Path != "")] = true
			}
		}
	}
	for _, want := range []string{"Allow", "Deny", "mirrors 0", "mirrors 1", "mirrors 3", "own client true",
		"header true",
		"skip true", "path true", "path false"} {
		if !seen[want] {
			t.Errorf("no config has %q", want)
		}
	}
}
