package main

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/cmd/internal/cli"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
)

// running is a state directory that somebody has locked, with an agent in it that answers.
func running(t *testing.T, answer http.HandlerFunc) (flags []string) {
	t.Helper()
	dir, hosts := agentWith(t, answer), filepath.Join(t.TempDir(), "certs.d")
	host, err := apply.Open(t.Context(), apply.Config{HostsDir: hosts, StateDir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	return []string{"restart", "--state-dir", dir, "--hosts-dir", hosts}
}

func TestADryRunAsksTheAgentThatRuns(t *testing.T) {
	for verdict, c := range map[string]struct {
		live bool
		text string
		code error
	}{
		"pass":   {false, "it would be done", nil},
		"refuse": {false, "it would be refused; nothing would be touched", cli.ErrSilent},
		"defer":  {false, "it would be put off; nothing would be touched", cli.ExitError(exitBusy)},
		"note":   {true, "nothing to do", nil},
	} {
		t.Run(verdict, func(t *testing.T) {
			is := report.Assessment{Verdict: verdict, Live: c.live, Diff: "--- a\n+++ b\n",
				Checks: []report.Check{{Name: "unit", Verdict: "pass", Detail: "containerd.service spares its containers"}}}
			args := running(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v1/restart" {
					t.Errorf("asked for %s", r.URL.Path)
				}
				if err := json.NewEncoder(w).Encode(is); err != nil {
					t.Error(err)
				}
			})
			want := "pass    unit           containerd.service spares its containers\n\n--- a\n+++ b\n\n" + c.text + "\n"
			out, err := hotplate(append(args, "--dry-run")...)
			if diff := cmp.Diff(want, out); diff != "" || !errors.Is(err, c.code) {
				t.Errorf("%v, want %v; output (-want +got):\n%s", err, c.code, diff)
			}
			out, err = hotplate(append(args, "--dry-run", "--output=json")...)
			var got report.Assessment
			if jerr := json.Unmarshal([]byte(out), &got); jerr != nil || !errors.Is(err, c.code) {
				t.Fatalf("%v, %v:\n%s", jerr, err, out)
			}
			if diff := cmp.Diff(is, got); diff != "" {
				t.Errorf("JSON (-want +got):\n%s", diff)
			}
		})
	}
}

func TestARestartBesideTheAgentSaysWhatToDo(t *testing.T) {
	args := running(t, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "systemd cannot be reached", http.StatusServiceUnavailable)
	})
	for flag, want := range map[string][]string{
		"--dry-run": {"in use by another process", "503 Service Unavailable: systemd cannot be reached"},
		"--again":   {"in use by another process", "stop it first", "restart.policy", "hotplate status", "hotplate restart --dry-run"},
	} {
		_, err := hotplate(append(args, flag)...)
		for _, part := range want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v, want %q", flag, err, part)
			}
		}
	}
}
