//go:build e2e

package probe

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/hostconfig"
	hostdaemon "github.com/hotplate-dev/hotplate/hostconfig/daemon"
)

// writer publishes without the care of package apply, which another test of the real path uses.
type writer struct{ dir string }

func (w writer) publish(_ context.Context, dir string, files hostconfig.Tree) (func(context.Context) error, error) {
	for name, f := range files {
		path := filepath.Join(w.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, f.Data, f.Mode); err != nil {
			return nil, err
		}
	}
	return func(context.Context) error { return os.RemoveAll(filepath.Join(w.dir, dir)) }, nil
}

// TestVerdictIsTheTruth asks real daemons, and compares the verdict with what the line is known to do.
func TestVerdictIsTheTruth(t *testing.T) {
	for _, line := range rigtest.Lines(t) {
		version, err := hostconfig.ParseVersion(line)
		if err != nil {
			t.Fatal(err)
		}
		ignoresLists := version.Compare(hostconfig.Version{Major: 2, Minor: 1}) >= 0
		for _, tt := range []struct {
			name       string
			configPath func(dir string) string
			env        []string
			live       bool
		}{
			{"one directory", func(dir string) string { return dir }, nil, true},
			{"a trailing slash", func(dir string) string { return dir + "/" }, nil, true},
			{"behind a proxy that is dead", func(dir string) string { return dir },
				[]string{"HTTP_PROXY=http://127.0.0.1:9", "HTTPS_PROXY=http://user:secret@127.0.0.1:9"}, true},
			{"not set", func(string) string { return "" }, nil, false},
			{"another directory", func(dir string) string { return dir + ".other" }, nil, false},
			{"a list", func(dir string) string { return dir + ":" + dir + ".other" }, nil, !ignoresLists},
		} {
			t.Run(line+"/"+tt.name, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "certs.d")
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				d := rigtest.Containerd(t, rig.ContainerdConfig{Line: line, HostsDir: tt.configPath(dir), Env: tt.env})
				client, err := hostdaemon.Connect(d.Address())
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				p, err := New(Config{Pull: client.PullImage, Publish: writer{dir}.publish})
				if err != nil {
					t.Fatal(err)
				}
				v, err := p.Probe(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if v.Live != tt.live {
					t.Errorf("verdict %+v, want live=%v", v, tt.live)
				}
				if want := "containerd/" + d.Version(); tt.live && line != "1.6" && !strings.HasPrefix(v.UserAgent, want) {
					t.Errorf("user agent %q, want %s", v.UserAgent, want)
				}
				checkInfo(t, client, d, tt.env)
			})
		}
	}
}

// checkInfo compares what package daemon says with what the rig knows.
func checkInfo(t *testing.T, client *hostdaemon.Client, d *rig.Containerd, env []string) {
	t.Helper()
	if err := client.CheckCRI(t.Context()); err != nil && !strings.Contains(err.Error(), "NetworkReady") {
		t.Errorf("CRI: %v", err)
	}
	info, err := client.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.PID != d.PID() {
		t.Errorf("pid %d, want %d", info.PID, d.PID())
	}
	if !strings.HasPrefix(info.Version, d.Version()) {
		t.Errorf("version %q, want %q", info.Version, d.Version())
	}
	if info.Proxy == nil {
		t.Fatal("the daemon's proxy setting cannot be read")
	}
	if env == nil && *info.Proxy != (hostdaemon.Proxy{}) {
		t.Errorf("proxy %+v, want none", *info.Proxy)
	}
	if text := fmt.Sprint(*info.Proxy); env != nil && (!strings.Contains(text, "127.0.0.1:9") || strings.Contains(text, "secret")) {
		t.Errorf("proxy %s: want the address without the password", text)
	}
}

func TestDaemonWithoutCRIGivesNoVerdict(t *testing.T) {
	dir := t.TempDir()
	client, err := hostdaemon.Connect(filepath.Join(dir, "no.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	p, err := New(Config{Pull: client.PullImage, Publish: writer{dir}.publish})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := p.Probe(t.Context()); err == nil {
		t.Errorf("verdict %+v of a daemon that is not there", v)
	}
}
