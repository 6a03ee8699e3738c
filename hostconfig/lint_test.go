package hostconfig_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/hostconfigtest"
)

func TestLintContainerdConfig(t *testing.T) {
	const cri2 = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n"
	const cri3 = "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\n"
	for name, tc := range map[string]struct {
		doc  string
		v    string
		want []string
	}{
		"a good file of version 2": {
			doc: cri2 + "config_path = \"/etc/containerd/certs.d\"\n", v: "1.7",
		},
		"a good file of version 3": {
			doc: cri3 + "config_path = \"/etc/containerd/certs.d\"\n", v: "2.4",
		},
		"a trailing slash": {
			doc: cri3 + "config_path = \"/etc/containerd/certs.d/\"\n", v: "2.4",
		},
		"not TOML":            {doc: "x = \n", v: "2.4", want: []string{"bad-toml"}},
		"a version in quotes": {doc: "version = \"2\"\n", want: []string{"bad-version"}},
		"version 3 on 1.7": {
			doc: cri3 + "config_path = \"/c\"\n", v: "1.7", want: []string{"version-too-new", "ignored-section"},
		},
		"version 4 on 2.2": {doc: "version = 4\n", v: "2.2", want: []string{"version-too-new"}},
		"version 4 on 2.3": {doc: "version = 4\n", v: "2.3"},
		"version 9":        {doc: "version = 9\n", v: "2.4", want: []string{"version-too-new"}},
		"version 4 with the socket where it was": {
			doc: "version = 4\n[grpc]\naddress = \"/x\"\n", v: "2.4", want: []string{"ignored-section"},
		},
		"no version and URI keys on 1.7": {
			doc: "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/c\"\n",
			v:   "1.7", want: []string{"no-version"},
		},
		"no version and URI keys on 2.0": {
			doc: "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/c\"\n",
			v:   "2.0", want: []string{"no-version"},
		},
		"no version and the newest key on 2.0": {
			doc: "[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/c\"\n", v: "2.0",
		},
		"no version and the oldest key on 2.2": {
			doc: "[plugins.cri.registry]\nconfig_path = \"/c\"\n", v: "2.2", want: []string{"no-version"},
		},
		"no version and the oldest key on 2.3": {
			doc: "[plugins.cri.registry]\nconfig_path = \"/c\"\n", v: "2.3",
		},
		"the key of version 1 in version 2": {
			doc:  "version = 2\n[plugins.cri.registry]\nconfig_path = \"/c\"\n",
			v:    "1.7",
			want: []string{"ignored-section", "short-plugin-name"},
		},
		"the key of version 2 in version 3 on 2.2": {
			doc:  strings.Replace(cri2, "= 2", "= 3", 1) + "config_path = \"/c\"\n",
			v:    "2.2",
			want: []string{"ignored-section"},
		},
		"the key of version 2 in version 3 on 2.3": {
			doc: strings.Replace(cri2, "= 2", "= 3", 1) + "config_path = \"/c\"\n", v: "2.3",
		},
		"the key of version 2 in version 4": {
			doc:  strings.Replace(cri2, "= 2", "= 4", 1) + "config_path = \"/c\"\n",
			v:    "2.4",
			want: []string{"ignored-section"},
		},
		"mirrors beside config_path": {
			doc: cri2 + "config_path = \"/c\"\n" +
				"[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = []\n",
			v: "1.7", want: []string{"mirrors-and-config-path"},
		},
		"empty tables as config default prints them": {
			doc: cri2 + "config_path = \"/c\"\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors]\n", v: "1.7",
		},
		"mirrors alone on 2.2": {
			doc: cri2 + "[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = []\n",
			v:   "2.2", want: []string{"mirrors"},
		},
		"legacy TLS on 1.7": {
			doc: cri2 + "config_path = \"/c\"\n" +
				"[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"r\".tls]\n",
			v: "1.7", want: []string{"legacy-tls"},
		},
		"legacy TLS on 2.4": {
			doc: cri2 + "config_path = \"/c\"\n" +
				"[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"r\".tls]\n",
			v: "2.4", want: []string{"legacy-tls"},
		},
		"legacy auth is fine": {
			doc: cri2 + "config_path = \"/c\"\n" +
				"[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"r\".auth]\n", v: "1.7",
		},
		"two directories on 2.1": {
			doc: cri2 + "config_path = \"/a:/b\"\n", v: "2.1", want: []string{"config-path-list"},
		},
		"two directories on 2.0": {doc: cri2 + "config_path = \"/a:/b\"\n", v: "2.0"},
		"a relative directory": {
			doc: cri2 + "config_path = \"certs.d\"\n", v: "2.4", want: []string{"relative-config-path"},
		},
		"drop-ins on 1.7": {
			doc:  "imports = [\"/x/*.toml\"]\n" + cri2 + "config_path = \"/c\"\n",
			v:    "1.7",
			want: []string{"drop-in-replaces"},
		},
		"drop-ins on 2.1": {
			doc:  "imports = [\"/x/*.toml\"]\n" + cri2 + "config_path = \"/c\"\n",
			v:    "2.1",
			want: []string{"drop-in-version"},
		},
		"drop-ins on 2.3.4": {
			doc:  "imports = [\"/x/*.toml\"]\n" + cri2 + "config_path = \"/c\"\n",
			v:    "2.3.4",
			want: []string{"drop-in-version"},
		},
		"drop-ins on 2.4": {doc: "imports = [\"/x/*.toml\"]\n" + cri2 + "config_path = \"/c\"\n", v: "2.4"},
		"the transfer service": {
			doc:  "version = 3\n[plugins.\"io.containerd.transfer.v1.local\"]\nconfig_path = \"/c\"\n",
			v:    "2.4",
			want: []string{"transfer-config-path"},
		},
		"wrong types everywhere": {doc: "version = 2\nplugins = 5\nimports = 7\n", v: "2.4"},
		"wrong types further in": {
			doc: cri2 + "config_path = 5\nmirrors = 6\nconfigs = 7\n", v: "2.4", want: []string{"mirrors"},
		},
		"wrong types of configs ": {
			doc: cri2 + "config_path = \"/c\"\n" +
				"[plugins.\"io.containerd.grpc.v1.cri\".registry.configs]\nr = 5\n",
			v: "2.4",
		},
	} {
		t.Run(name, func(t *testing.T) {
			list := hostconfig.LintContainerdConfig([]byte(tc.doc), version(t, tc.v))
			if diff := cmp.Diff(tc.want, codes(list)); diff != "" {
				t.Errorf("warnings (-want +got):\n%s\n%v", diff, list)
			}
		})
	}
}

// With an unknown version, what only some versions do is told, with the versions in the text, but not as a warning.
func TestLintContainerdConfigOfUnknownVersion(t *testing.T) {
	list := hostconfig.LintContainerdConfig([]byte("imports = [\"x\"]\nversion = 3\n"+
		"[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/a:/b\"\n"), hostconfig.Version{})
	if got := codes(list); got != nil {
		t.Errorf("got warnings %v", got)
	}
	for _, code := range []string{"version-too-new", "config-path-list", "drop-in-replaces"} {
		if !slices.ContainsFunc(list, func(w hostconfig.Warning) bool { return w.Code == code }) {
			t.Errorf("%s is not told in %v", code, list)
		}
	}
}

func TestLintRegistries(t *testing.T) {
	reg := func(host string, up hostconfig.Upstream, mirrors ...hostconfig.Mirror) hostconfig.Registry {
		return hostconfig.Registry{Host: host, Upstream: up, Mirrors: mirrors}
	}
	good := hostconfig.Mirror{URL: "https://m.example.com"}
	with := func(change func(m *hostconfig.Mirror)) hostconfig.Registry {
		m := good
		change(&m)
		return reg("docker.io", hostconfig.Deny, m)
	}
	ca := hostconfig.TLS{CA: hostconfigtest.CA(1)}
	for name, tc := range map[string]struct {
		reg  hostconfig.Registry
		want []string
	}{
		"nothing to say":         {reg: reg("docker.io", hostconfig.Deny, good)},
		"a host that is no host": {reg: reg("harbor", hostconfig.Deny, good), want: []string{"unreachable-host"}},
		"a host with a port":     {reg: reg("harbor:5000", hostconfig.Deny, good)},
		"this machine":           {reg: reg("localhost", hostconfig.Deny, good)},
		"an IPv6 address":        {reg: reg("[fd00::1]", hostconfig.Deny, good)},
		"an old name of Docker Hub": {
			reg: reg("index.docker.io", hostconfig.Deny, good), want: []string{"unreachable-host"},
		},
		"capitals": {
			reg: reg("Harbor.example.com", hostconfig.Deny, good), want: []string{"upper-case-host"},
		},
		"the registry as its mirror": {
			reg:  reg("docker.io", hostconfig.Allow, hostconfig.Mirror{URL: "https://registry-1.docker.io"}),
			want: []string{"mirror-is-upstream"},
		},
		"plain HTTP": {
			reg:  reg("docker.io", hostconfig.Deny, hostconfig.Mirror{URL: "http://m.example.com"}),
			want: []string{"plain-http"},
		},
		"plain HTTP on this machine": {
			reg: reg("docker.io", hostconfig.Deny, hostconfig.Mirror{URL: "http://127.0.0.1:5000"}),
		},
		"HTTP with a CA": {
			reg:  reg("docker.io", hostconfig.Deny, hostconfig.Mirror{URL: "http://m.example.com:5000", TLS: ca}),
			want: []string{"http-with-tls"},
		},
		"HTTP on port 80 with a CA": {
			reg:  reg("docker.io", hostconfig.Deny, hostconfig.Mirror{URL: "http://m.example.com:80", TLS: ca}),
			want: []string{"plain-http"},
		},
		"no verification": {
			reg:  with(func(m *hostconfig.Mirror) { m.TLS.SkipVerify = true }),
			want: []string{"skip-verify"},
		},
		"push only": {
			reg:  with(func(m *hostconfig.Mirror) { m.Capabilities = []hostconfig.Capability{"push"} }),
			want: []string{"blobs-despite-capabilities"},
		},
		"a login for all pods": {
			reg:  with(func(m *hostconfig.Mirror) { m.Header = http.Header{"authorization": {"x"}} }),
			want: []string{"authorization-header"},
		},
		"a long timeout": {
			reg:  with(func(m *hostconfig.Mirror) { m.DialTimeout = time.Minute }),
			want: []string{"long-dial-timeout"},
		},
		"TLS of a registry never asked": {
			reg: hostconfig.Registry{
				Host: "docker.io", Upstream: hostconfig.Deny, Mirrors: []hostconfig.Mirror{good}, TLS: ca,
			},
			want: []string{"unused-tls"},
		},
		"no verification of upstream": {
			reg: hostconfig.Registry{
				Host: "docker.io", Upstream: hostconfig.Allow, TLS: hostconfig.TLS{SkipVerify: true},
			},
			want: []string{"skip-verify"},
		},
		"a URL that does not parse is left": {
			reg: reg("docker.io", hostconfig.Deny, hostconfig.Mirror{URL: "https://%"}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			list := hostconfig.LintRegistries([]hostconfig.Registry{tc.reg}, v24)
			if diff := cmp.Diff(tc.want, codes(list)); diff != "" {
				t.Errorf("warnings (-want +got):\n%s\n%v", diff, list)
			}
		})
	}
}

// What Render writes gets no warning from the linter of hosts.toml, other than what the config itself asks for.
func TestRenderedFilesLintClean(t *testing.T) {
	asked := []string{"skip-verify", "blobs-despite-capabilities", "no-resolve-host"}
	gen := newGenerator(5)
	for range 500 {
		regs := gen.registries()
		for _, v := range []hostconfig.Version{v17, v24} {
			tree, err := hostconfig.Render(regs, v)
			must(t, err)
			for _, p := range tree.Paths() {
				if !strings.HasSuffix(p, "/"+hostconfig.HostsTOML) {
					continue
				}
				for _, code := range codes(hostconfig.LintHostsTOML(tree[p].Data, v)) {
					if !slices.Contains(asked, code) {
						t.Fatalf("%s of containerd %s has the warning %s:\n%s", p, v, code, tree[p].Data)
					}
				}
			}
		}
	}
}

func TestLintHostsTOMLOfARejectedFile(t *testing.T) {
	for _, data := range []string{"", "x =", "capabilities = [\"delete\"]\n"} {
		if diff := cmp.Diff([]string{"rejected"}, codes(hostconfig.LintHostsTOML([]byte(data), v24))); diff != "" {
			t.Errorf("%q (-want +got):\n%s", data, diff)
		}
	}
}

func TestWarningsReadWell(t *testing.T) {
	w := hostconfig.Warning{
		Code: "no-scheme", Severity: hostconfig.Warn, Where: `host "x"`, Message: "write the scheme",
	}
	if got, want := w.String(), `warning: host "x": write the scheme [no-scheme]`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzLintContainerdConfig(f *testing.F) {
	f.Add([]byte("version = 2\nimports = [\"x\"]\n" +
		"[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"a:b\"\n"))
	f.Add([]byte("[plugins]\ncri = 5\n" +
		"[plugins.\"io.containerd.cri.v1.images\"]\nregistry = {configs = {r = {tls = 1}}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, v := range []hostconfig.Version{{}, v17, v24} {
			for _, w := range hostconfig.LintContainerdConfig(data, v) {
				if w.Code == "" || w.Message == "" || w.Severity == "" {
					t.Fatalf("%+v", w)
				}
			}
		}
	})
}
