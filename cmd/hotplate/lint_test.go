package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/hostconfig/hostconfigtest"
)

func TestOnlyMissing(t *testing.T) {
	missing := &fs.PathError{Op: "open", Path: "/a", Err: syscall.ENOENT}
	denied := &fs.PathError{Op: "open", Path: "/b", Err: syscall.EACCES}
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"one missing file":              {missing, true},
		"wrapped":                       {fmt.Errorf("read: %w", fmt.Errorf("bundle: %w", missing)), true},
		"several":                       {errors.Join(missing, fmt.Errorf("x: %w", missing)), true},
		"joined and wrapped and joined": {fmt.Errorf("x: %w", errors.Join(errors.Join(missing), missing)), true},
		"one may not be read":           {errors.Join(missing, denied), false},
		"one may not be read, deep inside": {fmt.Errorf("x: %w", errors.Join(missing, fmt.Errorf("y: %w", denied))),
			false},
		"something else":                      {errors.New("no such field"), false},
		"faults of the document":              {config.Faults{{Message: "x"}}, false},
		"a missing file and a fault":          {errors.Join(missing, config.Faults{{Message: "x"}}), false},
		"a file that does not hold its thing": {errors.Join(missing, errors.New("no PEM")), false},
	} {
		if got := onlyMissing(c.err); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestLint(t *testing.T) {
	const header = "apiVersion: " + config.APIVersion + "\n"
	cases := map[string]struct {
		file, content string
		want          []string // in the output or the error
		not           string
		fails         bool
	}{
		"an empty config": {"config.yaml", header, []string{"config.yaml: ok (errors: 0, warnings: 0, notes: 0)"}, "",
			false},
		"every fault at once": {"config.yaml", header + "registreis: []\nimage: 1\n", []string{":2: registreis",
			":3: image"}, "ok", true},
		"a file that is not here is only told": {"config.yaml", header + `
registries: [{host: a.example.com, tls: {ca: [x]}}]
certs: {bundles: [{name: x, file: /does/not/exist}]}
`, []string{"info: ", "/does/not/exist", "[not-here]", "ok (errors: 0, warnings: 0, notes: 1)"}, "", false},
		"what is wrong besides is told": {"config.yaml", header + `
registries: [{host: a.example.com, tls: {ca: [x, y]}}]
certs: {bundles: [{name: x, file: /does/not/exist}, {name: y, file: /dev/null}]}
`, []string{"/does/not/exist", "/dev/null"}, "ok", true},
		"a login that is not here leaves registries unchecked, and says so": {"config.yaml", header + `
registries:
- host: docker.io
  upstream: Deny
  mirrors: [{url: "http://harbor.example.com", credentials: x, exposeToNode: true}]
credentials: [{name: x, dockerConfigFile: /does/not/exist}]
`, []string{"registries are not checked further", "[not-here]"}, "", false},
		"what containerd does silently": {"config.yaml", header + `
registries:
- {host: docker.io, upstream: Deny, mirrors: [{url: "http://harbor.example.com"}]}
`, []string{"warning: ", "[plain-http]"}, "", false},
		"a certificate that ends in a hundred years": {"config.yaml",
			header + "certs:\n  bundles:\n  - name: x\n    pem: |\n" +
				indent(string(hostconfigtest.CA(1).PEM())), []string{"ok (errors: 0, warnings: 0, notes: 0)"}, "", false},
		"a hosts.toml that is rejected": {"hosts.toml", "server = 1\n", []string{"error: "}, "ok", true},
		"a hosts.toml": {"hosts.toml", "[host.\"https://harbor.example.com/v2/p\"]\n",
			[]string{"override_path", "errors: 1"}, "ok", true},
		"containerd's own config": {"config.toml", "version = 3\n", []string{"config.toml: "}, "", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), c.file)
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := hotplate("lint", path)
			if (err != nil) != c.fails {
				t.Errorf("error %v; want one: %v", err, c.fails)
			}
			all := out
			if err != nil {
				all += err.Error()
			}
			for _, part := range c.want {
				if !strings.Contains(all, part) {
					t.Errorf("it does not say %q:\n%s", part, all)
				}
			}
			if c.not != "" && strings.Contains(out, c.not) {
				t.Errorf("it says %q:\n%s", c.not, out)
			}
		})
	}
}

func indent(s string) string {
	return "      " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n      ") + "\n"
}

func TestLintReadsNoMoreThanAMebibyte(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, make([]byte, maxLint+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := hotplate("lint", path); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
}

func TestLintFindsThatACertificateIsMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "harbor.example.com_8443_", "hosts.toml")
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	const doc = "server = \"https://harbor.example.com:8443\"\nca = \"corp.pem\"\n"
	if err := os.WriteFile(path, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := hotplate("lint", path)
	if err == nil || !strings.Contains(out, "corp.pem") || !strings.Contains(out, "[every-pull-fails]") {
		t.Errorf("there is no corp.pem, and it says %v:\n%s", err, out)
	}
	ca := filepath.Join(filepath.Dir(path), "corp.pem")
	if err := os.WriteFile(ca, hostconfigtest.CA(1).PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := hotplate("lint", path); err != nil || strings.Contains(out, "every-pull-fails") {
		t.Errorf("corp.pem is there, and it says %v:\n%s", err, out)
	}
}
