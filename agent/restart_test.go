package agent

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

// deaf runs f with an agent whose containerd does not read the hosts directory, and that was told of no config yet. The clock
// of the bubble begins on Saturday, 2000-01-01, at midnight UTC.
func deaf(t *testing.T, prepare func(*node), f func(t *testing.T, n *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.prober.set(func(p *fakeProber) { p.verdict = probe.Verdict{Cause: "no such host"} })
		prepare(n)
		n.run()
		synctest.Wait()
		f(t, n)
	})
}

// with sets the fields of the restarter.
func with(f func(*fakeRestarter)) func(*node) { return func(n *node) { n.restarter.set(f) } }

// reasons are those that HostsLive had, in order.
func (n *node) reasons() string {
	var all []string
	for _, line := range n.log.Lines("msg=HostsLive ") {
		_, rest, _ := strings.Cut(line, "reason=")
		reason, _, _ := strings.Cut(rest, " ")
		all = append(all, reason)
	}
	return strings.Join(all, " ")
}

func (n *node) lives(want string) {
	n.t.Helper()
	if got := n.reasons(); got != want {
		n.t.Errorf("HostsLive was %s; want %s", got, want)
	}
}

func TestContainerdIsRestartedWhereNothingElseWillDo(t *testing.T) {
	prepare := with(func(r *fakeRestarter) { r.away, r.soaks = 8*time.Second, 30*time.Second })
	deaf(t, prepare, func(t *testing.T, n *node) {
		n.source.write(doc)
		after(time.Second)
		n.expect(report.HostsLive, "False", "Restarting", "containerd does not read /etc/containerd/certs.d", "restarts it now")
		n.expect(report.ContainerdHealthy, "Unknown", "Restarting", "it is being restarted by hotplate")
		if code, body := scrape(t, n.httpHandler(), "/readyz"); code != http.StatusOK {
			t.Errorf("/readyz says %d %s, while the agent works", code, body)
		}
		after(8*time.Second + unsettledInterval)
		n.expect(report.ContainerdHealthy, "True", "Answering")
		n.expect(report.HostsLive, "False", "Restarting") // it is watched
		if r := n.Report(); r.Ready || r.Images[0].Phase != report.ImagePending || r.Images[0].Reason != report.WaitsForRestart {
			t.Errorf("ready %v, image %+v; images wait for the restart", r.Ready, r.Images[0])
		}
		after(time.Minute)
		n.expect(report.HostsLive, "True", "Live")
		r := n.Report()
		if !r.Ready {
			t.Errorf("not Ready: %+v", r.Conditions)
		}
		want := report.Restart{Policy: "WhenNeeded", Records: []report.RestartRecord{{How: "Restarted", Time: r.Restart.Records[0].Time,
			Reason: "config_path is set", Downtime: 8 * time.Second}}}
		if diff := cmp.Diff(want, r.Restart); diff != "" {
			t.Errorf("told of the restart (-want +got):\n%s", diff)
		}
		n.lives("RestartNeeded Restarting Live")
		if got := n.log.Lines("ContainerdHealthy", "status=False"); len(got) != 0 {
			t.Errorf("a restart is told as a failure: %q", got)
		}
		if got := n.log.Lines("node is Ready"); len(got) != 1 {
			t.Errorf("Ready was told as %q", got)
		}
		after(time.Hour)
		n.restarterDid("recover", "run", "restart")
	})
}

func TestTheHostsDirectoryIsMendedDuringARestart(t *testing.T) {
	deaf(t, with(func(r *fakeRestarter) { r.away, r.soaks = 20*time.Second, time.Hour }), func(t *testing.T, n *node) {
		n.source.write(doc)
		for range 2 { // while containerd is away, and while it is watched
			after(10 * time.Second)
			n.host.meddle("quay.io", "Puppet")
			n.hosts.wake()
			after(daemonTimeout)
			if n.host.set(func(h *fakeHost) {
				if len(h.drift) != 0 {
					t.Error("the hosts directory is not mended")
				}
			}); t.Failed() {
				return
			}
		}
		n.expect(report.HostsLive, "False", "Restarting")
	})
}

func TestThePolicyMayForbidIt(t *testing.T) {
	deaf(t, with(func(*fakeRestarter) {}), func(_ *testing.T, n *node) {
		n.source.write(doc + "restart: {policy: Never}\n")
		after(time.Hour)
		n.expect(report.HostsLive, "False", "RestartForbidden", "containerd does not read", "restart.policy is Never",
			"Set the registry config_path to exactly", "no such host")
		n.expect(report.ImagesReady, "True", "AllReady")
		n.restarterDid("recover")
		n.lives("RestartNeeded RestartForbidden")
		n.source.write(doc)
		after(time.Second)
		n.expect(report.HostsLive, "True", "Live")
	})
}

func TestItIsDoneInTheWindow(t *testing.T) {
	deaf(t, with(func(*fakeRestarter) {}), func(t *testing.T, n *node) {
		n.source.write(doc + "restart: {window: {timeZone: Europe/Berlin, start: 02:15, end: 04:00, days: [Sat]}}\n")
		after(time.Minute)
		n.expect(report.HostsLive, "False", "OutsideWindow", "opens, on Sat 2000-01-01 02:15 CET")
		if next, want := n.Report().Restart.Next, time.Date(2000, 1, 1, 1, 15, 0, 0, time.UTC); !next.Equal(want) {
			t.Errorf("the next try is at %s, want %s", next, want)
		}
		n.expect(report.ImagesReady, "True", "AllReady")
		after(74*time.Minute - time.Second)
		n.restarterDid("recover")
		after(time.Second)
		n.expect(report.HostsLive, "True", "Live")
		n.restarterDid("run", "restart")
	})
}

// What came of it when the window was open last does not count.
func TestItIsTriedAtOnceWhenTheWindowOpensAgain(t *testing.T) {
	deaf(t, with(func(r *fakeRestarter) { r.checks = []restart.Check{unsafe} }), func(_ *testing.T, n *node) {
		n.source.write(doc + "restart: {window: {start: 00:33, end: 00:31}}\n") // closed for two minutes
		after(30*time.Minute + 30*time.Second)
		n.expect(report.HostsLive, "False", "RestartRefused", "unit: KillMode=mixed")
		after(time.Minute)
		n.expect(report.HostsLive, "False", "OutsideWindow", "Sat 2000-01-01 00:33 UTC")
		n.restarter.set(func(r *fakeRestarter) { r.checks = nil })
		after(90 * time.Second)
		n.expect(report.HostsLive, "True", "Live")
	})
}

// runs are the times between the runs of the restarter.
func (n *node) gaps(for_ time.Duration) []time.Duration {
	var all []time.Duration
	last := time.Now()
	for end := last.Add(for_); time.Now().Before(end); {
		after(time.Second)
		var ran bool
		n.restarter.set(func(r *fakeRestarter) { ran, r.did = len(r.did) > 0, nil })
		if ran {
			all = append(all, time.Since(last))
			last = time.Now()
		}
	}
	return all
}

func TestABusyNodeIsAskedLessAndLessOften(t *testing.T) {
	deaf(t, with(func(r *fakeRestarter) { r.checks = []restart.Check{busy} }), func(t *testing.T, n *node) {
		n.source.write(doc)
		after(time.Second)
		n.restarterDid("recover", "run")
		n.expect(report.HostsLive, "False", "RestartDeferred", "busy: images are being pulled")
		gaps := n.gaps(2 * time.Hour)
		if len(gaps) < 10 || len(gaps) > 30 {
			t.Errorf("tried %d times in two hours: %v", len(gaps), gaps)
		}
		for i, gap := range gaps {
			// The waits are random, by half of them each way.
			if least := min(deferMin<<i, deferMax)/2 - 2*time.Second; gap < least || gap > deferMax*3/2+2*time.Second {
				t.Errorf("the wait %d was %s, want at least %s", i, gap, least)
			}
		}
		_, metrics := scrape(t, n.httpHandler(), "/metrics")
		if strings.Contains(metrics, `hotplate_restart_deferrals_total{reason="busy"} 0`) {
			t.Error("the deferrals are not counted")
		}
		if got := len(n.log.Lines("HostsLive")); got != 2 {
			t.Errorf("told %d times, want once that it is needed and once that it is put off", got)
		}
		n.restarter.set(func(r *fakeRestarter) { r.did = nil })
		n.source.write(doc + "restart: {soak: 1m}\n") // another config begins anew
		after(time.Second)
		n.restarterDid("run")
		if gaps := n.gaps(90 * time.Second); len(gaps) == 0 {
			t.Error("the waits have not begun anew with the config")
		}
		after(10 * time.Minute)
		n.restarter.set(func(r *fakeRestarter) { r.did = nil })
		n.daemon.set(func(d *fakeDaemon) { d.info.PID++ }) // somebody else has restarted it
		after(unsettledInterval)
		n.restarterDid("run")
		n.restarter.set(func(r *fakeRestarter) { r.checks = nil })
		after(2 * time.Minute)
		n.expect(report.HostsLive, "True", "Live")
	})
}

func TestWhatIsNotSafeIsOnlyLookedAt(t *testing.T) {
	deaf(t, with(func(r *fakeRestarter) { r.checks = []restart.Check{unsafe, busy} }), func(t *testing.T, n *node) {
		n.source.write(doc)
		after(time.Second)
		n.restarterDid("recover", "run")
		n.expect(report.HostsLive, "False", "RestartRefused", "would not be safe", "unit: KillMode=mixed", "every 10 minutes")
		after(time.Second)
		n.expect(report.ImagesReady, "True", "AllReady") // they do not wait for it
		after(time.Hour)
		n.restarterDid("assess", "assess", "assess", "assess", "assess", "assess")
		if got := len(n.log.Lines("HostsLive")); got != 2 {
			t.Errorf("told %d times", got)
		}
		want := []report.Check{{Name: "unit", Verdict: "refuse", Detail: "KillMode=mixed"},
			{Name: "busy", Verdict: "defer", Detail: "images are being pulled"}, {Name: "need", Verdict: "pass",
				Detail: "it does not read the directory"}}
		if diff := cmp.Diff(want, n.Report().Restart.Checks); diff != "" {
			t.Errorf("checks (-want +got):\n%s", diff)
		}
		n.source.write(doc + "restart: {soak: 1m}\n")
		after(time.Second)
		n.restarterDid("run")
		n.restarter.set(func(r *fakeRestarter) { r.checks = nil })
		after(refusedInterval)
		n.restarterDid("assess", "run", "restart")
		n.expect(report.HostsLive, "True", "Live")
		_, metrics := scrape(t, n.httpHandler(), "/metrics")
		if !strings.Contains(metrics, `hotplate_restart_refusals_total{reason="unit"} 8`) {
			t.Error("the refusals are not counted by their check")
		}
	})
}

func TestARestartThatWasTakenBackIsNotTriedAgain(t *testing.T) {
	prepare := with(func(r *fakeRestarter) { r.ends = restart.Outcome{Kind: restart.RolledBack, Reason: "it did not start"} })
	deaf(t, prepare, func(t *testing.T, n *node) {
		n.source.write(doc)
		synctest.Wait()
		n.restarter.set(func(r *fakeRestarter) { r.checks = []restart.Check{before} })
		after(time.Hour)
		n.expect(report.HostsLive, "False", "RolledBack", "it was tried and taken back")
		var ran int
		n.restarter.set(func(r *fakeRestarter) { ran = strings.Count(strings.Join(r.did, " "), "restart") })
		if ran != 1 {
			t.Errorf("it was restarted %d times", ran)
		}
		if got := n.Report().Restart.Records; len(got) != 1 || got[0].How != "RolledBack" || got[0].Reason != "it did not start" {
			t.Errorf("recorded as %+v", got)
		}
		_, metrics := scrape(t, n.httpHandler(), "/metrics")
		for _, want := range []string{`hotplate_restarts_total{outcome="RolledBack"} 1`,
			`hotplate_restart_last_timestamp_seconds{outcome="RolledBack"} 9.466848e+08`} {
			if !strings.Contains(metrics, want) {
				t.Errorf("no %s in\n%s", want, metrics)
			}
		}
	})
}

func TestWithoutSystemdItIsSaidWhatToDoByHand(t *testing.T) {
	deaf(t, with(func(r *fakeRestarter) { r.absent = errNoSystemd }), func(_ *testing.T, n *node) {
		n.source.write(doc)
		after(time.Hour)
		n.expect(report.HostsLive, "False", "RestartNeeded", "cannot restart it here: "+errNoSystemd.Error(),
			"Set the registry config_path to exactly")
		n.expect(report.ImagesReady, "True", "AllReady")
		n.lives("RestartNeeded RestartNeeded")
		n.restarterDid()
		n.source.write(doc + "restart: {policy: Never}\n")
		after(time.Second)
		n.expect(report.HostsLive, "False", "RestartForbidden")
		n.source.write(doc)
		after(time.Second)
		n.restarter.set(func(r *fakeRestarter) { r.absent = nil })
		after(2 * time.Minute)
		n.expect(report.HostsLive, "True", "Live")
	})
}

func TestAnErrorIsToldAndTriedAgain(t *testing.T) {
	deaf(t, with(func(r *fakeRestarter) { r.failed = agenttest.ErrBroken }), func(_ *testing.T, n *node) {
		n.source.write(doc)
		after(time.Second)
		n.expect(report.HostsLive, "False", "RestartNeeded", "cannot restart it here: it is broken")
		n.restarter.set(func(r *fakeRestarter) { r.failed = restart.ErrBusy })
		after(2 * time.Minute)
		n.expect(report.HostsLive, "False", "RestartDeferred", "somebody else restarts containerd")
		n.restarter.set(func(r *fakeRestarter) { r.failed = nil })
		after(deferMax)
		n.expect(report.HostsLive, "True", "Live")
	})
}

// Run of the real one goes on until the node heals by itself, so the agent waits for it.
func TestTheEndOfTheAgentWaitsForARestart(t *testing.T) {
	deaf(t, with(func(r *fakeRestarter) { r.away, r.soaks = 20*time.Second, time.Hour }), func(t *testing.T, n *node) {
		n.source.write(doc)
		after(time.Second)
		began := time.Now()
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d != 19*time.Second {
			t.Errorf("it ended after %s, with containerd away", d)
		}
		n.daemon.set(func(d *fakeDaemon) {
			if d.err != nil {
				t.Error("containerd is away")
			}
		})
	})
}

func TestOnceRestartsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.prober.set(func(p *fakeProber) { p.verdict = probe.Verdict{Cause: "no such host"} })
		n.source.write(doc)
		r, err := n.Once(t.Context())
		if err != nil || !r.Ready {
			t.Errorf("%v: ready %v: %+v", err, r.Ready, r.Conditions)
		}
		n.restarterDid("recover", "run", "restart")
	})
}
