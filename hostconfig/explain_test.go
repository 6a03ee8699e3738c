package hostconfig_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/hostconfigtest"
)

func version(t testing.TB, s string) hostconfig.Version {
	t.Helper()
	v, err := hostconfig.ParseVersion(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// codes returns the codes of all warnings that are more than information.
func codes(list []hostconfig.Warning) []string {
	var out []string
	for _, w := range list {
		if w.Severity != hostconfig.Info {
			out = append(out, w.Code)
		}
	}
	return out
}

// hostsTOML is a hosts directory with one file.
func hostsTOML(data string) map[string]string {
	return map[string]string{"r.example.com/hosts.toml": data}
}

func urls(res hostconfig.Resolution) []string {
	var out []string
	for _, h := range res.Hosts {
		out = append(out, h.URL)
	}
	return out
}

func TestExplain(t *testing.T) {
	const wall = "server = \"https://m.example.com\"\n[host.\"https://m.example.com\"]\n"
	const cache = "[host.\"https://m.example.com\"]\n"
	ca := string(hostconfigtest.CA(1).PEM())
	for name, tc := range map[string]struct {
		files map[string]string // a name that ends in a slash is a directory
		host  string            // default r.example.com
		v     string            // default 2.4

		dir      string
		urls     []string
		upstream hostconfig.UpstreamUse
		when     string // part of it
		codes    []string
	}{
		"nothing": {
			urls: []string{"https://r.example.com/v2"}, upstream: hostconfig.UpstreamAlways, when: "no directory",
		},
		"Docker Hub has another name": {
			host: "docker.io", urls: []string{"https://registry-1.docker.io/v2"}, upstream: hostconfig.UpstreamAlways,
		},
		"a cache": {
			files: hostsTOML(cache), dir: "r.example.com",
			urls:     []string{"https://m.example.com/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast, when: "when every mirror above fails or lacks the image",
		},
		"a wall": {
			files: hostsTOML(wall), dir: "r.example.com",
			urls:     []string{"https://m.example.com/v2", "https://m.example.com/v2"},
			upstream: hostconfig.UpstreamNever, when: "never",
		},
		"the registry itself as server": {
			files: hostsTOML("server = \"https://r.example.com:443\"\n" + cache),
			dir:   "r.example.com", urls: []string{"https://m.example.com/v2", "https://r.example.com:443/v2"},
			upstream: hostconfig.UpstreamLast,
		},
		"Docker Hub as server, by its other name": {
			host:  "docker.io",
			files: map[string]string{"docker.io/hosts.toml": "server = \"https://registry-1.docker.io\"\n" + cache},
			dir:   "docker.io", urls: []string{"https://m.example.com/v2", "https://registry-1.docker.io/v2"},
			upstream: hostconfig.UpstreamLast,
		},
		"the default directory": {
			files: map[string]string{"_default/hosts.toml": cache}, dir: "_default",
			urls:     []string{"https://m.example.com/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast,
		},
		"both spellings: the one with underscores wins": {
			host: "r.example.com:5000",
			files: map[string]string{
				"r.example.com_5000_/hosts.toml": wall, "r.example.com:5000/hosts.toml": cache,
			},
			dir: "r.example.com_5000_", urls: []string{"https://m.example.com/v2", "https://m.example.com/v2"},
			upstream: hostconfig.UpstreamNever, codes: []string{"shadowed"},
		},
		"an empty directory hides the default": {
			files: map[string]string{"_default/hosts.toml": wall, "r.example.com/": ""}, dir: "r.example.com",
			urls:     []string{"https://r.example.com/v2"},
			upstream: hostconfig.UpstreamAlways, codes: []string{"hides-default"},
		},
		"an empty file": {
			files: hostsTOML(""), dir: "r.example.com",
			urls:     []string{"https://r.example.com/v2"},
			upstream: hostconfig.UpstreamAlways, when: "it is empty", codes: []string{"empty-file"},
		},
		"bad TOML": {
			files: hostsTOML(wall + "x = \n"), dir: "r.example.com",
			urls:     []string{"https://r.example.com/v2"},
			upstream: hostconfig.UpstreamAlways, when: "line 3", codes: []string{"rejected"},
		},
		"no host table, before 1.7.32": {
			files: hostsTOML("server = \"https://m.example.com\"\n"), v: "1.7.31",
			dir: "r.example.com", urls: []string{"https://r.example.com/v2"},
			upstream: hostconfig.UpstreamAlways, when: "invalid `host` tree", codes: []string{"rejected"},
		},
		"no host table, from 1.7.32 on": {
			files: hostsTOML("server = \"https://m.example.com\"\n"), v: "1.7.32",
			dir: "r.example.com", urls: []string{"https://m.example.com/v2"}, upstream: hostconfig.UpstreamNever,
		},
		"referrers, before 2.2": {
			files: hostsTOML(wall + "capabilities = [\"pull\", \"referrers\"]\n"), v: "2.1",
			dir: "r.example.com", urls: []string{"https://r.example.com/v2"},
			upstream: hostconfig.UpstreamAlways, when: "referrers", codes: []string{"rejected"},
		},
		"a bad timeout, where the key is known": {
			files: hostsTOML(wall + "dial_timeout = \"2\"\n"), v: "2.0.7",
			dir: "r.example.com", urls: []string{"https://r.example.com/v2"},
			upstream: hostconfig.UpstreamAlways, when: "dial_timeout", codes: []string{"rejected"},
		},
		"a bad timeout, where the key is not known": {
			files: hostsTOML(wall + "dial_timeout = 2\n"), v: "2.0.6",
			dir: "r.example.com", urls: []string{"https://m.example.com/v2", "https://m.example.com/v2"},
			upstream: hostconfig.UpstreamNever,
		},
		"an IPv6 address in a table header, on 1.x": {
			files: hostsTOML("[host.\"https://[fd00::1]\"]\n"), v: "1.7",
			dir: "r.example.com", urls: []string{"https://r.example.com/v2"},
			upstream: hostconfig.UpstreamAlways, when: "brackets", codes: []string{"rejected"},
		},
		"inline hosts, on 2.x": {
			files: hostsTOML("host.\"https://m.example.com\".skip_verify = false\n"),
			dir:   "r.example.com", urls: []string{"https://r.example.com/v2"},
			upstream: hostconfig.UpstreamAlways, when: "no mirror comes before it", codes: []string{"inline-host"},
		},
		"inline hosts, on 1.x": {
			files: hostsTOML("host.\"https://m.example.com\".skip_verify = false\n"), v: "1.7",
			dir: "r.example.com", urls: []string{"https://m.example.com/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast,
		},
		"a header far from its host": {
			files: map[string]string{"r.example.com/hosts.toml": cache + "[host.\"https://n.example.com\"]\n" +
				"[host.\"https://m.example.com\".header]\nx-a = \"b\"\n"},
			dir: "r.example.com", urls: []string{"https://m.example.com/v2", "https://n.example.com/v2",
				"https://m.example.com/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast, codes: []string{"host-twice"},
		},
		"a missing CA": {
			files: hostsTOML(cache + "ca = \"ca.pem\"\n"), dir: "r.example.com",
			urls:     []string{"https://m.example.com/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamNever, when: "every pull fails", codes: []string{"bad-ca"},
		},
		"a CA that is none": {
			files: map[string]string{"r.example.com/hosts.toml": cache + "ca = [\"ca.pem\"]\n",
				"r.example.com/ca.pem": "x"},
			dir: "r.example.com", urls: []string{"https://m.example.com/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamNever, when: "no certificate", codes: []string{"bad-ca"},
		},
		"a CA by a relative path": {
			files: map[string]string{"r.example.com/hosts.toml": cache + "ca = \"../x/ca.pem\"\n", "x/ca.pem": ca},
			dir:   "r.example.com", urls: []string{"https://m.example.com/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast,
		},
		"a client certificate without its key": {
			files: map[string]string{"r.example.com/hosts.toml": cache + "client = \"c.pem\"\n",
				"r.example.com/c.pem": ca},
			dir: "r.example.com", urls: []string{"https://m.example.com/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamNever, when: "every pull fails", codes: []string{"bad-client"},
		},
		"Docker's layout": {
			files: map[string]string{"r.example.com/ca.crt": ca}, dir: "r.example.com",
			urls:     []string{"https://r.example.com/v2"},
			upstream: hostconfig.UpstreamAlways,
			codes:    []string{"no-hosts-file"},
		},
		"a client certificate that a bad file hands to upstream": {
			files: map[string]string{
				"r.example.com/hosts.toml": "x", "r.example.com/c.cert": pairPEM(), "r.example.com/ca.crt": ca,
			},
			dir: "r.example.com", urls: []string{"https://r.example.com/v2"},
			upstream: hostconfig.UpstreamAlways, codes: []string{"rejected", "client-cert-to-upstream"},
		},
		"a file in the place of the directory": {
			files: map[string]string{"r.example.com": "x"}, upstream: hostconfig.UpstreamNever, when: "not a directory",
		},
		"a directory in the place of the file": {
			files: map[string]string{"r.example.com/hosts.toml/": ""}, dir: "r.example.com",
			upstream: hostconfig.UpstreamNever, when: "not a regular file",
		},
		"Harbor without override_path": {
			files: hostsTOML("server = \"https://m.example.com/v2/proj\"\n"),
			dir:   "r.example.com", urls: []string{"https://m.example.com/v2/proj/v2"},
			upstream: hostconfig.UpstreamNever, codes: []string{"no-override-path"},
		},
		"two v2": {
			files: hostsTOML("[host.\"https://m.example.com/v2/proj/v2\"]\noverride_path = true\n"),
			dir:   "r.example.com", urls: []string{"https://m.example.com/v2/proj/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast, codes: []string{"double-v2"},
		},
		"override_path and no v2": {
			files: hostsTOML("[host.\"https://m.example.com/proj\"]\noverride_path = true\n"),
			dir:   "r.example.com", urls: []string{"https://m.example.com/proj", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast, codes: []string{"no-v2"},
		},
		"a URL without scheme": {
			files: hostsTOML("[host.\"m.example.com:5000\"]\n"), dir: "r.example.com",
			urls:     []string{"https://m.example.com:5000/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast, codes: []string{"no-scheme"},
		},
		"a URL without scheme that begins with http": {
			files: hostsTOML("server = \"httpd.example.com:5000\"\n[host.\"https://m.example.com\"]\n"),
			dir:   "r.example.com", urls: []string{"https://m.example.com/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast, codes: []string{"bad-url"},
		},
		"a login in a URL": {
			files: hostsTOML("[host.\"https://u:hunter2@m.example.com\"]\n"),
			dir:   "r.example.com", urls: []string{"https://m.example.com/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast, codes: []string{"login-in-url"},
		},
		"http with TLS options": {
			files: hostsTOML("[host.\"http://m.example.com:5000\"]\nskip_verify = true\n"),
			dir:   "r.example.com", urls: []string{"https://m.example.com:5000/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast, codes: []string{"skip-verify"},
		},
		"http with TLS options, on 1.6.24": {
			files: hostsTOML("[host.\"http://m.example.com:5000\"]\nskip_verify = true\n"), v: "1.6.24",
			dir: "r.example.com", urls: []string{"http://m.example.com:5000/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast, codes: []string{"skip-verify"},
		},
		"http with TLS options, on 1.6.25": {
			files: hostsTOML("[host.\"http://m.example.com:5000\"]\nskip_verify = true\n"), v: "1.6.25",
			dir: "r.example.com", urls: []string{"https://m.example.com:5000/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast, codes: []string{"skip-verify"},
		},
		"http with TLS options, on 1.7.6": {
			files: hostsTOML("[host.\"http://m.example.com:5000\"]\nskip_verify = true\n"), v: "1.7.6",
			dir: "r.example.com", urls: []string{"http://m.example.com:5000/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast, codes: []string{"skip-verify"},
		},
		"http without port and with TLS options, on 1.6.25": {
			files: hostsTOML("[host.\"http://m.example.com\"]\nskip_verify = true\n"), v: "1.6.25",
			dir: "r.example.com", urls: []string{"http://m.example.com/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast, codes: []string{"skip-verify"},
		},
		"http with a timeout, on 2.0": {
			files: hostsTOML("[host.\"http://m.example.com:5000\"]\ndial_timeout = \"2s\"\n"), v: "2.0.14",
			dir: "r.example.com", urls: []string{"https://m.example.com:5000/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast,
		},
		"upstream for push only still gets blobs": {
			files: hostsTOML("server = \"https://r.example.com\"\ncapabilities = [\"push\"]\n" + cache),
			dir:   "r.example.com", urls: []string{"https://m.example.com/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast, codes: []string{"blobs-despite-capabilities"},
		},
		"capabilities without server": {
			files: hostsTOML("capabilities = [\"push\"]\n" + cache), dir: "r.example.com",
			urls:     []string{"https://m.example.com/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast, codes: []string{"ignored-without-server"},
		},
		"nobody resolves tags": {
			files: hostsTOML("server = \"https://m.example.com\"\ncapabilities = [\"pull\"]\n"),
			dir:   "r.example.com", urls: []string{"https://m.example.com/v2"},
			upstream: hostconfig.UpstreamNever, codes: []string{"no-resolve-host"},
		},
		"server without the TLS of its host table": {
			files: map[string]string{"r.example.com/hosts.toml": wall + "ca = \"ca.pem\"\n",
				"r.example.com/ca.pem": ca},
			dir: "r.example.com", urls: []string{"https://m.example.com/v2", "https://m.example.com/v2"},
			upstream: hostconfig.UpstreamNever, codes: []string{"server-without-tls"},
		},
		"a misspelt key": {
			files: hostsTOML(wall + "overridepath = true\n"), dir: "r.example.com",
			urls:     []string{"https://m.example.com/v2", "https://m.example.com/v2"},
			upstream: hostconfig.UpstreamNever, codes: []string{"unknown-key"},
		},
		"server below a table": {
			files: hostsTOML(cache + "server = \"https://m.example.com\"\n"),
			dir:   "r.example.com", urls: []string{"https://m.example.com/v2", "https://r.example.com/v2"},
			upstream: hostconfig.UpstreamLast, codes: []string{"misplaced-key"},
		},
		"a registry on the same machine": {
			host: "localhost:5000", urls: []string{"https://localhost:5000/v2"}, upstream: hostconfig.UpstreamAlways,
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for p, data := range tc.files {
				name := filepath.Join(dir, p)
				if strings.HasSuffix(p, "/") {
					must(t, os.MkdirAll(name, 0o755))
					continue
				}
				must(t, os.MkdirAll(filepath.Dir(name), 0o755))
				must(t, os.WriteFile(name, []byte(data), 0o644))
			}
			host, v := tc.host, version(t, "2.4")
			if host == "" {
				host = "r.example.com"
			}
			if tc.v != "" {
				v = version(t, tc.v)
			}
			res, err := hostconfig.Explain(os.DirFS(dir), host, v)
			must(t, err)
			if res.Dir != tc.dir || res.Upstream != tc.upstream || !strings.Contains(res.UpstreamWhen, tc.when) {
				t.Errorf("got directory %q, upstream %q (%s); want %q, %q (%s)", res.Dir, res.Upstream,
					res.UpstreamWhen, tc.dir, tc.upstream, tc.when)
			}
			if diff := cmp.Diff(tc.urls, urls(res)); diff != "" {
				t.Errorf("URLs (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.codes, codes(res.Warnings)); diff != "" {
				t.Errorf("warnings (-want +got):\n%s\n%v", diff, res.Warnings)
			}
			if strings.Contains(fmt.Sprintf("%+v", res.Warnings), "hunter2") {
				t.Errorf("a warning shows a login: %v", res.Warnings)
			}
			if tc.v == "" {
				agreesWithContainerd(t, dir, host, res)
			}
		})
	}
}

// agreesWithContainerd asks containerd's own parser.
func agreesWithContainerd(t *testing.T, dir, host string, res hostconfig.Resolution) {
	t.Helper()
	hosts, err := hostconfigtest.Load(t.Context(), dir, host)
	if (err != nil) != (res.Failure != "") {
		t.Errorf("containerd's error is %v, Explain's %q", err, res.Failure)
	}
	if err != nil {
		return
	}
	var want []string
	for _, h := range hosts {
		want = append(want, h.URL)
	}
	if diff := cmp.Diff(want, urls(res)); diff != "" {
		t.Errorf("containerd (-), Explain (+):\n%s", diff)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pairPEM() string {
	k := hostconfigtest.KeyPair(1)
	return string(slices.Concat(k.CertPEM(), k.KeyPEM()))
}

func TestExplainNeverShowsASecret(t *testing.T) {
	const secret = "aHVudGVyMg=="
	fsys := fstest.MapFS{
		"r.example.com/hosts.toml": {Mode: 0o644, Data: []byte("[host.\"https://m.example.com\"]\n" +
			"[host.\"https://m.example.com\".header]\nAuthorization = \"Basic " + secret + "\"\n" +
			"authorization = \"" + secret + "\"\nX-Key = [\"" + secret + "\"]\n")},
		"bad.example.com/hosts.toml": {
			Data: []byte("[header]\nX-Key = \"" + secret + "\"\nX-Key = \"" + secret + "\"\n"),
		},
		"int.example.com/hosts.toml": {Data: []byte("[header]\nX-Key = [\"" + secret + "\", 5]\n")},
	}
	for _, host := range []string{"r.example.com", "bad.example.com", "int.example.com"} {
		res, err := hostconfig.Explain(fsys, host, v24)
		must(t, err)
		var shown strings.Builder
		fmt.Fprintln(&shown, res.Rejected, res.Failure, res.UpstreamWhen, res.Warnings)
		for _, h := range res.Hosts {
			fmt.Fprintln(&shown, h.URL, h.Headers)
		}
		if strings.Contains(shown.String(), secret) {
			t.Errorf("%s: the secret is shown:\n%s", host, shown.String())
		}
		if host == "r.example.com" {
			want := []string{"Authorization: Basic (redacted)", "X-Key: (redacted)", "authorization: (redacted)"}
			if diff := cmp.Diff(want, res.Hosts[0].Headers); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
			if !slices.Contains(codes(res.Warnings), "readable-secret") {
				t.Errorf("no warning of the file's mode in %v", res.Warnings)
			}
		}
	}
}

func TestExplainAtFindsAbsolutePathsInTheHostsDirectory(t *testing.T) {
	fsys := fstest.MapFS{
		"r.example.com/hosts.toml": {
			Data: []byte("[host.\"https://m.example.com\"]\nca = \"/etc/containerd/certs.d/x/ca.pem\"\n"),
		},
		"o.example.com/hosts.toml": {Data: []byte("[host.\"https://m.example.com\"]\nca = \"/elsewhere/ca.pem\"\n")},
		"x/ca.pem":                 {Data: hostconfigtest.CA(1).PEM()},
	}
	for host, want := range map[string]string{"r.example.com": "x/ca.pem", "o.example.com": "/elsewhere/ca.pem"} {
		res, err := hostconfig.ExplainAt(fsys, "/etc/containerd/certs.d/", host, v24)
		must(t, err)
		if res.Failure != "" || !slices.Equal(res.Hosts[0].CA, []string{want}) {
			t.Errorf("%s: got %v and failure %q, want %s", host, res.Hosts[0].CA, res.Failure, want)
		}
	}
}

func TestExplainRefusesWhatNoImageCanName(t *testing.T) {
	for _, host := range []string{"../etc", "", "a b", "https://x.example.com"} {
		if _, err := hostconfig.Explain(fstest.MapFS{}, host, v24); err == nil {
			t.Errorf("%q is explained", host)
		}
	}
}

// FuzzParseHosts compares with containerd 2.4's own parser, through a directory on disk.
func FuzzParseHosts(f *testing.F) {
	f.Add([]byte("server = \"https://a\"\nca = \"ca.pem\"\n" +
		"[host.\"https://b/v2/x\"]\noverride_path = true\n[host.\"https://b/v2/x\".header]\nA = [\"b\"]\n"))
	f.Add([]byte("host.\"x\".ca = []\n[host.y]\n" +
		"client = [[\"c.pem\",\"\"], \"c.pem\"]\ncapabilities = [\"PULL\", \"push\"]\n"))
	f.Add([]byte("[host.a]\n[host.b]\n[host.a.header]\nx = 1\n"))
	f.Add([]byte("[host.\"http://h:5\"]\nskip_verify = true\ndial_timeout = \"2s\"\n"))
	f.Add([]byte("server = \"httpd.x:5\"\nSERVER = \"y\"\ndial_timeout = 2020-01-01\n[[host.x]]\n"))
	f.Add([]byte("client = \"c.pem\"\nca = [\"../r.example.com/ca.pem\"]\n[plugins.x]\n"))
	f.Add([]byte{})
	dir := f.TempDir()
	base := filepath.Join(dir, "r.example.com")
	must(f, os.Mkdir(base, 0o755))
	must(f, os.WriteFile(filepath.Join(base, "ca.pem"), hostconfigtest.CA(1).PEM(), 0o644))
	must(f, os.WriteFile(filepath.Join(base, "c.pem"), []byte(pairPEM()), 0o644))
	f.Fuzz(func(t *testing.T, data []byte) {
		// An absolute path would make containerd read this machine's files, such as /dev/zero.
		if strings.ContainsRune(string(data), '\\') || strings.Contains(string(data), "dev") {
			t.Skip("it may name a device")
		}
		must(t, os.WriteFile(filepath.Join(base, "hosts.toml"), data, 0o644))
		want, wantErr := hostconfigtest.Load(t.Context(), dir, "r.example.com")
		res, err := hostconfig.ExplainAt(os.DirFS(dir), dir, "r.example.com", v24)
		must(t, err)
		if slices.ContainsFunc(res.Warnings, func(w hostconfig.Warning) bool { return w.Code == "not-checked" }) {
			return
		}
		if (wantErr != nil) != (res.Failure != "") {
			t.Fatalf("containerd's error is %v, Explain's %q", wantErr, res.Failure)
		}
		if wantErr == nil {
			compareExplain(t, os.DirFS(dir), "r.example.com", v24, want)
		}
		for _, v := range []string{"", "1.6", "1.7", "2.0", "2.2"} {
			if _, err := hostconfig.Explain(os.DirFS(dir), "r.example.com", version(t, v)); err != nil {
				t.Fatalf("%s: %v", v, err)
			}
		}
	})
}
