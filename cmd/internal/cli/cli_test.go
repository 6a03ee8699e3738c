package cli_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/hotplate-dev/hotplate/cmd/internal/cli"
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
