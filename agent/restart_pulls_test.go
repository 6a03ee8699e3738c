package agent

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
	"github.com/hotplate-dev/hotplate/prefetch"
)

// pulling runs f when a pull is under way on a node whose containerd has just been found deaf. It takes that long.
func pulling(t *testing.T, takes time.Duration, prepare func(*fakeRestarter), f func(t *testing.T, n *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.puller.Takes = takes
		n.restarter.set(prepare)
		n.run()
		n.source.write(doc)
		after(time.Second)
		n.expect(report.HostsLive, "True", "Live")
		n.restarterDid("recover")
		n.daemon.set(func(d *fakeDaemon) { d.info.PID++ }) // somebody restarts it with another config
		n.prober.set(func(p *fakeProber) { p.verdict = probe.Verdict{Cause: "no such host"} })
		n.puller.Took()
		after(idleInterval)
		f(t, n)
	})
}

// A pull in the API way is in the way: the daemon is busy while it goes on, and for two minutes after it was cancelled.
func TestAPullThatIsInTheWayIsInterrupted(t *testing.T) {
	var last time.Time // when a byte of it came
	prepare := func(r *fakeRestarter) {
		last = time.Now().Add(time.Hour)
		r.busy = func() bool { return time.Since(last) < 2*time.Minute }
	}
	pulling(t, time.Hour, prepare, func(t *testing.T, n *node) {
		n.restarterDid("assess")
		n.expect(report.HostsLive, "False", "RestartDeferred", "pulls of hotplate's own")
		if got := n.puller.Took(); len(got) != 0 {
			t.Errorf("within the first minute: %q", got)
		}
		if img := n.Report().Images[0]; img.Phase != report.ImageResolving {
			t.Errorf("the pull under way is told as %+v", img)
		}
		after(drainGrace)
		n.restarter.set(func(*fakeRestarter) { last = time.Now() })
		if got := n.puller.Took(); len(got) != 1 || got[0] != "cancelled "+llama {
			t.Errorf("after a minute: %q", got)
		}
		if img := n.Report().Images[0]; img.Phase != report.ImagePending || img.Reason != report.WaitsForRestart {
			t.Errorf("the image that waits is told as %+v", img)
		}
		after(2*time.Minute + quietInterval)
		n.expect(report.HostsLive, "True", "Live")
		if got := n.puller.Took(); len(got) == 0 || got[len(got)-1] != "ensure "+llama {
			t.Errorf("it is not pulled on: %q", got)
		}
	})
}

// A restart begins in the window, however long pulls took to end.
func TestTheWindowMayCloseWhilePullsEnd(t *testing.T) {
	prepare := func(r *fakeRestarter) {
		closes := time.Now().Add(2 * time.Minute)
		r.busy = func() bool { return time.Now().Before(closes) }
	}
	pulling(t, time.Hour, prepare, func(t *testing.T, n *node) {
		n.source.write(doc + "restart: {window: {start: 12:00, end: 00:01}}\n")
		after(2 * time.Minute)
		n.expect(report.HostsLive, "False", "OutsideWindow")
		n.restarter.set(func(r *fakeRestarter) {
			for _, did := range r.did {
				if did == "restart" {
					t.Error("it was restarted after the window had closed")
				}
			}
		})
		n.source.write(doc + "restart: {window: {start: 12:00, end: 00:09}}\n")
		after(3 * time.Minute)
		n.expect(report.HostsLive, "True", "Live")
	})
}

// On a node that others keep busy, hotplate's own pulls must get on.
func TestPullsAreInterruptedAtMostEveryHour(t *testing.T) {
	prepare := func(r *fakeRestarter) { r.checks = []restart.Check{busy} }
	pulling(t, 3*time.Hour, prepare, func(t *testing.T, n *node) {
		began := time.Now()
		n.puller.Inside = func(context.Context, prefetch.Image, *prefetch.Progress) error { return nil }
		cancelled := 0
		for time.Since(began) < 4*time.Hour {
			after(time.Minute)
			for _, did := range n.puller.Took() {
				if did == "cancelled "+llama {
					cancelled++
				}
			}
		}
		if cancelled < 3 || cancelled > 4 {
			t.Errorf("interrupted %d times in 4 hours", cancelled)
		}
		n.expect(report.HostsLive, "False", "RestartDeferred")
	})
}

// A pull in the direct way outlives a restart of containerd.
func TestAPullThatIsNotInTheWayGoesOn(t *testing.T) {
	pulling(t, time.Hour, func(*fakeRestarter) {}, func(t *testing.T, n *node) {
		n.expect(report.HostsLive, "True", "Live") // again
		n.restarterDid("assess", "run", "restart")
		if got := n.puller.Took(); len(got) != 0 {
			t.Errorf("the pull was disturbed: %q", got)
		}
		after(time.Hour)
		n.expect(report.ImagesReady, "True", "AllReady")
	})
}

func TestPullsGoOnWhereARestartIsNotSafe(t *testing.T) {
	prepare := func(r *fakeRestarter) { r.checks = []restart.Check{busy, unsafe} }
	pulling(t, time.Hour, prepare, func(t *testing.T, n *node) {
		n.restarterDid("assess")
		after(45 * time.Minute)
		if got := n.puller.Took(); len(got) != 0 {
			t.Errorf("the pull was disturbed: %q", got)
		}
	})
}

func TestImagesDoNotWaitForeverForTheFirstVerdict(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.daemon.set(func(d *fakeDaemon) { d.err = agenttest.ErrBroken })
		n.source.write(doc)
		after(time.Second)
		if img := n.Report().Images[0]; img.Reason != report.WaitsForRestart {
			t.Errorf("at the start: %+v", img)
		}
		after(firstVerdict + 2*time.Second)
		if img := n.Report().Images[0]; img.Phase != report.ImageReady {
			t.Errorf("later: %+v", img)
		}
	})
}
