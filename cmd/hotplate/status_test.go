package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// agentWith answers on the status socket of a state directory, and returns that.
func agentWith(t *testing.T, answer http.HandlerFunc) string {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, agent.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(answer)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	return dir
}

func TestStatus(t *testing.T) {
	want := report.NodeReport{Node: "gpu-7", AgentVersion: "v1", Ready: true}
	dir := agentWith(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/status" {
			http.NotFound(w, r)
			return
		}
		if err := json.NewEncoder(w).Encode(want); err != nil {
			t.Error(err)
		}
	})
	out, err := hotplate("status", "--state-dir", dir)
	if err != nil || !strings.HasPrefix(out, "gpu-7: Ready\n") {
		t.Errorf("%v:\n%s", err, out)
	}
	if out, err = hotplate("status", "--state-dir", dir, "--output", "json"); err != nil {
		t.Fatal(err)
	}
	var got report.NodeReport
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStatusSaysWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"an agent that cannot": {func(w http.ResponseWriter,
			_ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
		}, "500 Internal Server Error"},
		"an agent of another version": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
			"is it of another version?"},
	} {
		if _, err := hotplate("status", "--state-dir", agentWith(t, c.answer)); err == nil || !strings.Contains(err.Error(),
			c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if _, err := hotplate("status", "--state-dir", t.TempDir()); err == nil || !strings.Contains(err.Error(),
		"is it running, are you root") {
		t.Errorf("no agent: %v", err)
	}
}
