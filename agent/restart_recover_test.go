package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

// begun is a bubble whose agent finds what an earlier one has left.
func begun(t *testing.T, left restart.Outcome, takes time.Duration, f func(t *testing.T, n *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.restarter.set(func(r *fakeRestarter) { r.left, r.recovering = &left, takes })
		n.run()
		f(t, n)
	})
}

func TestWhatAnEarlierAgentHasBegunIsEndedFirst(t *testing.T) {
	left := restart.Outcome{Kind: restart.Restarted, Reason: "config_path is set"}
	begun(t, left, 30*time.Second, func(t *testing.T, n *node) {
		n.source.write(doc)
		after(recoverHead - time.Second)
		if n.host.written() {
			t.Error("a pass was made before")
		}
		after(2 * time.Second) // it takes long; the hosts directory must not wait for it
		n.expect(report.HostsLive, "Unknown", "Restarting", "ends an earlier restart")
		n.expect(report.RegistriesConfigured, "True", "Applied")
		n.expect(report.ContainerdHealthy, "Unknown", "Restarting")
		if n.prober.count() != 0 {
			t.Error("the daemon is probed while it is being restarted")
		}
		after(30 * time.Second)
		n.expect(report.HostsLive, "True", "Live")
		if r := n.Report(); !r.Ready || len(r.Restart.Records) != 1 || r.Restart.Records[0].How != "Restarted" {
			t.Errorf("ready %v, %+v", r.Ready, r.Restart)
		}
		n.restarterDid("recover")
	})
}

func TestAnEarlierRestartThatCannotBeEndedIsTakenUpAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.restarter.set(func(r *fakeRestarter) { r.leftErr = agenttest.ErrBroken })
		n.run()
		n.source.write(doc + "restart: {policy: Never, soak: 1h, withoutRescue: true}\n") // what was begun is ended all the same
		after(3*recoverInterval + time.Second)
		n.restarterDid("recover", "recover", "recover", "recover")
		n.restarter.set(func(r *fakeRestarter) {
			want := config.Restart{Policy: config.RestartNever, WithoutRescue: true, Soak: config.Duration(30 * time.Second)}
			if diff := cmp.Diff(want, r.made[len(r.made)-1]); diff != "" {
				t.Errorf("it is ended as the config says, but soon enough for the node's own timer (-want +got):\n%s", diff)
			}
		})
		n.expect(report.HostsLive, "True", "Live") // as far as it can be told
		n.restarter.set(func(r *fakeRestarter) {
			r.leftErr, r.left = nil, &restart.Outcome{Kind: restart.Abandoned, Reason: "the agent died"}
		})
		after(time.Hour)
		n.restarterDid("recover")
		if got := n.Report().Restart.Records; len(got) != 1 {
			t.Errorf("recorded as %+v", got)
		}
	})
}

// Where CRI works for a moment, the daemon is found deaf; what is said stays the same all the same.
func TestWhatHasFailedIsSaidOnce(t *testing.T) {
	left := restart.Outcome{Kind: restart.Failed, Reason: "it is no better"}
	begun(t, left, 0, func(t *testing.T, n *node) {
		n.prober.set(func(p *fakeProber) { p.verdict = probe.Verdict{Cause: "no such host"} })
		n.source.write(doc)
		after(time.Hour)
		n.expect(report.HostsLive, "False", "RestartFailed", "containerd does not read", "it is no better")
		if got := n.log.Lines("msg=HostsLive"); len(got) != 2 {
			t.Errorf("HostsLive is told as %q", got)
		}
	})
}

func TestADaemonThatDoesNotWorkIsLeftToAPerson(t *testing.T) {
	left := restart.Outcome{Kind: restart.Failed, Reason: "and after the rollback it is no better"}
	begun(t, left, 0, func(t *testing.T, n *node) {
		n.daemon.set(func(d *fakeDaemon) { d.err = agenttest.ErrBroken })
		n.source.write(doc)
		after(10 * time.Minute)
		n.expect(report.HostsLive, "Unknown", "RestartFailed", "no better")
		var ran []string
		n.restarter.set(func(r *fakeRestarter) {
			ran, r.did = r.did, nil
			r.left = &restart.Outcome{Kind: restart.RolledBack, Reason: "containerd works again"}
		})
		for _, did := range ran {
			if did != "recover" {
				t.Errorf("%s is asked of a restarter that has given up", did)
			}
		}
		n.daemon.set(func(d *fakeDaemon) { d.err = nil })
		after(2 * time.Minute)
		n.expect(report.HostsLive, "True", "Live")
		after(time.Hour)
		if s := n.restarts.stats; s.ended[restart.Failed] != 1 || s.ended[restart.RolledBack] != 1 {
			t.Errorf("counted as %v", s.ended)
		}
	})
}
