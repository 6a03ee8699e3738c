package agent

import (
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/certs"
	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/hostconfigtest"
)

// snapshot reads a document in which DIR stands for a directory with the files of TestEveryFieldReachesTheRegistry.
func snapshot(t *testing.T, doc string) config.Snapshot {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string]string{
		"ca1.pem":    string(hostconfigtest.CA(1).PEM()),
		"ca2.pem":    string(hostconfigtest.CA(2).PEM()),
		"client.pem": string(hostconfigtest.KeyPair(1).CertPEM()),
		"key.pem":    string(hostconfigtest.KeyPair(1).KeyPEM()),
		"user":       "robot",
		"password":   "pa55word",
		"token.json": `{"auths": {"harbor.example.com": {"identitytoken": "s3cret"}}}`,
		"docker.json": `{"auths": {"docker.io": {"username": "hub", "password": "hubpass"},
			"harbor.example.com": {"username": "harbor", "password": "harborpass"}}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return config.Read("config.yaml", []byte("apiVersion: "+config.APIVersion+"\n"+strings.ReplaceAll(doc, "DIR", dir)), nil)
}

const everyField = `
registries:
- host: docker.io
  upstream: Allow
  adopt: true
  tls: {ca: [two], clientCert: node, skipVerify: true}
  credentials: hub
  mirrors:
  - url: https://harbor.example.com
    path: proxy/hub
    capabilities: [pull, resolve, push, referrers]
    ca: [one, two]
    clientCert: node
    skipVerify: true
    headers: {X-Tenant: [a, b]}
    credentials: robot
    exposeToNode: true
    dialTimeout: 3s
  - url: http://cache.example.com:5000
    credentials: robot
- host: quay.io
  upstream: Deny
  mirrors:
  - url: https://quay-cache.example.com
certs:
  bundles:
  - {name: one, file: DIR/ca1.pem}
  - {name: two, file: DIR/ca2.pem}
  keyPairs:
  - {name: node, certFile: DIR/client.pem, keyFile: DIR/key.pem}
credentials:
- {name: robot, usernameFile: DIR/user, passwordFile: DIR/password}
- {name: hub, dockerConfigFile: DIR/docker.json}
`

func TestEveryFieldReachesTheRegistry(t *testing.T) {
	s := snapshot(t, everyField)
	got, err := Registries(s)
	if err != nil {
		t.Fatal(err)
	}
	client := hostconfigtest.KeyPair(1)
	readers := []hostconfig.Capability{"pull", "resolve"}
	want := []hostconfig.Registry{
		{
			Host: "docker.io", Upstream: hostconfig.Allow, Adopt: true,
			TLS: hostconfig.TLS{CA: hostconfigtest.CA(2), Client: client, SkipVerify: true},
			Mirrors: []hostconfig.Mirror{
				{
					URL: "https://harbor.example.com", Path: "proxy/hub",
					Capabilities: []hostconfig.Capability{"pull", "resolve", "push", "referrers"},
					TLS: hostconfig.TLS{CA: certs.Merge(hostconfigtest.CA(1), hostconfigtest.CA(2)), Client: client,
						SkipVerify: true},
					Header:      http.Header{"X-Tenant": {"a", "b"}, "Authorization": {"Basic cm9ib3Q6cGE1NXdvcmQ="}},
					DialTimeout: 3 * time.Second,
				},
				{URL: "http://cache.example.com:5000", Capabilities: readers, DialTimeout: 2 * time.Second},
			},
		},
		{Host: "quay.io", Upstream: hostconfig.Deny, Mirrors: []hostconfig.Mirror{
			{URL: "https://quay-cache.example.com", Capabilities: readers, DialTimeout: 2 * time.Second},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLogins(t *testing.T) {
	get := loginsOf(snapshot(t, everyField)).find()
	for _, c := range []struct{ registry, host, want string }{
		{"docker.io", "harbor.example.com", "robot:pa55word"},
		{"docker.io", "cache.example.com:5000", "robot:pa55word"},
		{"docker.io", "cache.example.com", ":"}, // another port is another host
		{"docker.io", "docker.io", "hub:hubpass"},
		{"docker.io", "registry-1.docker.io", "hub:hubpass"}, // where containerd goes for docker.io
		{"docker.io", "evil.example.com", ":"},
		{"docker.io", "evil.harbor.example.com", ":"},
		{"docker.io", "harbor.example.com.evil.io", ":"},
		{"quay.io", "quay-cache.example.com", ":"},
		{"quay.io", "quay.io", ":"},
		{"quay.io", "harbor.example.com", ":"}, // the login of another registry's mirror
		{"ghcr.io", "harbor.example.com", ":"}, // not in the config
	} {
		user, secret, err := get(c.registry, c.host)
		if err != nil || user+":"+secret != c.want {
			t.Errorf("%s at %s: %s:%s, %v; want %s", c.registry, c.host, user, secret, err, c.want)
		}
	}
}

func TestTwoProjectsOfOneHarborHaveTheirOwnRobots(t *testing.T) {
	get := loginsOf(snapshot(t, `
registries:
- host: quay.io
  upstream: Deny
  mirrors: [{url: "https://harbor.example.com", path: quay, credentials: hub}]
- host: _default
  upstream: Deny
  mirrors: [{url: "https://harbor.example.com", path: rest, credentials: robot}]
- host: ghcr.io
  upstream: Deny
  mirrors: [{url: "https://harbor.example.com", path: open}]
credentials:
- {name: hub, dockerConfigFile: DIR/docker.json}
- {name: robot, usernameFile: DIR/user, passwordFile: DIR/password}
`)).find()
	for registry, want := range map[string]string{
		"quay.io": "harbor:harborpass", "gcr.io": "robot:pa55word", "ghcr.io": ":",
	} {
		user, secret, err := get(registry, "harbor.example.com")
		if err != nil || user+":"+secret != want {
			t.Errorf("%s: %s:%s, %v; want %s", registry, user, secret, err, want)
		}
	}
}

func TestAMirrorsLoginIsLookedUpByItsHost(t *testing.T) {
	s := snapshot(t, `
registries:
- host: docker.io
  upstream: Deny
  mirrors:
  - {url: "https://harbor.example.com", credentials: hub}
  - {url: "https://other.example.com", credentials: hub}
credentials:
- {name: hub, dockerConfigFile: DIR/docker.json}
`)
	if len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "other.example.com") {
		t.Errorf("warnings %q; want one of other.example.com", s.Warnings)
	}
	get := loginsOf(s).find()
	if user, secret, err := get("docker.io", "harbor.example.com"); user != "harbor" || secret != "harborpass" || err != nil {
		t.Errorf("got %s, %s, %v", user, secret, err)
	}
	if user, secret, err := get("docker.io", "other.example.com"); user+secret != "" || err != nil {
		t.Errorf("a host without an entry gets %s, %s, %v", user, secret, err)
	}
}

func TestWhatCannotBePutInForce(t *testing.T) {
	// The login was there when the config was read and has no entry for the host: the config says so first.
	exposed := snapshot(t, `
registries:
- host: docker.io
  upstream: Deny
  mirrors:
  - {url: "https://other.example.com", credentials: hub, exposeToNode: true}
  - {url: "https://third.example.com", credentials: hub, exposeToNode: true}
credentials:
- {name: hub, dockerConfigFile: DIR/docker.json}
`)
	if _, err := Registries(exposed); err == nil || err.Error() != exposed.Err.Error() {
		t.Errorf("got %v, want the snapshot's own error", err)
	}
	exposed.Err = nil // as lint does
	_, err := Registries(exposed)
	for _, part := range []string{
		`registry docker.io: mirror https://other.example.com: credentials "hub" hold no login for this host`,
		`registry docker.io: mirror https://third.example.com: credentials "hub" hold no login for this host`,
	} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got %v; want %s in it", err, part)
		}
	}
	unrendered := config.Snapshot{Config: &config.Config{Registries: []config.Registry{{Host: "../etc",
		Upstream: config.Allow}}}}
	if _, err := Registries(unrendered); err == nil || !strings.Contains(err.Error(), "../etc") {
		t.Errorf("got %v, want what Render says of the host", err)
	}
}

func TestAnIdentityTokenCannotBeExposed(t *testing.T) {
	s := snapshot(t, `
registries:
- host: docker.io
  upstream: Deny
  mirrors:
  - {url: "https://harbor.example.com", credentials: token, exposeToNode: true}
credentials:
- {name: token, dockerConfigFile: DIR/token.json}
`)
	s.Err = nil // as lint does
	_, err := Registries(s)
	if err == nil || !strings.Contains(err.Error(), "identity token") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v; want the cause, and not the token", err)
	}
}

// Whatever decides where images come from makes another source, and nothing else does.
func TestSources(t *testing.T) {
	const base = `
registries:
- {host: quay.io, upstream: Allow, mirrors: [{url: "https://harbor.example.com", ca: [corp]}]}
- {host: ghcr.io, tls: {skipVerify: true}}
certs: {bundles: [{name: corp, file: DIR/ca1.pem}, {name: lab, file: DIR/ca2.pem}]}
credentials: [{name: robot, usernameFile: DIR/user, passwordFile: DIR/password}]
`
	of := func(doc string) map[string]any {
		s := snapshot(t, doc)
		regs, err := registries(s)
		if err != nil {
			t.Fatal(err)
		}
		return sources(regs, loginsOf(s))
	}
	for name, c := range map[string]struct {
		from, to string
		same     bool
	}{
		"nothing":      {"", "", true},
		"a comment":    {"credentials:", "# credentials\ncredentials:", true},
		"another host": {"ghcr.io, tls: {skipVerify: true}", "ghcr.io, tls: {ca: [lab]}", true},
		"upstream":     {"upstream: Allow", "upstream: Deny", false},
		"a CA":         {"ca: [corp]", "ca: [corp, lab]", false},
		"a login":      {"ca: [corp]", "ca: [corp], credentials: robot", false},
		"a path":       {"ca: [corp]", "ca: [corp], path: hub", false},
	} {
		before, now := of(base)["quay.io"], of(strings.Replace(base, c.from, c.to, 1))["quay.io"]
		if got := reflect.DeepEqual(before, now); before == nil || got != c.same {
			t.Errorf("%s: the same %v, want %v", name, got, c.same)
		}
	}
}
