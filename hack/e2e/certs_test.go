//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/hostconfig"
)

// mirrored is the registry host of the tests that rotate certificates. It does not exist.
const mirrored = "registry.invalid"

// direct is a registry of a test's own, without a proxy.
type direct struct {
	*rig.Registry
	ca *rig.CA // of its certificate
}

func newDirect(t *testing.T) *direct {
	t.Helper()
	ca := rigtest.CA(t)
	cert, key, err := ca.Issue("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	r := rigtest.Registry(t, rig.RegistryConfig{CertPEM: cert, KeyPEM: key, Users: map[string]string{user: password}})
	return &direct{r, ca}
}

// site is the registry as a place to push to and to name in a config.
func (d *direct) site() *site {
	return &site{backend: backend{d.Registry, d.ca}, path: project, ca: d.ca}
}

// rotate gives the registry a certificate of another CA.
func (d *direct) rotate(t *testing.T, to *rig.CA) {
	t.Helper()
	cert, key, err := to.Issue("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Rotate(t.Context(), cert, key); err != nil {
		t.Fatal(err)
	}
	d.ca = to
}

// rotating is a config whose CA comes from a file, and the registry as its only mirror.
func (n *node) rotating(d *direct) *config.Config {
	c := n.config(mirrored, config.Deny)
	c.Registries[0].Mirrors = []config.Mirror{{URL: d.URL(), Path: project, TLS: config.TLS{CA: []string{"corp"}}}}
	c.Certs.Bundles = []config.BundleSource{{Name: "corp", File: n.etc("corp.pem")}}
	return c
}

// pullNew pushes a new image and pulls it as the kubelet does.
func (n *node) pullNew(d *direct) error {
	n.t.Helper()
	return n.pull(d.site().push(n.t, small()).under(mirrored))
}

// overlap wants old and new CA to be trusted, or not.
func overlap(want bool) want {
	return func(r report.NodeReport) string {
		seen := 0
		for _, reg := range r.Registries {
			for _, m := range reg.Mirrors {
				if m.Overlap != want || !want && !m.Reachable {
					return fmt.Sprintf("mirror %s: overlap %v, reachable %v: %s", m.URL, m.Overlap, m.Reachable, m.Message)
				}
				seen++
			}
		}
		if seen == 0 {
			return "no mirror was looked at"
		}
		return ""
	}
}

// trusted are the certificates that the hosts.toml of mirrored names.
func (n *node) trusted() string {
	n.t.Helper()
	data, err := os.ReadFile(n.hostsTOML(mirrored))
	if err != nil {
		n.t.Fatal(err)
	}
	f, _, err := hostconfig.ParseHosts(data, hostconfig.Version{})
	if err != nil {
		n.t.Fatal(err)
	}
	var all []string
	for _, h := range f.Hosts {
		for _, ca := range h.CA {
			pem, err := os.ReadFile(filepath.Join(filepath.Dir(n.hostsTOML(mirrored)), ca))
			if err != nil {
				n.t.Fatal(err)
			}
			all = append(all, string(pem))
		}
	}
	return strings.Join(all, "")
}

// onlyTrusts wants the hosts.toml to name one CA and no other.
func (n *node) onlyTrusts(ca, not *rig.CA) want {
	return func(report.NodeReport) string {
		got := n.trusted()
		body := func(ca *rig.CA) string { return strings.Split(string(ca.PEM()), "\n")[2] }
		if !strings.Contains(got, body(ca)) || strings.Contains(got, body(not)) {
			return "hosts.toml names not the new CA alone"
		}
		return ""
	}
}

func TestCARotation(t *testing.T) {
	for _, tt := range []struct {
		name, what string
		run        func(n *node, d *direct, next *rig.CA, put func(pem []byte), row *row)
	}{
		{"config first", "CA rotated in the config, then at the registry: every pull works", configFirst},
		{"registry first", "CA rotated at the registry, then in the config: pulls work as soon as the config knows it",
			registryFirst},
	} {
		for _, source := range []struct {
			name string
			put  func(n *node, pem []byte)
		}{
			{"file", func(n *node, pem []byte) { n.write("corp.pem", pem) }},
			{"symlink", func(n *node, pem []byte) { n.swap(map[string][]byte{"corp.pem": pem}) }},
		} {
			t.Run(tt.name+"/"+source.name, func(t *testing.T) {
				forLines(t, func(t *testing.T, line string) {
					row := shows(t, line, fmt.Sprintf("%s (from a %s)", tt.what, source.name))
					d := newDirect(t)
					n := newNode(t, line, nil)
					put := func(pem []byte) { source.put(n, pem) }
					put(d.ca.PEM())
					n.writeConfig(n.rotating(d))
					n.start()
					n.until(ready, overlap(false))
					if err := n.pullNew(d); err != nil {
						t.Fatal(err)
					}
					next, err := rig.NewCA("next")
					if err != nil {
						t.Fatal(err)
					}
					tt.run(n, d, next, put, row)
				})
			})
		}
	}
}

func configFirst(n *node, d *direct, next *rig.CA, put func(pem []byte), row *row) {
	n.t.Helper()
	old := d.ca
	put(next.PEM())
	n.until(ready, overlap(true))
	if err := n.pullNew(d); err != nil {
		n.t.Fatalf("with the old certificate, while the config names the new CA: %v", err)
	}
	// A restart in the middle must not forget the old CA.
	n.stop()
	n.start()
	n.until(ready, overlap(true))
	if err := n.pullNew(d); err != nil {
		n.t.Fatalf("after a restart of the agent in the middle: %v", err)
	}
	d.rotate(n.t, next)
	if err := n.pullNew(d); err != nil {
		n.t.Fatalf("with the new certificate, while both CAs are trusted: %v", err)
	}
	n.until(ready, overlap(false), n.onlyTrusts(next, old))
	if err := n.pullNew(d); err != nil {
		n.t.Fatalf("with the new CA alone: %v", err)
	}
	row.saw("pulls work before, during the overlap, after a restart of the agent in it, and after; then only the new CA is named")
}

func registryFirst(n *node, d *direct, next *rig.CA, put func(pem []byte), row *row) {
	n.t.Helper()
	old := d.ca
	d.rotate(n.t, next)
	if err := n.pullNew(d); err == nil {
		n.t.Error("a pull works although nobody trusts the registry's new certificate")
	}
	put(next.PEM())
	n.until(ready, overlap(false), n.onlyTrusts(next, old))
	if err := n.pullNew(d); err != nil {
		n.t.Fatalf("with the new CA: %v", err)
	}
	row.saw("the pull in between fails, as it must; after, only the new CA is named")
}

// swap replaces files of the config's all at once, as the kubelet does for the volume of a ConfigMap or Secret: each is a
// symlink through ..data, which is a symlink to a directory, and is replaced in one rename (pkg/volume/util
// AtomicWriter).
func (n *node) swap(files map[string][]byte) {
	n.t.Helper()
	check := func(err error) {
		n.t.Helper()
		if err != nil {
			n.t.Fatal(err)
		}
	}
	data := n.etc("..data")
	old, err := os.Readlink(data)
	if err != nil && !os.IsNotExist(err) {
		n.t.Fatal(err)
	}
	dir, err := os.MkdirTemp(n.path("etc"), "..2026_11_21_")
	check(err)
	for name, content := range files {
		check(os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	check(os.Symlink(filepath.Base(dir), n.etc("..data_tmp")))
	check(os.Rename(n.etc("..data_tmp"), data))
	for name := range files {
		if err := os.Symlink(filepath.Join("..data", name), n.etc(name)); !os.IsExist(err) {
			check(err)
		}
	}
	if old != "" {
		check(os.RemoveAll(n.etc(old)))
	}
}

func TestClientCertificateRotation(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "a registry that asks for client certificates: pulls work through their rotation")
		server, one, two := rigtest.CA(t), rigtest.CA(t), rigtest.CA(t)
		cert, key, err := server.Issue("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		start := func(addr string, clients ...*rig.CA) *direct {
			var pem []byte
			for _, ca := range clients {
				pem = append(pem, ca.PEM()...)
			}
			return &direct{rigtest.Registry(t, rig.RegistryConfig{Dir: dir, Addr: addr, CertPEM: cert, KeyPEM: key,
				ClientCA: pem}), server}
		}
		// The images are pushed by a registry without client certificates on the same data.
		open := start("")
		img, later, last := open.site().push(t, small()), open.site().push(t, small()), open.site().push(t, small())
		d := start("", one)

		n := newNode(t, line, nil)
		n.swap(clientFiles(t, one))
		n.write("server.pem", server.PEM())
		c := n.config(mirrored, config.Deny)
		c.Certs = config.Certs{
			Bundles:  []config.BundleSource{{Name: "corp", File: n.etc("server.pem")}},
			KeyPairs: []config.KeyPairSource{{Name: "node", CertFile: n.etc("client.pem"), KeyFile: n.etc("client.key")}},
		}
		c.Registries[0].Mirrors = []config.Mirror{{URL: d.URL(), Path: project,
			TLS: config.TLS{CA: []string{"corp"}, ClientCert: "node"}}}
		n.writeConfig(c)
		n.start()
		n.until(ready, overlap(false))
		n.mustPull(img.under(mirrored), img)

		both := restart(t, d, func(addr string) *direct { return start(addr, one, two) })
		before, err := os.ReadFile(n.hostsTOML(mirrored))
		if err != nil {
			t.Fatal(err)
		}
		n.swap(clientFiles(t, two))
		waitFor(t, "the new certificate in hosts.toml", func() string {
			after, err := os.ReadFile(n.hostsTOML(mirrored))
			if err != nil || string(after) == string(before) {
				return "it names the old one"
			}
			return ""
		})
		n.mustPull(later.under(mirrored), later)
		restart(t, both, func(addr string) *direct { return start(addr, two) })
		n.mustPull(last.under(mirrored), last)
		n.checkKeys()
		row.saw("pulls work with the old, with the new while both are taken, and with the new alone; key files 0600")
	})
}

// restart ends a registry and starts another one at its address.
func restart(t *testing.T, d *direct, start func(addr string) *direct) *direct {
	t.Helper()
	addr := d.Host()
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	return start(addr)
}

func clientFiles(t *testing.T, ca *rig.CA) map[string][]byte {
	t.Helper()
	cert, key, err := ca.IssueClient("node")
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"client.pem": cert, "client.key": key}
}

// checkKeys checks that only root can read the private keys in the hosts directory.
func (n *node) checkKeys() {
	n.t.Helper()
	keys := 0
	err := filepath.WalkDir(n.hosts(), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(data), "PRIVATE KEY") {
			return err
		}
		keys++
		if mode := fileMode(n.t, path); mode != 0o600 {
			n.t.Errorf("the private key %s has mode %s", path, mode)
		}
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
	if keys == 0 {
		n.t.Error("there is no private key in the hosts directory")
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	row := shows(t, newest, "expired and expiring certificates are named, and told as a metric")
	mirror := newMirror(t)
	soon := time.Now().Add(10 * 24 * time.Hour).Truncate(time.Second)
	authority := func(name string, until time.Time) *rig.CA {
		ca, err := rig.NewCAWith(rig.CertOptions{CommonName: name, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: until})
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	n := newNode(t, newest, nil)
	c := n.config(mirrored, config.Deny, mirror)
	n.bundle(c, "extra", authority("Old Corp CA", time.Now().Add(-time.Hour)))
	c.Registries[0].Mirrors[0].CA = append(c.Registries[0].Mirrors[0].CA, "extra")
	n.writeConfig(c)
	n.start()
	n.until(condition(report.CertificatesValid, report.False, "Expired", "ca extra", "Old Corp CA", "replace it"))
	row.saw("expired: CertificatesValid False, names it")

	n.write("extra.pem", authority("Next Corp CA", soon).PEM())
	n.until(ready, condition(report.CertificatesValid, report.True, "Expiring", "Next Corp CA", soon.UTC().Format(time.DateOnly)))
	want := fmt.Sprintf("hotplate_certificate_expiry_timestamp_seconds{used=\"ca extra\"} %v", float64(soon.Unix()))
	if metrics := n.get("/metrics"); !strings.Contains(metrics, want) {
		t.Errorf("want the metric %s in:\n%s", want, metrics)
	}
	if text := n.run("hotplate", "status", "--state-dir", n.path("state")).out; !strings.Contains(text, "Expiring") {
		t.Errorf("hotplate status does not tell of it:\n%s", text)
	}
	row.saw("expiring in 10 days: warning with the date, metric with the time")
}
