package cli_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/cmd/internal/cli"
	"github.com/hotplate-dev/hotplate/prefetch"
)

func parse(t *testing.T, args ...string) *cli.Log {
	t.Helper()
	l := new(cli.Log)
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	l.Bind(flags, "info")
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLogLevels(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string // the levels that are logged
	}{
		{nil, "INFO WARN ERROR"},
		{[]string{"--log-level=debug"}, "DEBUG INFO WARN ERROR"},
		{[]string{"--log-level=warn"}, "WARN ERROR"},
		{[]string{"--log-level=ERROR"}, "ERROR"},
	} {
		var out bytes.Buffer
		log, err := parse(t, c.args...).Logger(&out)
		if err != nil {
			t.Errorf("%v: %v", c.args, err)
			continue
		}
		log.Debug("a")
		log.Info("a")
		log.Warn("a")
		log.Error("a")
		var got []string
		for line := range strings.Lines(out.String()) {
			_, rest, _ := strings.Cut(line, "level=")
			level, _, _ := strings.Cut(rest, " ")
			got = append(got, level)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v: logs %v, want %s", c.args, got, c.want)
		}
	}
}

func TestLogFormatJSON(t *testing.T) {
	var out bytes.Buffer
	log, err := parse(t, "--log-format=json").Logger(&out)
	if err != nil {
		t.Fatal(err)
	}
	log.Info("hello", "n", 1)
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line[slog.MessageKey] != "hello" || line["n"] != 1.0 {
		t.Errorf("%v: %s", err, out.Bytes())
	}
}

func TestWrongLogFlags(t *testing.T) {
	for arg, want := range map[string]string{
		"--log-level=loud":  `--log-level "loud": use debug, info, warn or error`,
		"--log-level=":      `--log-level "": use debug, info, warn or error`,
		"--log-format=yaml": `--log-format "yaml": use text or json`,
	} {
		if _, err := parse(t, arg).Logger(nil); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", arg, err, want)
		}
	}
}

func TestCheckSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	if err := cli.CheckSocket(t.Context(), path); err == nil || !strings.Contains(err.Error(), "is it running") ||
		!strings.Contains(err.Error(), path) {
		t.Errorf("there is no socket: %v", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, address := range []string{path, "unix://" + path} {
		if err := cli.CheckSocket(t.Context(), address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// Not each other's: the agent removes from its own what it does not want.
func TestStagingDirsAreApart(t *testing.T) {
	agents, pulls := cli.StagingDir("/state", "hotplate"), cli.StagingDir("/state", cli.PullOwner)
	if agents != "/state/staging/hotplate" || pulls != "/state/staging/hotplate-pull" {
		t.Errorf("partial layers are in %s and %s", agents, pulls)
	}
}

func TestPrefetchConfig(t *testing.T) {
	cfg := config.Config{}
	cfg.Default()
	want := prefetch.Config{MaxParallel: 32, Memory: 256 << 20, KeepLayers: prefetch.KeepAuto, Reserve: 0.15, ChunkSize: 7}
	if diff := cmp.Diff(want, cli.PrefetchConfig(cfg.Prefetch, prefetch.Config{ChunkSize: 7})); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	want = prefetch.Config{MaxParallel: 5, Memory: 1 << 30, MaxBandwidth: 1 << 20, KeepLayers: prefetch.KeepNever,
		Reserve: -1, MaxPinned: 2 << 30, Way: prefetch.API}
	got := cli.PrefetchConfig(config.Prefetch{MaxParallel: 5, Memory: config.Gi, MaxBandwidth: config.Mi,
		KeepLayers: config.KeepNever, DiskReserve: new(config.Percent(0)), MaxPinned: 2 * config.Gi, Way: config.WayAPI},
		prefetch.Config{})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
