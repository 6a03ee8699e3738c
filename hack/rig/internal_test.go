package rig

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
)

func TestLimiterKeepsTheRateOfAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var l limiter
		for range 10 {
			if err := l.take(t.Context(), 100, 1000); err != nil {
				t.Fatal(err)
			}
		}
		// The clock of the bubble moves only while everybody waits. The first bytes go at once.
		if got, want := time.Since(start), 900*time.Millisecond; got != want {
			t.Errorf("1000 bytes at 1000 bytes/s took %s, want %s", got, want)
		}
		if err := l.take(t.Context(), 1<<30, 0); err != nil {
			t.Fatal(err)
		}
		if got, want := time.Since(start), 900*time.Millisecond; got != want {
			t.Errorf("without a limit it took %s in all, want no more than %s", got, want)
		}
	})
}

func TestLimiterMakesGoodForLateTimersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limiter
		waited := func(busy time.Duration) time.Duration {
			t.Helper()
			time.Sleep(busy)
			start := time.Now()
			if err := l.take(t.Context(), 100, 10_000); err != nil { // 10 ms each
				t.Fatal(err)
			}
			return time.Since(start)
		}
		// Twenty milliseconds late: the next two go at once. A second idle: nothing is saved up.
		var got []time.Duration
		for _, busy := range []time.Duration{0, 0, 20 * time.Millisecond, 0, 0, time.Second, 0} {
			got = append(got, waited(busy))
		}
		const ms = time.Millisecond
		if diff := cmp.Diff([]time.Duration{0, 10 * ms, 0, 0, 10 * ms, 0, 10 * ms}, got); diff != "" {
			t.Errorf("waits (-want +got):\n%s", diff)
		}
	})
}

func TestLinkPacesAConnectionAcrossAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Link{cfg: LinkConfig{BytesPerSecond: 1 << 20}, ctx: t.Context()}
		start := time.Now()
		var to strings.Builder
		l.download(&to, strings.NewReader(strings.Repeat("x", 2<<20)))
		if to.Len() != 2<<20 || l.Received() != 2<<20 {
			t.Errorf("%d bytes arrived and %d were counted, want %d", to.Len(), l.Received(), 2<<20)
		}
		// The first piece goes at once, and nobody waits after the last one, which is no whole piece.
		piece := pieceAt(1 << 20)
		pieces := (int64(2<<20) / piece) - 1
		if got, want := time.Since(start), time.Duration(pieces)*(time.Duration(piece)*time.Second>>20); got != want {
			t.Errorf("2 MiB at 1 MiB/s took %s, want %s", got, want)
		}
	})
}

func TestUnescapeMount(t *testing.T) {
	for in, want := range map[string]string{
		"/plain":           "/plain",
		`/with\040space`:   "/with space",
		`/back\134slash`:   `/back\slash`,
		`/ends\04`:         `/ends\04`,
		`/tab\011\012line`: "/tab\t\nline",
	} {
		if got := unescapeMount(in); got != want {
			t.Errorf("unescapeMount(%q) is %q, want %q", in, got, want)
		}
	}
}

func TestParentPID(t *testing.T) {
	for in, want := range map[string]int{
		"12 (sh) S 7 12 12":           7,
		"12 (a) b) (c) S 8 12 12":     8,
		"12 (containerd-shim) Z 1 12": 1,
		"":                            0,
		"12 (sh":                      0,
	} {
		if got := parentPID(in); got != want {
			t.Errorf("parentPID(%q) is %d, want %d", in, got, want)
		}
	}
}

func TestDaemonConfigTouchesNoDirectoryOfTheHost(t *testing.T) {
	for _, line := range Lines() {
		t.Run(line, func(t *testing.T) {
			p := containerdPaths{
				root: "/d/root", state: "/d/state", private: "/d/private", grpc: "/d/s", ttrpc: "/d/s.ttrpc",
			}
			text, err := daemonConfig(ContainerdConfig{Line: line, HostsDir: "/d/hosts"}, p)
			if err != nil {
				t.Fatal(err)
			}
			for word := range strings.FieldsSeq(string(text)) {
				path := strings.Trim(word, `'"[],`)
				if strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "/d/") {
					t.Errorf("the configuration names %s:\n%s", path, text)
				}
			}
		})
	}
}

func TestExtraConfigIsMergedTableByTable(t *testing.T) {
	extra := `
		version = 4
		[plugins."io.containerd.grpc.v1.cri"]
		max_concurrent_downloads = 5
		[plugins."io.containerd.grpc.v1.cri".registry]
		config_path = "/other"
		[new]
		key = "value"
	`
	text, err := daemonConfig(ContainerdConfig{Line: "1.7", HostsDir: "/hosts", ExtraConfig: extra}, containerdPaths{})
	if err != nil {
		t.Fatal(err)
	}
	var got table
	if err := toml.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	cri := got["plugins"].(table)["io.containerd.grpc.v1.cri"].(table)
	want := table{"config_path": "/other"}
	if diff := cmp.Diff(want, cri["registry"]); diff != "" {
		t.Errorf("registry (-want +got):\n%s", diff)
	}
	if got["version"] != int64(4) || cri["max_concurrent_downloads"] != int64(5) || cri["restrict_oom_score_adj"] != true {
		t.Errorf("merged to\n%s", text)
	}
	if _, err := daemonConfig(ContainerdConfig{Line: "1.7", ExtraConfig: "["}, containerdPaths{}); err == nil {
		t.Error("ExtraConfig that is not TOML is accepted")
	}
}

func TestUnsetHostsDirLeavesConfigPathUnset(t *testing.T) {
	for _, line := range Lines() {
		text, err := daemonConfig(ContainerdConfig{Line: line}, containerdPaths{})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "config_path") {
			t.Errorf("%s: the configuration has a config_path:\n%s", line, text)
		}
	}
}

func TestProcessEnds(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	stop := func(p *process) error { return p.stop(t.Context()) }
	stopNow := func(p *process) error { return p.stop(ended) }
	tests := map[string]struct {
		script string
		end    func(*process) error
	}{
		"on SIGTERM":                    {"echo ready; exec sleep 1000", stop},
		"on SIGKILL":                    {"echo ready; exec sleep 1000", (*process).kill},
		"killed when no time is left":   {"trap '' TERM; echo ready; exec sleep 1000", stopNow},
		"by itself before it is ended":  {"echo ready", func(p *process) error { <-p.done; return stop(p) }},
		"by itself before it is killed": {"echo ready", func(p *process) error { <-p.done; return p.kill() }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, log := startScript(t, tt.script)
			err := p.waitReady(t.Context(), log, func(context.Context) error {
				if strings.Contains(tail(log), "ready") {
					return nil
				}
				return errors.New("nothing in the log")
			})
			if err != nil && p.running() {
				t.Fatal(err)
			}
			if err := tt.end(p); err != nil {
				t.Error(err)
			}
			if p.running() {
				t.Error("it still runs")
			}
		})
	}
}

func TestWaitReadyShowsTheLogOfAProcessThatEnds(t *testing.T) {
	p, log := startScript(t, "echo the cause; exit 3")
	err := p.waitReady(t.Context(), log, func(context.Context) error { return errors.New("no answer") })
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "the cause") {
		t.Errorf("got %v, want the exit status and the log", err)
	}
}

func startScript(t *testing.T, script string) (p *process, log string) {
	t.Helper()
	log = filepath.Join(t.TempDir(), "log")
	p, err := command{path: "/bin/sh", args: []string{"-c", script}, logPath: log}.start()
	if err != nil {
		t.Fatal(err)
	}
	return p, log
}
