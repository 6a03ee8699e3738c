package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotplate-dev/hotplate/agent/agenttest"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig/configtoml"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/fetch"
)

// scrape asks the agent's own handler.
func scrape(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

// told gives the agent a state with something of everything in it.
func (n *node) told() {
	n.source.write(twoImages)
	n.puller.Set(func(p *agenttest.State) {
		p.Fails[qwen] = agenttest.ErrBroken
		p.Result = prefetch.Result{Way: prefetch.API, WayReason: "the snapshotter is native", BoundBy: prefetch.BoundNetwork}
	})
	n.puller.Counters = prefetch.Stats{
		Hosts: map[string]fetch.HostStats{"harbor.example.com": {Bytes: 1 << 30, Requests: 140,
			Retries: map[string]int64{"429": 3, "cut": 1}, Stalls: 1, Rescues: 2, InFlight: 7, Limit: 16,
			Latency: fetch.Histogram{Bounds: []float64{0.1, 1}, Counts: []int64{100, 30, 10}, Sum: 60}}},
		BytesByWay: map[prefetch.WayName]int64{prefetch.API: 1 << 30}, MemoryUsed: 1 << 20, MemoryLimit: 1 << 28, Waiting: 5,
	}
	if _, err := n.Once(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
	end := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	n.view.update(func(r *report.NodeReport) {
		r.Config.Rejected = []string{"config.yaml:1: fault"}
		r.Registries = []report.Registry{
			{Host: "docker.io", State: report.RegistryApplied, Mirrors: []report.Mirror{
				{URL: "https://harbor.example.com/a", Reachable: true},
				{URL: "https://harbor.example.com/b", Message: "refused"},
			}},
			{Host: "quay.io", State: report.RegistryConflict, Mirrors: []report.Mirror{{URL: "https://harbor.example.com/a"}}},
		}
		r.Certificates = []report.Certificate{
			{Used: "ca harbor", Subject: "CN=a", NotAfter: end.AddDate(1, 0, 0)},
			{Used: "ca harbor", Subject: "CN=b", NotAfter: end},
			{Used: "client certificate node", Subject: "CN=c", NotAfter: end},
		}
	})
	n.view.set(report.HostsLive, report.Unknown, "ProbeFailed", "")
	n.restarts.stats.add(restart.Outcome{Kind: restart.Restarted, Downtime: 200 * time.Millisecond})
	n.restarts.stats.add(restart.Outcome{Kind: restart.Deferred, Checks: []restart.Check{busy, busy, unsafe}})
	n.restarts.stats.add(restart.Outcome{Kind: restart.Refused, Checks: []restart.Check{unsafe, busy}})
	n.restarts.need.recorded([]restart.Outcome{{Kind: restart.Restarted, Time: end.UTC()}, {Kind: restart.RolledBack}})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.told()
		code, body := scrape(t, n.httpHandler(), "/metrics")
		if code != http.StatusOK {
			t.Fatalf("status %d: %s", code, body)
		}
		agenttest.Golden(t, *update, "metrics.golden", body)
		known := regexp.MustCompile(`^(version|containerd|type|registry|url|used|image|phase|by|way|reason|host|cause|le|outcome)$`)
		for _, label := range regexp.MustCompile(`[{,]([a-z_]+)="`).FindAllStringSubmatch(body, -1) {
			if !known.MatchString(label[1]) {
				t.Errorf("label %s: is the number of its values bounded by the config?", label[1])
			}
		}
	})
}

func TestMetricsBeforeTheFirstConfig(t *testing.T) {
	n := newNode(t)
	code, body := scrape(t, n.httpHandler(), "/metrics")
	if code != http.StatusOK || !strings.Contains(body, "hotplate_ready 0") {
		t.Errorf("status %d:\n%s", code, body)
	}
}

func TestHealthz(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		h := n.httpHandler()
		synctest.Wait()
		if code, body := scrape(t, h, "/healthz"); code != http.StatusOK {
			t.Errorf("at the start: %d %s", code, body)
		}
		n.daemon.set(func(d *fakeDaemon) { d.err = agenttest.ErrBroken })
		n.source.write(faulty)
		after(time.Hour)
		if code, body := scrape(t, h, "/healthz"); code != http.StatusOK {
			t.Errorf("containerd and the config are no reason to restart the agent: %d %s", code, body)
		}
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
		after(stuckAfter - idleInterval)
		if code, body := scrape(t, h, "/healthz"); code != http.StatusOK {
			t.Errorf("a pause is no standstill: %d %s", code, body)
		}
		after(idleInterval + time.Second)
		if code, body := scrape(t, h, "/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(body,
			"no pass") {
			t.Errorf("nothing turns any more, and it says %d %s", code, body)
		}
	})
}

func TestReadyz(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		h := n.httpHandler()
		expect := func(want int, part string) {
			t.Helper()
			if code, body := scrape(t, h, "/readyz"); code != want || !strings.Contains(body, part) {
				t.Errorf("got %d %q, want %d %q", code, body, want, part)
			}
		}
		expect(http.StatusServiceUnavailable, "no config in force")
		n.puller.Set(func(p *agenttest.State) { p.Fails[llama] = agenttest.ErrBroken })
		n.source.write(doc)
		after(10 * time.Second)
		n.expect(report.ImagesReady, "False", "ImageFailed")
		expect(http.StatusOK, "ok") // the agent works, whatever becomes of its images
		n.daemon.set(func(d *fakeDaemon) { d.err = agenttest.ErrBroken })
		after(idleInterval)
		expect(http.StatusServiceUnavailable, "containerd: NotAnswering: it is broken")
	})
}

func TestWhatARestartWouldDoIsServed(t *testing.T) {
	deaf(t, with(func(r *fakeRestarter) {
		r.checks = []restart.Check{unsafe}
		r.edit = configtoml.Edit{Path: "/etc/containerd/config.toml", Old: []byte("a = 1\n"), New: []byte("a = 2\n")}
	}), func(t *testing.T, n *node) {
		h := n.statusHandler()
		ask := func() (is report.Assessment) {
			t.Helper()
			code, body := scrape(t, h, "/v1/restart")
			if err := json.Unmarshal([]byte(body), &is); code != http.StatusOK || err != nil {
				t.Errorf("%d %s: %v", code, body, err)
			}
			return is
		}
		if code, body := scrape(t, h, "/v1/restart"); code != http.StatusServiceUnavailable || !strings.Contains(body, "no config in force") {
			t.Errorf("before there is a config: %d %s", code, body)
		}
		n.source.write(doc + "restart: {soak: 2m, dependants: [app.service], convertMirrors: true}\n")
		after(time.Second)
		is := ask()
		want := report.Assessment{Verdict: "refuse", Checks: []report.Check{
			{Name: "unit", Verdict: "refuse", Detail: "KillMode=mixed"},
			{Name: "need", Verdict: "pass", Detail: "it does not read the directory"}}, Diff: is.Diff}
		if diff := cmp.Diff(want, is); diff != "" || !strings.Contains(is.Diff, "+++ /etc/containerd/config.toml") {
			t.Errorf("(-want +got):\n%s\n%s", diff, is.Diff)
		}
		n.restarter.set(func(r *fakeRestarter) {
			if last := r.made[len(r.made)-1]; last.Soak != config.Duration(2*time.Minute) || len(last.Dependants) != 1 ||
				!last.ConvertMirrors {
				t.Errorf("it is asked of a restarter for %+v", last)
			}
			r.checks, r.soaks = nil, 10*time.Minute
		})
		after(refusedInterval)
		n.expect(report.HostsLive, "False", "Restarting")
		if code, body := scrape(t, h, "/v1/restart"); code != http.StatusServiceUnavailable ||
			!strings.Contains(body, "a restart of containerd is under way; see hotplate status") {
			t.Errorf("during a restart: %d %s", code, body)
		}
		after(15 * time.Minute)
		if is := ask(); !is.Live {
			t.Errorf("after it: %+v", is)
		}
	})
}

func TestWhatARestartWouldDoCannotBeToldWithoutSystemd(t *testing.T) {
	n := newNode(t)
	n.restarter.absent = errNoSystemd
	n.restarts.need.want(defaults(), "hash")
	if code, body := scrape(t, n.statusHandler(), "/v1/restart"); code != http.StatusServiceUnavailable ||
		!strings.Contains(body, errNoSystemd.Error()) {
		t.Errorf("%d %s", code, body)
	}
}

func TestOnlyWhatIsServedIsServed(t *testing.T) {
	n := newNode(t)
	for _, path := range []string{"/", "/v1/status", "/v1/restart", "/debug/pprof/"} {
		if code, _ := scrape(t, n.httpHandler(), path); code != http.StatusNotFound {
			t.Errorf("%s: %d", path, code)
		}
	}
	if code, _ := scrape(t, n.statusHandler(), "/metrics"); code != http.StatusNotFound {
		t.Errorf("metrics on the status socket: %d", code)
	}
}

// serve lets the agent answer in the background and returns the address of its metrics and what ends it.
func (n *node) serve() (address string, stop func() error) {
	n.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	address = l.Addr().String()
	l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Serve(ctx, address) }()
	for {
		if _, err := os.Stat(filepath.Join(n.dir, SocketName)); err == nil {
			if conn, err := net.Dial("unix", filepath.Join(n.dir, SocketName)); err == nil {
				conn.Close()
				break
			}
		}
		select {
		case err := <-ended:
			n.t.Fatalf("Serve ended: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	return address, func() error {
		cancel()
		return <-ended
	}
}

// get asks over the status socket, or over TCP with an empty one.
func get(t *testing.T, socket, url string) []byte {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context,
		network, addr string) (net.Conn, error) {
		if socket != "" {
			network, addr = "unix", socket
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v: %s", url, resp.Status, err, body)
	}
	return body
}

func TestServe(t *testing.T) {
	n := newNode(t)
	n.puller.Takes = 0
	n.told()
	socket := filepath.Join(n.dir, SocketName)
	// What an agent that was killed leaves.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()

	address, stop := n.serve()
	var got report.NodeReport
	if err := json.Unmarshal(get(t, socket, "http://agent/v1/status"), &got); err != nil {
		t.Errorf("the status is no NodeReport: %v", err)
	}
	want := n.Report()
	want.Time, got.Time = time.Time{}, time.Time{}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the status differs from the report (-report +status):\n%s", diff)
	}
	if body := get(t, "", "http://"+address+"/healthz"); string(body) != "ok\n" {
		t.Errorf("healthz says %q", body)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode is %v, %v; want 0600", info.Mode(), err)
	}
	if err := stop(); err != nil {
		t.Errorf("the end of the context ends it with %v", err)
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestServeSaysWhatIsInItsWay(t *testing.T) {
	n := newNode(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := n.Serve(t.Context(), l.Addr().String()); err == nil || !strings.Contains(err.Error(),
		"choose another --listen") {
		t.Errorf("the port is taken: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(n.dir, SocketName, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := n.Serve(t.Context(), "127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), SocketName) {
		t.Errorf("a directory is in the socket's place: %v", err)
	}
	n.cfg.StateDir = filepath.Join(n.dir, "gone")
	if err := n.Serve(t.Context(), "127.0.0.1:0"); err == nil || strings.Contains(err.Error(), fs.ErrInvalid.Error()) {
		t.Errorf("the state directory is gone: %v", err)
	}
}

// A cluster in which nobody has written a config yet must not wait for agents that have nothing to do.
func TestAnAgentThatHasNoConfigIsReadyWhereThereIsNone(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.source.docs <- config.Snapshot{Err: fmt.Errorf("x does not exist: %w", config.ErrNoDocument)}
		after(time.Minute)
		n.expect(report.ConfigValid, "False", "NoConfig", "x does not exist")
		if code, body := scrape(t, n.httpHandler(), "/readyz"); code != http.StatusOK {
			t.Errorf("/readyz says %d %s", code, body)
		}
		n.source.write(faulty)
		after(time.Second)
		if code, _ := scrape(t, n.httpHandler(), "/readyz"); code != http.StatusServiceUnavailable {
			t.Errorf("with a config that is refused, and no other, /readyz says %d", code)
		}
	})
}
