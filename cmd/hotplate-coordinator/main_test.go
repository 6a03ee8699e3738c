package main

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func TestWrongFlagsAreTold(t *testing.T) {
	t.Setenv("POD_NAME", "")
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--namespace", "hotplate"}, "give --pod-name and --pod-ip"},
		{[]string{"--namespace", "hotplate", "--pod-name", "a", "--pod-ip", "192.0.2.1", "--listen", "8443"}, "is not host:port"},
		{[]string{"--namespace", "hotplate", "--pod-name", "a", "--pod-ip", "192.0.2.1"}, "give --kubeconfig"},
		{[]string{"--namespace", "hotplate", "--pod-name", "a", "--pod-ip", "192.0.2.1", "--kubeconfig", "/does/not/exist"}, "/does/not/exist"},
		{[]string{"extra"}, "unknown command"},
	} {
		cmd := newCommand()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetOut(&bytes.Buffer{})
		cmd.SetArgs(c.args)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: %v, want %q", c.args, err, c.says)
		}
	}
}

// TestTagsAreResolvedAsNodesDo asks through a mirror with a CA of its own and a project, and anew with each config.
func TestTagsAreResolvedAsNodesDo(t *testing.T) {
	mirror := prefetchtest.NewTLSRegistry(t)
	img := prefetchtest.Build(t, 7, 1000)
	mirror.Push(img, "proxy/team/model", "v1")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: mirror.Server().Certificate().Raw})
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	r := &resolving{dir: t.TempDir(), log: slog.New(slog.DiscardHandler)}
	doc := func(path string) config.Snapshot {
		s := config.Read("test", fmt.Appendf(nil, `apiVersion: hotplate.dev/v1alpha1
registries:
- host: registry.example.com
  upstream: Deny
  mirrors:
  - url: %s
    path: %s
    ca: [own]
certs:
  bundles:
  - name: own
    file: %s
`, mirror.URL(), path, file), nil)
		if s.Err != nil {
			t.Fatal(s.Err)
		}
		return s
	}
	for range 3 {
		resolve, err := r.of(doc("proxy"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := resolve(t.Context(), "registry.example.com/team/model:v1")
		if err != nil || got != img.Manifest.Digest.String() {
			t.Errorf("%s, %v; want %s", got, err, img.Manifest.Digest)
		}
	}
	resolve, err := r.of(doc("elsewhere"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := resolve(t.Context(), "registry.example.com/team/model:v1"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("%s, %v; want 404", got, err)
	}
	if left, err := os.ReadDir(r.dir); err != nil || len(left) > 2 {
		t.Errorf("%d directories are left, %v", len(left), err)
	}
	if _, err := r.of(config.Snapshot{Err: http.ErrAbortHandler}); err == nil {
		t.Error("a faulty config is taken")
	}
}
