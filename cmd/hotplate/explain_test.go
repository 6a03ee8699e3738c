package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/hostconfigtest"
)

func TestExplain(t *testing.T) {
	harbor := hostconfig.Mirror{URL: "https://harbor.example.com", Path: "proxy-hub",
		TLS: hostconfig.TLS{CA: hostconfigtest.CA(1)}}
	login := hostconfig.Mirror{URL: "https://login.example.com:8443",
		Header: http.Header{"Authorization": {"Basic s3cret"}, "X-Tenant": {"s3cret"}},
		TLS:    hostconfig.TLS{Client: hostconfigtest.KeyPair(1)}}
	plain := hostconfig.Mirror{URL: "http://cache.example.com:5000"}
	hub := func(u hostconfig.Upstream, m ...hostconfig.Mirror) hostconfig.Registry {
		return hostconfig.Registry{Host: "docker.io", Upstream: u, Mirrors: m}
	}
	cases := map[string]struct {
		regs  []hostconfig.Registry
		files map[string]string // besides
		args  []string
	}{
		"nothing": {nil, nil, []string{"nginx"}},
		"wall":    {[]hostconfig.Registry{hub(hostconfig.Deny, harbor)}, nil, []string{"nginx:1.29"}},
		"cache": {[]hostconfig.Registry{hub(hostconfig.Allow, harbor, login)}, nil,
			[]string{"docker.io/library/nginx@sha256:" + strings.Repeat("0", 64)}},
		"cache-1.7": {[]hostconfig.Registry{hub(hostconfig.Allow, harbor, plain)}, nil, []string{"nginx",
			"--containerd-version=1.7.30"}},
		"default": {[]hostconfig.Registry{{Host: "_default", Upstream: hostconfig.Allow,
			Mirrors: []hostconfig.Mirror{plain}}}, nil, []string{"quay.io/a/b:v1"}},
		"rejected": {nil, map[string]string{"quay.io/hosts.toml": "server = 1\n", "quay.io/ca.crt": "x"},
			[]string{"quay.io/a/b:v1"}},
		"shadowed": {nil, map[string]string{"r.example.com:5000/hosts.toml": "", "r.example.com_5000_/hosts.toml": ""},
			[]string{"r.example.com:5000/a"}},
		"skipped-verify": {nil,
			map[string]string{"quay.io/hosts.toml": "[host.\"https://m.example.com\"]\nskip_verify = true\n"},
			[]string{"quay.io/a/b:v1"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tree, err := hostconfig.Render(c.regs, hostconfig.Version{})
			if err != nil {
				t.Fatal(err)
			}
			for path, data := range c.files {
				tree[path] = hostconfig.File{Mode: 0o644, Data: []byte(data)}
			}
			if err := hostconfigtest.WriteTree(dir, tree); err != nil {
				t.Fatal(err)
			}
			out, err := hotplate(append([]string{"explain", "--hosts-dir", dir}, c.args...)...)
			if fails := strings.Contains(out, "FAILS:"); (err != nil) != fails {
				t.Errorf("error %v; pulls fail: %v", err, fails)
			}
			if strings.Contains(out, "s3cret") {
				t.Errorf("it shows a secret:\n%s", out)
			}
			agenttest.Golden(t, *update, "explain-"+name+".golden", strings.ReplaceAll(out, dir, "/etc/containerd/certs.d"))
		})
	}
}

func TestExplainWithoutAHostsDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	out, err := hotplate("explain", "--hosts-dir", dir, "nginx")
	if err != nil || !strings.Contains(out, "always: there is no directory for this registry") {
		t.Errorf("%v:\n%s", err, out)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := hotplate("explain", "--hosts-dir", filepath.Join(file, "sub"), "nginx"); err == nil {
		t.Error("a file is taken for a directory")
	}
}
