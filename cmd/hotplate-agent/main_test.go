package main

import (
	"bytes"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"

	"github.com/hotplate-dev/hotplate/hostconfig/restart"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// program runs the program in this process and returns what it prints.
func program(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := newCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// Scripts rely on these.
func TestFlagsAndDefaults(t *testing.T) {
	host := map[string]string{
		"address": "/run/containerd/containerd.sock", "hosts-dir": "/etc/containerd/certs.d",
		"state-dir":   "/var/lib/hotplate",
		"snapshotter": "overlayfs", "log-level": "info", "log-format": "text",
	}
	own := map[string]string{"config": "/etc/hotplate/config.yaml", "once": "false", "node-name": "",
		"listen": "127.0.0.1:9464", "config-map": "", "namespace": "", "run-dir": "/run/hotplate",
		"coordinator-token": "/var/run/secrets/hotplate.dev/coordinator/token"}
	flags := func(cmd *cobra.Command) map[string]string {
		out := make(map[string]string)
		cmd.Flags().VisitAll(func(f *pflag.Flag) { out[f.Name] = f.DefValue })
		return out
	}
	for name, value := range host {
		own[name] = value
	}
	cmd := newCommand()
	if diff := cmp.Diff(own, flags(cmd)); diff != "" {
		t.Errorf("flags (-want +got):\n%s", diff)
	}
	uninstall, _, err := cmd.Find([]string{"uninstall"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(host, flags(uninstall)); diff != "" {
		t.Errorf("flags of uninstall (-want +got):\n%s", diff)
	}
	if out, err := program(t, "--version"); err != nil || !strings.Contains(out, "hotplate-agent version "+version) {
		t.Errorf("--version: %q, %v", out, err)
	}
}

func TestWrongUse(t *testing.T) {
	for arg, want := range map[string]string{
		"--log-level=loud": `--log-level "loud"`, "--log-format=xml": `--log-format "xml"`,
		"--loud": "unknown flag", "pull": "unknown command",
	} {
		if _, err := program(t, arg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", arg, err, want)
		}
		if !strings.HasPrefix(arg, "--") {
			continue
		}
		if _, err := program(t, "uninstall", arg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("uninstall %s: %v, want %s", arg, err, want)
		}
	}
}

func TestAClusterIsFoundOrTheProgramSaysWhatToDo(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	t.Setenv("POD_NAMESPACE", "")
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--config-map=hotplate-config"}, "give --namespace, or POD_NAMESPACE in the environment"},
		{[]string{"--config-map=hotplate-config", "--namespace=hotplate"}, "find the Kubernetes API (outside of a cluster use --config)"},
		{[]string{"--config-map=hotplate-config", "--config=x"}, "none of the others can be"},
	} {
		if _, err := program(t, test.args...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want %q", test.args, err, test.want)
		}
	}
}

func TestNodeName(t *testing.T) {
	t.Setenv("NODE_NAME", "gpu-7")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ given, env, want string }{{"a", "gpu-7", "a"}, {"", "gpu-7", "gpu-7"}, {"", "", host}} {
		t.Setenv("NODE_NAME", test.env)
		if got, err := nodeName(test.given); err != nil || got != test.want {
			t.Errorf("%q, with %q in the environment: %q, %v", test.given, test.env, got, err)
		}
	}
}

// What uninstall prints becomes lines of the log where the node is released.
func TestLogLines(t *testing.T) {
	var out bytes.Buffer
	l := &logLines{log: slog.New(slog.NewTextHandler(&out, nil))}
	for _, part := range []string{"removed a\nun", "pinned", " b\n", "\n"} {
		if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if got := strings.Count(out.String(), "\n"); got != 3 || !strings.Contains(out.String(), `done="unpinned b"`) {
		t.Errorf("the log says\n%s", out.String())
	}
}

// Without containerd, --once writes what it can, says what is wrong and fails; uninstall puts the directory back and
// says what it
// could not do.
func TestOnceAndUninstallWithoutContainerd(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	const doc = "apiVersion: hotplate.dev/v1alpha1\nregistries:\n- {host: harbor.example.com, tls: {skipVerify: true}}\n"
	if err := os.WriteFile(path("config.yaml"), []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	// A socket that nobody listens on, as a daemon leaves that died: for one that is not there, its client waits long.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path("no.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if err := os.Mkdir(path("certs.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	where := []string{"--address", path("no.sock"), "--hosts-dir", path("certs.d"), "--state-dir", path("state"),
		"--log-level=error"}

	out, err := program(t, append([]string{"--once", "--config", path("config.yaml"), "--node-name=gpu-7"}, where...)...)
	if err == nil || err.Error() != "the node is not Ready" {
		t.Errorf("got %v", err)
	}
	for _, part := range []string{"gpu-7: not Ready", "ContainerdHealthy     False", "no.sock",
		"harbor.example.com  Applied"} {
		if !strings.Contains(out, part) {
			t.Errorf("the status has no %q:\n%s", part, out)
		}
	}
	if _, err := os.Stat(path("certs.d/harbor.example.com/hosts.toml")); err != nil {
		t.Error(err)
	}

	out, err = program(t, append([]string{"uninstall"}, where...)...)
	if err == nil || !strings.Contains(err.Error(), "nobody can tell now whether hotplate has pinned images here") {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(out, "removed harbor.example.com\n") || strings.Contains(out, "uninstalled") {
		t.Errorf("it says:\n%s", out)
	}
	var left []string
	err = fs.WalkDir(os.DirFS(path("certs.d")), ".", func(p string, _ fs.DirEntry, err error) error {
		left = append(left, p)
		return err
	})
	if diff := cmp.Diff([]string{"."}, left); err != nil || diff != "" {
		t.Errorf("%v; left in the hosts directory (-want +got):\n%s", err, diff)
	}
}

func TestAStateDirectoryThatCannotBeUsed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := program(t, "--state-dir", file, "--hosts-dir", file, "--config", file); err == nil ||
		!strings.Contains(err.Error(), file) {
		t.Errorf("a state directory that is a file: %v", err)
	}
}

// Without systemd, what is left of restarts is named, and the rest is taken back.
func TestUninstallWithoutSystemd(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	o := options{address: path("no.sock"), hostsDir: path("certs.d"), stateDir: path("state"),
		systemd: systemd.Config{PrivateSocket: path("no.private"), SystemBus: path("no.bus")}}
	o.log.Bind(pflag.NewFlagSet("", pflag.ContinueOnError), "error")
	unit := path("state/restart/" + restart.BootUnit)
	if err := os.MkdirAll(filepath.Dir(unit), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(unit, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := o.uninstall(t.Context(), &out)
	for _, part := range []string{"hotplate-restore.service may be left on this node", "run uninstall again where systemd can be reached",
		path("no.private"), "nobody can tell now whether hotplate has pinned images here"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("it does not say %q: %v", part, err)
		}
	}
	if _, err := os.Stat(unit); err != nil {
		t.Errorf("what a later uninstall goes by is gone: %v", err)
	}
}
