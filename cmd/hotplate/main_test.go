package main

import (
	"bytes"
	"errors"
	"flag"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "write the golden files")

// asProgram makes the test binary run as hotplate, for tests of exit codes.
const asProgram = "HOTPLATE_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// hotplate runs a command in this process and returns what it prints.
func hotplate(args ...string) (string, error) {
	var out bytes.Buffer
	cmd := newCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.Execute()
	return out.String(), err
}

// flags returns a command's own flags and its parents', with their defaults.
func flags(cmd *cobra.Command) map[string]string {
	out := make(map[string]string)
	add := func(f *pflag.Flag) {
		if f.Name != "help" && f.Name != "version" {
			out[f.Name] = f.DefValue
		}
	}
	cmd.NonInheritedFlags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	return out
}

// Scripts rely on these.
func TestFlagsAndDefaults(t *testing.T) {
	const address, hostsDir, stateDir = "/run/containerd/containerd.sock", "/etc/containerd/certs.d", "/var/lib/hotplate"
	want := map[string]map[string]string{
		"pull": {"address": address, "hosts-dir": hostsDir, "credentials": "", "output": "text", "pin": "false",
			"platform": "", "state-dir": stateDir,
			"snapshotter": "overlayfs", "max-parallel": "32", "memory": "256Mi", "max-bandwidth": "0", "keep-layers": "Auto",
			"way": "Auto", "disk-reserve": "15%", "low-priority": "false"},
		"lint":    {"containerd-version": ""},
		"explain": {"hosts-dir": hostsDir, "containerd-version": ""},
		"status":  {"output": "text", "state-dir": stateDir},
		"restart": {"address": address, "hosts-dir": hostsDir, "state-dir": stateDir, "output": "text", "unit": "",
			"dependants": "[]", "soak": "30s", "dry-run": "false", "convert-mirrors": "false", "again": "false",
			"without-rescue": "false"},
	}
	for name, flagsOf := range want {
		cmd, _, err := newCommand().Find([]string{name})
		if err != nil || cmd.Name() != name {
			t.Errorf("there is no command %s: %v", name, err)
			continue
		}
		flagsOf["log-level"], flagsOf["log-format"] = "warn", "text"
		if diff := cmp.Diff(flagsOf, flags(cmd)); diff != "" {
			t.Errorf("flags of %s (-want +got):\n%s", name, diff)
		}
	}
	for _, cmd := range newCommand().Commands() {
		if _, ok := want[cmd.Name()]; !ok {
			t.Errorf("flags of %s are not tested", cmd.Name())
		}
	}
	if out, err := hotplate("--version"); err != nil || !strings.Contains(out, "hotplate version "+version) {
		t.Errorf("--version: %q, %v", out, err)
	}
}

func TestWrongUse(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"pull without an image":       {[]string{"pull"}, "requires at least 1 arg"},
		"lint of two files":           {[]string{"lint", "a", "b"}, "accepts 1 arg"},
		"explain without an image":    {[]string{"explain"}, "accepts 1 arg"},
		"status of something":         {[]string{"status", "x"}, `unknown command "x"`},
		"an unknown command":          {[]string{"pul"}, `unknown command "pul"`},
		"a log level, pull":           {[]string{"pull", "a", "--log-level=loud"}, `--log-level "loud"`},
		"a log level, lint":           {[]string{"lint", "a", "--log-level=loud"}, `--log-level "loud"`},
		"a log format, status":        {[]string{"status", "--log-format=xml"}, `--log-format "xml"`},
		"an output of pull":           {[]string{"pull", "a", "-o", "xml"}, `--output "xml": use text or json`},
		"an output of status":         {[]string{"status", "--output", "xml"}, `--output "xml": use text or json`},
		"a version to explain":        {[]string{"explain", "a", "--containerd-version=x"}, "--containerd-version: "},
		"a version to lint":           {[]string{"lint", "a", "--containerd-version=0.1"}, "--containerd-version: "},
		"credentials that are not":    {[]string{"pull", "a", "--credentials=/does/not/exist"}, "read --credentials: "},
		"credentials that are wrong":  {[]string{"pull", "a", "--credentials=/dev/null"}, "read --credentials /dev/null: "},
		"a memory that is none":       {[]string{"pull", "a", "--memory=1GB"}, "is not a number of bytes"},
		"too little memory":           {[]string{"pull", "a", "--memory=1Mi"}, "prefetch.memory: is 1Mi; write at least 16Mi"},
		"a way that cannot be forced": {[]string{"pull", "a", "--way=Direct"}, `prefetch.way: is "Direct"; write one of`},
		"too much at once":            {[]string{"pull", "a", "--max-parallel=1000"}, "prefetch.maxParallel: is 1000"},
		"containerd is away":          {[]string{"pull", "a", "--address=/does/not/exist"}, "connect to containerd (is it running"},
		"no reference":                {[]string{"explain", "UPPER"}, `image "UPPER"`},
	} {
		if _, err := hotplate(c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

func TestExitCodes(t *testing.T) {
	good := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(good, []byte("apiVersion: hotplate.dev/v1alpha1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "c.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, c := range map[string]struct {
		args   []string
		code   int
		stderr string
	}{
		"a good config":  {[]string{"lint", good}, 0, ""},
		"no such config": {[]string{"lint", good + "x"}, 1, "hotplate: open " + good + "x: no such file or directory\n"},
		"no agent": {[]string{"status", "--state-dir", filepath.Dir(good)}, 1,
			"is it running, are you root, is --state-dir its own?"},
		"json of a failed pull is on the output alone": {[]string{"pull", "-o", "json", "--address", socket, "--state-dir",
			filepath.Dir(socket), "UPPER"}, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], c.args...)
			cmd.Env = append(os.Environ(), asProgram+"=1")
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			err := cmd.Run()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if code := cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("exit code %d, want %d; stderr %s", code, c.code, &stderr)
			}
			if got := stderr.String(); c.stderr == "" && got != "" || !strings.Contains(got, c.stderr) {
				t.Errorf("stderr %q, want %q", got, c.stderr)
			}
		})
	}
}
