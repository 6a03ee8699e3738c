package configtoml_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/certs"
	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/configtoml"
	"github.com/hotplate-dev/hotplate/hostconfig/hostconfigtest"
)

func TestPlanTakesOneDirectory(t *testing.T) {
	c := read(t, node(nil), "2.4.2")
	for _, dir := range []string{"", "certs.d", "/a:/b", "/a/", "/a/../b", "/a b", `/a"b`, `/a'b`, `/a\b`, "/ü", "/a\nb"} {
		if edit, err := c.Plan(dir, configtoml.Options{}); err == nil {
			t.Errorf("%q: plans %s", dir, edit.Why)
		}
	}
}

// TestAcceptLost: what would be lost is refused with its names, until the caller knows that it is lost already.
func TestAcceptLost(t *testing.T) {
	c := read(t, node(corpus(t)["nvidia-drop-in-v3-on-v2"]), "2.2.9")
	_, err := c.Plan(hostsDir, configtoml.Options{})
	var refused *configtoml.RefusedError
	if !errors.As(err, &refused) || refused.Code != "settings-lost" || !strings.Contains(refused.Reason, "containerd, sandbox_image") {
		t.Errorf("got %v", err)
	}
	edit, err := c.Plan(hostsDir, configtoml.Options{AcceptLost: true})
	if err != nil || !strings.Contains(string(edit.New), "[plugins.\""+v3+"\".registry]\n") {
		t.Errorf("plans %q, %v", edit.New, err)
	}
}

// mirrors writes the legacy tables of a registry section.
func mirrors(lines ...string) map[string]string {
	text := "version = 2\n[plugins.\"" + v2 + "\".registry]\n"
	for _, line := range lines {
		text += strings.ReplaceAll(line, "[", "[plugins.\""+v2+"\".registry.") + "\n"
	}
	return map[string]string{"config.toml": text}
}

// TestConvert says what the tables mean, in the words of hotplate's own configuration. It is written from containerd's
// registryHosts and registryEndpoints: mirrors in order, then the registry itself, unless it is among the mirrors.
func TestConvert(t *testing.T) {
	ca, pair := hostconfigtest.CA(1), hostconfigtest.KeyPair(2)
	tls := hostconfig.TLS{CA: ca, Client: pair}
	m := func(url, path string) hostconfig.Mirror { return hostconfig.Mirror{URL: url, Path: path} }
	for name, tc := range map[string]struct {
		lines []string
		v     string
		want  []hostconfig.Registry
	}{
		"two mirrors": {
			lines: []string{`[mirrors."docker.io"]`, "endpoint = \x00'https://a.example.com', 'https://b.example.com/v2/hub']"},
			want: []hostconfig.Registry{{
				Host: "docker.io", Upstream: hostconfig.Allow,
				Mirrors: []hostconfig.Mirror{m("https://a.example.com", ""), m("https://b.example.com", "hub")},
			}},
		},
		"the registry itself is last": {
			lines: []string{
				`[mirrors."docker.io"]`, "endpoint = \x00'https://a.example.com', 'https://registry-1.docker.io']",
				`[mirrors."r.example.com"]`, "endpoint = \x00'https://r.example.com/v2/']",
			},
			want: []hostconfig.Registry{
				{Host: "docker.io", Upstream: hostconfig.Allow, Mirrors: []hostconfig.Mirror{m("https://a.example.com", "")}},
				{Host: "r.example.com", Upstream: hostconfig.Allow},
			},
		},
		"plain HTTP to the registry itself": {
			lines: []string{`[mirrors."r.example.com:5000"]`, "endpoint = \x00'http://r.example.com:5000']"},
			want: []hostconfig.Registry{{
				Host: "r.example.com:5000", Upstream: hostconfig.Deny,
				Mirrors: []hostconfig.Mirror{m("http://r.example.com:5000", "")},
			}},
		},
		"no scheme": {
			lines: []string{`[mirrors."docker.io"]`, "endpoint = \x00'a.example.com', 'localhost:5000']"},
			want: []hostconfig.Registry{{
				Host: "docker.io", Upstream: hostconfig.Allow,
				Mirrors: []hostconfig.Mirror{m("https://a.example.com", ""), m("http://localhost:5000", "")},
			}},
		},
		"TLS of a mirror": {
			lines: []string{
				`[mirrors."docker.io"]`, "endpoint = \x00'https://a.example.com:8443']", `[configs."a.example.com:8443".tls]`,
				"ca_file = '/etc/containerd/ca.pem'", "cert_file = '/etc/containerd/client.pem'",
				"key_file = '/etc/containerd/client.key'",
			},
			want: []hostconfig.Registry{
				{Host: "a.example.com:8443", Upstream: hostconfig.Allow, TLS: tls},
				{
					Host: "docker.io", Upstream: hostconfig.Allow,
					Mirrors: []hostconfig.Mirror{{URL: "https://a.example.com:8443", TLS: tls}},
				},
			},
		},
		"TLS of a mirror without TLS": {
			lines: []string{
				`[mirrors."docker.io"]`, "endpoint = \x00'http://a.example.com:5000']", `[configs."a.example.com:5000".tls]`,
				"insecure_skip_verify = true",
			},
			want: []hostconfig.Registry{
				{Host: "a.example.com:5000", Upstream: hostconfig.Allow, TLS: hostconfig.TLS{SkipVerify: true}},
				{
					Host: "docker.io", Upstream: hostconfig.Allow,
					Mirrors: []hostconfig.Mirror{m("http://a.example.com:5000", "")},
				},
			},
		},
		"TLS on 2.x, which ignores it": {
			lines: []string{
				`[mirrors."docker.io"]`, "endpoint = \x00'https://a.example.com']", `[configs."a.example.com".tls]`,
				"insecure_skip_verify = true",
			},
			v: "2.4.2",
			want: []hostconfig.Registry{{
				Host: "docker.io", Upstream: hostconfig.Allow, Mirrors: []hostconfig.Mirror{m("https://a.example.com", "")},
			}},
		},
		"all other registries": {
			lines: []string{
				`[mirrors."*"]`, "endpoint = \x00'https://a.example.com/v2/all']", `[configs."r.example.com".tls]`,
				"insecure_skip_verify = true", `[mirrors."quay.io"]`, "endpoint = \x00]",
			},
			want: []hostconfig.Registry{
				{Host: hostconfig.DefaultHost, Upstream: hostconfig.Allow, Mirrors: []hostconfig.Mirror{m("https://a.example.com", "all")}},
				{Host: "quay.io", Upstream: hostconfig.Allow},
				{
					Host: "r.example.com", Upstream: hostconfig.Allow, TLS: hostconfig.TLS{SkipVerify: true},
					Mirrors: []hostconfig.Mirror{m("https://a.example.com", "all")},
				},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			files := mirrors(tc.lines...)
			files["config.toml"] = strings.ReplaceAll(files["config.toml"], "\x00", "[")
			files["ca.pem"] = string(ca.PEM())
			files["client.pem"], files["client.key"] = string(pair.CertPEM()), string(pair.KeyPEM())
			v := tc.v
			if v == "" {
				v = "1.7.35"
			}
			edit, err := read(t, node(files), v).Plan(hostsDir, configtoml.Options{Convert: true})
			if err != nil {
				t.Fatal(err)
			}
			same := cmp.Options{
				cmp.Comparer(func(a, b certs.Bundle) bool { return a.Equal(b) }),
				cmp.Comparer(func(a, b certs.KeyPair) bool { return a.Equal(b) }),
			}
			if diff := cmp.Diff(tc.want, edit.Converted, same); diff != "" {
				t.Errorf("registries (-want +got):\n%s", diff)
			}
			if strings.Contains(string(edit.New), "mirrors") || strings.Contains(string(edit.New), "tls") && v != "2.4.2" {
				t.Errorf("left:\n%s", edit.New)
			}
		})
	}
}

// TestConvertRefuses what hosts.toml cannot say in hotplate's form, or what cannot be read.
func TestConvertRefuses(t *testing.T) {
	for name, lines := range map[string][]string{
		"a path without /v2":     {`[mirrors."docker.io"]`, "endpoint = \x00'https://a.example.com/artifactory']"},
		"a login":                {`[mirrors."docker.io"]`, "endpoint = \x00'https://u:swordfish@a.example.com']"},
		"a query":                {`[mirrors."docker.io"]`, "endpoint = \x00'https://a.example.com?x=1']"},
		"no URL":                 {`[mirrors."docker.io"]`, "endpoint = \x00'https://a b']"},
		"an endpoint no list":    {`[mirrors."docker.io"]`, "endpoint = 'https://a.example.com'"},
		"an endpoint no string":  {`[mirrors."docker.io"]`, "endpoint = \x005]"},
		"a host that is none":    {`[mirrors."https://docker.io"]`, "endpoint = \x00'https://a.example.com']"},
		"a CA that is not there": {`[configs."r.example.com".tls]`, "ca_file = '/etc/containerd/other.pem'"},
		"a CA that is none":      {`[configs."r.example.com".tls]`, "ca_file = '/etc/containerd/config.toml'"},
		"a relative CA":          {`[configs."r.example.com".tls]`, "ca_file = 'ca.pem'"},
		"half a pair":            {`[configs."r.example.com".tls]`, "cert_file = '/etc/containerd/ca.pem'"},
		"a pair that is none": {
			`[configs."r.example.com".tls]`, "cert_file = '/etc/containerd/ca.pem'", "key_file = '/etc/containerd/ca.pem'",
		},
	} {
		t.Run(name, func(t *testing.T) {
			files := mirrors(lines...)
			files["config.toml"] = strings.ReplaceAll(files["config.toml"], "\x00", "[")
			files["ca.pem"] = string(hostconfigtest.CA(1).PEM())
			_, err := read(t, node(files), "1.7.35").Plan(hostsDir, configtoml.Options{Convert: true})
			var refused *configtoml.RefusedError
			if !errors.As(err, &refused) || refused.Code != "mirrors" || len(refused.Manual) == 0 {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "swordfish") {
				t.Errorf("it tells a secret: %v", err)
			}
		})
	}
}

// TestManualStepsDoWhatConvertDoes follows the steps of a refusal to the letter.
func TestManualStepsDoWhatConvertDoes(t *testing.T) {
	for _, name := range []string{"mirrors", "mirrors-and-tls", "mirrors-odd-path", "tls-alone"} {
		t.Run(name, func(t *testing.T) {
			files := corpus(t)[name]
			_, err := read(t, node(files), "1.7.35").Plan(hostsDir, configtoml.Options{})
			var refused *configtoml.RefusedError
			if !errors.As(err, &refused) {
				t.Fatalf("got %v", err)
			}
			text := strings.SplitAfter(files["config.toml"], "\n")
			for _, s := range refused.Manual {
				if s.File != rootFile || s.Note != "" {
					t.Fatalf("step %v", s)
				}
				at := s.Line - 1
				if s.Line == 0 {
					at = len(text)
				}
				add := ""
				for _, line := range s.Add {
					add += line + "\n"
				}
				text = append(append(append([]string(nil), text[:at]...), add), text[at+s.Remove:]...)
			}
			c := read(t, node(map[string]string{"config.toml": strings.Join(text, "")}), "1.7.35")
			if edit, err := c.Plan(hostsDir, configtoml.Options{}); err != nil || !edit.IsZero() {
				t.Errorf("after the steps: %v, %v\n%s", edit.Why, err, strings.Join(text, ""))
			}
		})
	}
}

func TestRefusedError(t *testing.T) {
	err := &configtoml.RefusedError{Code: "x", Reason: "it is so", Manual: []configtoml.Step{
		{File: "/f", Line: 3, Remove: 2},
		{File: "/f", Line: 1, Add: []string{"a", "b"}},
		{File: "/f", Add: []string{"c"}},
		{File: "/f", Line: 4, Remove: 1, Add: []string{"d"}},
		{File: "/g", Line: 7, Note: "think"},
	}}
	const want = `it is so; change it by hand:
  in /f, lines 3 to 4: remove
  in /f, line 1: put before
      a
      b
  in /f: add at the end
      c
  in /f, line 4: replace by
      d
  in /g, line 7: think`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
	err.Manual = err.Manual[4:]
	if got, want := err.Error(), "it is so; change it by hand: in /g, line 7: think"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDiff(t *testing.T) {
	numbers := func(from, to int, change map[int]string) string {
		var b strings.Builder
		for i := from; i <= to; i++ {
			if text, ok := change[i]; ok {
				b.WriteString(text)
				continue
			}
			fmt.Fprintf(&b, "n%d = 1\n", i)
		}
		return b.String()
	}
	for name, tc := range map[string]struct{ old, new, want string }{
		"nothing": {old: "a = 1\n", new: "a = 1\n"},
		"two places, far apart": {
			old: numbers(1, 20, nil), new: numbers(1, 20, map[int]string{2: "x = 1\n", 18: ""}),
			want: "--- /f\n+++ /f\n@@ -1,5 +1,5 @@\n n1 = 1\n-n2 = 1\n+x = 1\n n3 = 1\n n4 = 1\n n5 = 1\n" +
				"@@ -15,6 +15,5 @@\n n15 = 1\n n16 = 1\n n17 = 1\n-n18 = 1\n n19 = 1\n n20 = 1\n",
		},
		"two places, close together": {
			old: numbers(1, 9, nil), new: numbers(1, 9, map[int]string{2: "", 8: "n8 = 1\nx = 1\n"}),
			want: "--- /f\n+++ /f\n@@ -1,9 +1,9 @@\n n1 = 1\n-n2 = 1\n n3 = 1\n n4 = 1\n n5 = 1\n n6 = 1\n n7 = 1\n" +
				" n8 = 1\n+x = 1\n n9 = 1\n",
		},
		"a secret": {
			old: "password = \"swordfish\"\nx = 1 # token: swordfish\n", new: "password = \"swordfish\"\nx = 2\n",
			want: "--- /f\n+++ /f\n@@ -1,2 +1,2 @@\n password = …\n-x = 1 # token: …\n+x = 2\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			edit := configtoml.Edit{Path: "/f", Old: []byte(tc.old), New: []byte(tc.new)}
			if diff := cmp.Diff(tc.want, edit.Diff()); diff != "" {
				t.Errorf("diff (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDiffIsBounded: two large files that have nothing in common.
func TestDiffIsBounded(t *testing.T) {
	edit := configtoml.Edit{
		Path: "/f", Old: []byte(strings.Repeat("a = 1\n", 100_000)), New: []byte(strings.Repeat("b = 1\n", 100_000)),
	}
	if got := strings.Count(edit.Diff(), "\n"); got != 200_003 {
		t.Errorf("%d lines", got)
	}
}
