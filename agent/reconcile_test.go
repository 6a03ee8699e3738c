package agent

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotplate-dev/hotplate/agent/agenttest"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
)

func TestAConflictIsOneRegistrys(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.host.set(func(h *fakeHost) {
			h.conflicts = []hostconfig.Conflict{{Host: "quay.io", Path: "quay.io",
				Reason: "quay.io is a directory that hotplate did not write",
				Action: "set adopt: true for this registry, or remove quay.io", Blocking: true}}
		})
		n.source.write(doc)
		after(time.Minute)
		n.expect(report.RegistriesConfigured, "False", "NotAllApplied", "quay.io: Conflict: ", "set adopt: true")
		r := n.Report()
		if r.Registries[0].State != report.RegistryApplied || r.Registries[1].State != report.RegistryConflict {
			t.Errorf("got %+v", r.Registries)
		}
		if r.Images[0].Phase != report.ImageReady || r.Ready {
			t.Errorf("image %s, ready %v; a conflict elsewhere does not keep images back, and the node is not Ready",
				r.Images[0].Phase, r.Ready)
		}
		n.host.set(func(h *fakeHost) { h.conflicts[0].Host = "" })
		after(idleInterval)
		for _, reg := range n.Report().Registries {
			if reg.State != report.RegistryConflict {
				t.Errorf("a conflict of all: %s is %s", reg.Host, reg.State)
			}
		}
	})
}

func TestDriftIsMendedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.source.write(doc)
		after(time.Minute)
		n.host.meddle("quay.io", "Puppet")
		before := len(n.host.calls())
		n.hosts.wake()
		synctest.Wait()
		if got := len(n.host.calls()) - before; got != 1 {
			t.Errorf("%d passes at once, want 1", got)
		}
		if got := n.log.Lines("somebody else changed", `quay.io/hosts.toml says \"Puppet\"`); len(got) != 1 {
			t.Errorf("the competitor is told as %q", n.log.Lines("somebody"))
		}
		if s := n.hosts.stats.snapshot(); s.drift != 1 {
			t.Errorf("%d changes counted", s.drift)
		}
		if !n.Report().Ready {
			t.Error("the node is not Ready any more, although it was mended")
		}
	})
}

func TestAFightIsLeftAlone(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.source.write(doc)
		after(time.Minute)
		for range flapLimit {
			n.host.meddle("quay.io", "Puppet")
			n.hosts.wake()
			after(time.Second)
		}
		n.host.meddle("quay.io", "Puppet")
		n.hosts.wake()
		after(time.Second)
		calls := n.host.calls()
		if opts := calls[len(calls)-1].opts; !opts.Skip["quay.io"] || opts.Skip["harbor.example.com"] {
			t.Errorf("skipped: %v; want quay.io alone", opts.Skip)
		}
		n.expect(report.RegistriesConfigured, "False", "NotAllApplied", "quay.io: Flapping: ", "Puppet", "left alone until")
		if regs := n.Report().Registries; regs[0].State != report.RegistryApplied ||
			regs[1].State != report.RegistryFlapping {
			t.Errorf("got %+v", regs)
		}
		n.log.Reset()
		after(5 * time.Minute)
		if got := n.log.Lines("somebody else"); len(got) != 0 {
			t.Errorf("told while it is left alone: %q", got)
		}
		after(6 * time.Minute)
		n.expect(report.RegistriesConfigured, "True", "Applied")
		if got := n.hosts.stats.snapshot().drift; got != flapLimit {
			t.Errorf("%d changes counted, want %d: what stood there all the time is nothing new", got, flapLimit)
		}
	})
}

func TestAChangeThatCannotBeMendedCountsOnce(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.source.write(doc)
		after(time.Minute)
		n.host.set(func(h *fakeHost) { h.err = agenttest.ErrBroken })
		n.host.meddle("quay.io", "Puppet")
		after(time.Hour)
		if got := n.hosts.stats.snapshot().drift; got != 1 {
			t.Errorf("counted %d times", got)
		}
		if got := n.log.Lines("somebody else changed"); len(got) != 1 {
			t.Errorf("told %d times", len(got))
		}
		n.host.set(func(h *fakeHost) { h.err = nil })
		after(unsettledInterval)
		n.expect(report.RegistriesConfigured, "True", "Applied") // and not flapping
	})
}

func TestStraysAndWhatIsLeftAreToldOnce(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.source.write(doc)
		after(time.Minute)
		n.host.set(func(h *fakeHost) {
			h.drift["quay.io"] = hostconfig.Drift{Kind: hostconfig.Stray, Host: "quay.io", Path: "quay.io/notes.txt"}
			h.left = []apply.Left{{Path: "/etc/containerd/certs.d/old", Reason: "it was changed since hotplate wrote it"}}
		})
		after(time.Hour)
		if got := n.log.Lines("quay.io/notes.txt"); len(got) != 1 {
			t.Errorf("the stray is told %d times", len(got))
		}
		if got := n.log.Lines("certs.d/old", "it was changed since"); len(got) != 1 {
			t.Errorf("what is left is told %d times", len(got))
		}
		if s := n.hosts.stats.snapshot(); s.drift != 0 {
			t.Errorf("a stray counts as a change of ours")
		}
		n.expect(report.RegistriesConfigured, "True", "Applied")
	})
}

func TestCompetitor(t *testing.T) {
	header, _, _ := strings.Cut(hostconfig.Header, "\n")
	for name, c := range map[string]struct {
		drift hostconfig.Drift
		want  string
	}{
		"it leaves its name": {hostconfig.Drift{Kind: hostconfig.Changed, Path: "p", Comment: "Managed by Ansible"},
			`p says "Managed by Ansible"`},
		"it leaves none": {hostconfig.Drift{Kind: hostconfig.Changed, Path: "p"},
			"p is written by a program that leaves no name in it"},
		"it edits in place and leaves our mark": {hostconfig.Drift{Kind: hostconfig.Changed, Path: "p",
			Comment: strings.TrimPrefix(header, "# ")},
			"p is written by a program that leaves no name in it"},
		"it removes the file": {hostconfig.Drift{Kind: hostconfig.Missing, Path: "p"},
			"p is removed by a program that leaves no name"},
		"it changes the mode": {hostconfig.Drift{Kind: hostconfig.WrongMode, Path: "p", Mode: 0o666,
			Comment: strings.TrimPrefix(header, "# ")},
			"p is given the mode 0666 by a program that leaves no name"},
	} {
		if got, _ := competitor(c.drift); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestProbesAreMadeWhenNeeded(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.restarter.set(func(r *fakeRestarter) { r.absent = errNoSystemd })
		n.source.write(doc)
		after(time.Minute)
		probes := func(want int, why string) {
			t.Helper()
			if got := n.prober.count(); got != want {
				t.Errorf("%s: %d probes in all, want %d", why, got, want)
			}
		}
		probes(1, "one is enough")
		after(probeInterval - 2*time.Minute)
		probes(1, "the verdict is fresh")
		after(2 * time.Minute)
		probes(2, "the verdict is old")
		n.source.write(twoImages)
		after(time.Second)
		probes(2, "a new config is no reason")

		n.daemon.set(func(d *fakeDaemon) { d.info.PID++ })
		n.prober.set(func(p *fakeProber) { p.verdict = probe.Verdict{Cause: "no such host"} })
		after(idleInterval)
		probes(3, "containerd was restarted")
		n.expect(report.HostsLive, "False", "RestartNeeded", "containerd does not read /etc/containerd/certs.d",
			"although it claims this config_path", "no such host")
		if n.Report().Ready {
			t.Error("Ready although containerd does not obey")
		}
		n.log.Reset()
		after(10 * idleInterval)
		if got := n.prober.count(); got < 11 || got > 13 {
			t.Errorf("%d more probes in %s, want one every %s", got-3, 10*idleInterval, idleInterval)
		}
		if got := n.log.Lines("HostsLive"); len(got) != 0 {
			t.Errorf("the same is told again: %q", got)
		}
		n.prober.set(func(p *fakeProber) { p.verdict = probe.Verdict{Live: true} })
		after(idleInterval)
		n.expect(report.HostsLive, "True", "Live")
	})
}

func TestTheNodeIsNotReadyOnTheWordOfADeadProcess(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.source.write(doc + "restart: {policy: Never}\n")
		after(time.Minute)
		n.daemon.set(func(d *fakeDaemon) { d.err = agenttest.ErrBroken })
		after(idleInterval)
		n.daemon.set(func(d *fakeDaemon) { d.err, d.info.PID = nil, 8 })
		n.prober.set(func(p *fakeProber) { p.verdict = probe.Verdict{} })
		n.log.Reset()
		after(idleInterval)
		if got := n.log.Lines("node is Ready"); len(got) != 0 {
			t.Errorf("the new process was not probed, and yet %q", got)
		}
		if got := n.log.Lines("HostsLive", "NotProbed"); len(got) != 1 {
			t.Errorf("that it is another process is told as %q", n.log.Lines("HostsLive"))
		}
	})
}

// The real prober writes into the hosts directory, which wakes the next pass; so does the fake.
func TestAProbeWithoutVerdictIsNotRepeatedAtFullSpeed(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.prober.set(func(p *fakeProber) { p.err = agenttest.ErrBroken })
		n.source.write(doc)
		after(time.Minute)
		n.expect(report.HostsLive, "Unknown", "ProbeFailed", "it is broken")
		if got, most := n.prober.count(), int(time.Minute/unsettledInterval)+1; got > most || got < 2 {
			t.Errorf("%d probes in a minute, want at most %d", got, most)
		}
		if got := n.log.Lines("HostsLive"); len(got) != 1 {
			t.Errorf("told %d times", len(got))
		}
		n.prober.set(func(p *fakeProber) { p.err = nil })
		after(unsettledInterval)
		n.expect(report.HostsLive, "True", "Live")
	})
}

func TestContainerdGoesAndComesBack(t *testing.T) {
	for name, fault := range map[string]func(*fakeDaemon){
		"it does not answer":         func(d *fakeDaemon) { d.err = agenttest.ErrBroken },
		"its CRI plugin is not well": func(d *fakeDaemon) { d.cri = agenttest.ErrBroken },
		"it hangs":                   func(d *fakeDaemon) { d.hang = true },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *node) {
				n.source.write(doc)
				after(time.Minute)
				n.daemon.set(fault)
				before := len(n.host.calls())
				after(idleInterval + daemonTimeout)
				n.expect(report.ContainerdHealthy, "False", "NotAnswering")
				if n.Report().Ready {
					t.Error("still Ready")
				}
				if len(n.host.calls()) == before {
					t.Error("the hosts directory is not looked after")
				}
				if got := n.prober.count(); got != 1 {
					t.Errorf("%d probes of a daemon that is away", got-1)
				}
				n.daemon.set(func(d *fakeDaemon) { d.err, d.cri, d.hang = nil, nil, false })
				after(unsettledInterval + daemonTimeout)
				n.expect(report.ContainerdHealthy, "True", "Answering")
				if !n.Report().Ready {
					t.Error("not Ready again")
				}
			})
		})
	}
}

func TestTheRulesAreThoseOfTheRunningVersion(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.daemon.set(func(d *fakeDaemon) { d.info.Version = "nonsense" })
		n.source.write(doc)
		after(time.Hour)
		if got := n.log.Lines("unknown version", "nonsense"); len(got) != 1 {
			t.Errorf("told %d times", len(got))
		}
		if !n.hosts.version.IsZero() {
			t.Errorf("rules of %s", n.hosts.version)
		}
		n.daemon.set(func(d *fakeDaemon) {
			d.info.Version, d.info.Proxy = "v1.7.30", &daemon.Proxy{HTTPS: "http://proxy.example.com:3128"}
		})
		after(idleInterval)
		if got := n.hosts.version.String(); got != "1.7.30" {
			t.Errorf("rules of %s", got)
		}
		if got := n.Report().Containerd; got.Version != "v1.7.30" || got.Proxy.HTTPS != "http://proxy.example.com:3128" {
			t.Errorf("the report says %+v", got)
		}
	})
}

func TestAChangedHostsDirectoryTriesFailedImagesAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.puller.Set(func(p *agenttest.State) { p.Fails[llama] = agenttest.ErrBroken })
		n.source.write(doc)
		after(time.Hour)
		n.puller.Took()
		n.puller.Set(func(p *agenttest.State) { delete(p.Fails, llama) })
		n.host.meddle("harbor.example.com", "Puppet")
		n.hosts.wake()
		after(2 * time.Second)
		if diff := cmp.Diff([]string{"ensure " + llama}, n.puller.Took()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestWhyContainerdDoesNotObey(t *testing.T) {
	for claimed, want := range map[string]string{
		"":                                     "its config_path is not set to it, as far as it says",
		"/etc/containerd/certs.d":              "although it claims this config_path; another setting overrides it",
		"/etc/containerd/certs.d:/etc/docker/": `is a list, which containerd 2.1 and later ignore`,
		"/elsewhere":                           `its config_path is "/elsewhere"`,
	} {
		r := newReconciler(Config{HostsDir: "/etc/containerd/certs.d"}, nil, nil, nil, nil, nil)
		r.process.ConfigPath = claimed
		if got := r.notLive(); !strings.Contains(got, want) {
			t.Errorf("%q: %s; want %s", claimed, got, want)
		}
	}
}

// mirrored is a config whose one registry has a mirror at url.
func mirrored(url string) string {
	return strings.ReplaceAll(`
apiVersion: hotplate.dev/v1alpha1
registries:
- {host: docker.io, upstream: Deny, mirrors: [{url: "URL", path: p}]}
`, "URL", url)
}

func TestMirrorsAreLookedAtAgainAndAgain(t *testing.T) {
	srv := httptest.NewServer(answers(http.StatusUnauthorized)) // outside of the bubble, where it may wait for the network
	defer srv.Close()
	bubble(t, func(t *testing.T, n *node) {
		n.source.write(mirrored(srv.URL))
		after(time.Second)
		look := func() report.Mirror {
			t.Helper()
			regs := n.Report().Registries
			if len(regs) != 1 || len(regs[0].Mirrors) != 1 {
				t.Fatalf("got %+v", regs)
			}
			return regs[0].Mirrors[0]
		}
		want := report.Mirror{URL: srv.URL + "/p", Reachable: true, Message: "401 Unauthorized"}
		if diff := cmp.Diff(want, look()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		after(time.Hour)
		if got := n.log.Lines("msg=mirror"); len(got) != 1 {
			t.Errorf("told %d times", len(got))
		}
		srv.Close()
		after(idleInterval)
		if m := look(); m.Reachable || !strings.Contains(m.Message, "refused") {
			t.Errorf("it is gone, and the report says %+v", m)
		}
		if !n.Report().Ready {
			t.Error("a mirror that is away makes a node unready whose images are there")
		}
		after(time.Hour)
		if got := n.log.Lines("msg=mirror", "level=WARN"); len(got) != 1 {
			t.Errorf("told %d times: %q", len(got), got)
		}
	})
}

func TestAMirrorThatHangsHoldsNothingUp(t *testing.T) {
	asked, hold := make(chan struct{}, 100), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-hold
	}))
	defer srv.Close()
	defer close(hold)
	n := newNode(t)
	n.source.write(mirrored(srv.URL))
	n.run()
	<-asked
	n.host.meddle("docker.io", "Puppet")
	n.hosts.wake()
	for n.hosts.stats.snapshot().drift == 0 { // ends with the test's own time limit
		time.Sleep(time.Millisecond)
	}
}

func TestAnImageThatFailedWhileContainerdWasAwayIsTriedWhenItIsBack(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.puller.Set(func(p *agenttest.State) { p.Fails[llama] = agenttest.ErrBroken })
		n.daemon.set(func(d *fakeDaemon) { d.err = agenttest.ErrBroken })
		n.source.write(doc)
		after(time.Hour)
		n.puller.Set(func(p *agenttest.State) { delete(p.Fails, llama) })
		n.daemon.set(func(d *fakeDaemon) { d.err = nil })
		n.puller.Took()
		after(unsettledInterval + 2*time.Second)
		if diff := cmp.Diff([]string{"ensure " + llama}, n.puller.Took()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if !n.Report().Ready {
			t.Error("not Ready")
		}
	})
}
