// Package rigtest starts the rig's parts for a test: a failure to start fails the test, everything ends with it, and a
// part's log is printed when the test failed.
package rigtest

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

// LinesVariable is the environment variable that chooses containerd lines: "all", or names with commas between them.
const LinesVariable = "HOTPLATE_LINES"

// FullVariable asks for what takes minutes. TableVariable names the file to which a run's table is written as Markdown.
const (
	FullVariable  = "HOTPLATE_FULL"
	TableVariable = "HOTPLATE_TABLE"
)

// Full tells whether to run what takes minutes.
func Full() bool { return os.Getenv(FullVariable) != "" }

// Machine is what a table says of where it was made.
func Machine() string {
	return fmt.Sprintf("%s on %s/%s, %d CPUs", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
}

// Lines returns the containerd lines to test: 1.7 and 2.4 unless LinesVariable says otherwise.
func Lines(t testing.TB) []string {
	t.Helper()
	switch v := os.Getenv(LinesVariable); v {
	case "":
		return []string{"1.7", "2.4"}
	case "all":
		return rig.Lines()
	default:
		return strings.Split(v, ",")
	}
}

// RequireRoot skips the test where it cannot work.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containerd needs root")
	}
}

// Containerd starts a daemon in a directory of the test.
func Containerd(t testing.TB, cfg rig.ContainerdConfig) *rig.Containerd {
	t.Helper()
	RequireRoot(t)
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	d, err := rig.StartContainerd(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, "containerd "+d.Version(), d.LogPath(), d.Close) })
	return d
}

// CRI connects to the daemon.
func CRI(t testing.TB, d *rig.Containerd) *rig.CRI {
	t.Helper()
	c, err := rig.DialCRI(t.Context(), d.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, "CRI client", "", c.Close) })
	return c
}

// CA makes a certificate authority that is named after the test.
func CA(t testing.TB) *rig.CA {
	t.Helper()
	ca, err := rig.NewCA(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// Registry starts a registry in a directory of the test.
func Registry(t testing.TB, cfg rig.RegistryConfig) *rig.Registry {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	r, err := rig.StartRegistry(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, "registry", r.LogPath(), r.Close) })
	return r
}

// Proxy starts a proxy.
func Proxy(t testing.TB, cfg rig.ProxyConfig) *rig.Proxy {
	t.Helper()
	p, err := rig.StartProxy(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, "proxy", "", p.Close) })
	return p
}

func end(t testing.TB, name, logPath string, closePart func() error) {
	t.Helper()
	if err := closePart(); err != nil {
		t.Errorf("close %s: %v", name, err)
	}
	if logPath != "" {
		printLog(t, name, logPath)
	}
}

// printLog prints the end of a log when the test failed.
func printLog(t testing.TB, name, path string) {
	t.Helper()
	if !t.Failed() {
		return
	}
	const most = 64 << 10
	log, err := os.ReadFile(path)
	if err != nil {
		t.Logf("%s has no log: %v", name, err)
		return
	}
	t.Logf("log of %s:\n%s", name, log[max(0, len(log)-most):])
}

// Mirror is one host directory of certs.d, for tests that are not about writing it.
type Mirror struct {
	// Host is the name in image references.
	Host string
	// URL of the mirror, without a path.
	URL string
	// Path is put before the repository's name, as with a Harbor project. Empty: none.
	Path string
	// CA is the PEM bundle to trust. Empty: the system's.
	CA []byte
	// Username and Password are sent as a header, if Username is set.
	Username, Password string
	// Upstream is the server to fall back to. Empty: none.
	Upstream string
}

// Write writes the mirror's host directory below hostsDir. It does not replace files atomically.
func (m Mirror) Write(t testing.TB, hostsDir string) {
	t.Helper()
	dir := filepath.Join(hostsDir, m.Host)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mirror, err := url.Parse(m.URL)
	if err != nil {
		t.Fatal(err)
	}
	settings := "capabilities = [\"pull\", \"resolve\"]\n"
	if m.Path != "" {
		mirror.Path = "/v2/" + strings.Trim(m.Path, "/")
		settings += "override_path = true\n"
	}
	if len(m.CA) > 0 {
		ca := filepath.Join(dir, "ca.pem")
		if err := os.WriteFile(ca, m.CA, 0o644); err != nil {
			t.Fatal(err)
		}
		settings += fmt.Sprintf("ca = %q\n", ca)
	}
	header := ""
	if m.Username != "" {
		basic := base64.StdEncoding.EncodeToString([]byte(m.Username + ":" + m.Password))
		header = fmt.Sprintf("[host.%q.header]\nAuthorization = \"Basic %s\"\n", mirror, basic)
	}
	var text string
	if m.Upstream != "" {
		text = fmt.Sprintf("server = %q\n", m.Upstream)
	} else {
		// Without an upstream the server is the mirror itself, with the same settings; otherwise containerd would fall
		// back to the host in the reference.
		text = fmt.Sprintf("server = %q\n%s", mirror, settings)
	}
	text += fmt.Sprintf("[host.%q]\n%s%s", mirror, settings, header)
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
