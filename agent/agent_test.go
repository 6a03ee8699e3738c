package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
)

const (
	llama = "harbor.example.com/models/llama:v1"
	qwen  = "harbor.example.com/models/qwen:v1"
	// doc has no mirrors, so that nothing looks at the network.
	doc = `
apiVersion: hotplate.dev/v1alpha1
registries:
- {host: harbor.example.com, tls: {skipVerify: true}}
- {host: quay.io, tls: {skipVerify: true}, adopt: true}
images:
- {name: llama, ref: "` + llama + `"}
`
	twoImages = doc + `- {name: qwen, ref: "` + qwen + `"}
`
	faulty = "apiVersion: hotplate.dev/v1alpha1\nregistreis: []\nimage: 1\n"
)

// bubble runs f with a running agent on fakes and a clock of its own.
func bubble(t *testing.T, f func(t *testing.T, n *node)) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.run()
		f(t, n)
	})
}

func TestANodeBecomesReady(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		synctest.Wait()
		if r := n.Report(); r.Ready || r.Config.Hash != "" || len(n.host.calls()) != 0 {
			t.Errorf("without a config there is already %+v", r)
		}
		hash := n.source.write(doc)
		synctest.Wait()
		r := n.Report()
		if r.Ready || r.Config.Hash != hash {
			t.Errorf("ready %v, hash %q; want false, %q", r.Ready, r.Config.Hash, hash)
		}
		n.expect(report.ConfigValid, "True", "Accepted")
		n.expect(report.ContainerdHealthy, "True", "Answering", "2.4.2")
		n.expect(report.RegistriesConfigured, "True", "Applied", "2 registries")
		n.expect(report.HostsLive, "True", "Live", "no restart needed", "containerd/2.4.2", "/etc/containerd/certs.d")
		n.expect(report.CertificatesValid, "True", "Valid")
		n.expect(report.ImagesReady, "False", "Preparing", "llama")
		after(2 * time.Second)
		n.expect(report.ImagesReady, "True", "AllReady")
		r = n.Report()
		if !r.Ready || len(r.Images) != 1 || r.Images[0].Phase != report.ImageReady {
			t.Errorf("not Ready: %+v", r)
		}
		want := []report.Registry{{Host: "harbor.example.com", State: report.RegistryApplied}, {Host: "quay.io", State: report.RegistryApplied}}
		if diff := cmp.Diff(want, r.Registries); diff != "" {
			t.Errorf("registries (-want +got):\n%s", diff)
		}
		if got := len(n.log.lines("node is Ready")); got != 1 {
			t.Errorf("told %d times that the node is Ready", got)
		}
		opts := n.host.calls()[0].opts
		if diff := cmp.Diff(apply.Options{Adopt: map[string]bool{"harbor.example.com": false, "quay.io": true}, Skip: map[string]bool{}},
			opts); diff != "" {
			t.Errorf("options of Apply (-want +got):\n%s", diff)
		}
		if err := n.stop(); err != nil {
			t.Errorf("the end of the context ends it with %v", err)
		}
	})
}

func TestAQuietNodeLogsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.source.write(doc)
		after(time.Minute)
		n.log.reset()
		after(time.Hour)
		if got := n.log.lines(); len(got) != 0 {
			t.Errorf("nothing happened, and the log has %q", got)
		}
		before := n.hosts.stats.snapshot().passes
		after(time.Hour)
		if got, want := n.hosts.stats.snapshot().passes-before, int(time.Hour/idleInterval); got < want || got > want+10 {
			t.Errorf("%d passes in an hour, want about %d", got, want)
		}
	})
}

// The fake puller fails the test when an image is sought before.
func TestImagesWaitForTheHostsDirectory(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.host.set(func(h *fakeHost) { h.err = errBroken })
		hash := n.source.write(doc)
		after(time.Minute)
		n.expect(report.RegistriesConfigured, "False", "WriteFailed", "it is broken")
		n.expect(report.ImagesReady, "Unknown", "Starting")
		r := n.Report()
		for _, reg := range r.Registries {
			if reg.State != report.RegistryFailed || reg.Message != "it is broken" {
				t.Errorf("%s is %s: %s", reg.Host, reg.State, reg.Message)
			}
		}
		if r.Config.Hash != "" {
			t.Errorf("the report says that %s is in force", r.Config.Hash)
		}
		if got := n.puller.took(); len(got) != 0 {
			t.Errorf("asked of the puller: %q", got)
		}
		if got, want := len(n.host.calls()), int(time.Minute/unsettledInterval); got < want {
			t.Errorf("tried %d times in a minute, want %d", got, want)
		}
		if got := n.log.lines("RegistriesConfigured"); len(got) != 1 {
			t.Errorf("told %d times: %q", len(got), got)
		}
		n.host.set(func(h *fakeHost) { h.err = nil })
		after(unsettledInterval + 2*time.Second)
		if r := n.Report(); !r.Ready || r.Config.Hash != hash {
			t.Errorf("mended, and ready is %v, the hash %q", r.Ready, r.Config.Hash)
		}
	})
}

func TestReadyIsAboutTheConfigInTheReport(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		old := n.source.write(doc)
		after(time.Minute)
		n.daemon.set(func(d *fakeDaemon) { d.hang = true }) // the pass takes its time
		n.source.write(twoImages)
		after(daemonTimeout / 2)
		if r := n.Report(); r.Config.Hash != old || !r.Ready {
			t.Errorf("in the midst of a pass: hash %q, ready %v; want the old ones", r.Config.Hash, r.Ready)
		}
		n.daemon.set(func(d *fakeDaemon) { d.hang = false })
		n.host.set(func(h *fakeHost) { h.err = errBroken })
		after(daemonTimeout)
		if r := n.Report(); r.Config.Hash != old || r.Ready {
			t.Errorf("not written: hash %q, ready %v; want the old one and false", r.Config.Hash, r.Ready)
		}
		n.host.set(func(h *fakeHost) { h.err = nil })
		for range 20 {
			after(time.Second)
			r := n.Report()
			if r.Config.Hash == old {
				continue
			}
			if ready := len(r.Images) == 2 && r.Images[1].Phase == report.ImageReady; r.Ready != ready {
				t.Fatalf("the report says ready %v of %+v", r.Ready, r.Images)
			}
		}
		if r := n.Report(); !r.Ready || len(r.Images) != 2 {
			t.Errorf("at the end: %+v", r)
		}
	})
}

func TestAConflictIsOneRegistrys(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.host.set(func(h *fakeHost) {
			h.conflicts = []hostconfig.Conflict{{Host: "quay.io", Path: "quay.io", Reason: "quay.io is a directory that hotplate did not write",
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
		if got := n.log.lines("somebody else changed", `quay.io/hosts.toml says \"Puppet\"`); len(got) != 1 {
			t.Errorf("the competitor is told as %q", n.log.lines("somebody"))
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
		if regs := n.Report().Registries; regs[0].State != report.RegistryApplied || regs[1].State != report.RegistryFlapping {
			t.Errorf("got %+v", regs)
		}
		n.log.reset()
		after(5 * time.Minute)
		if got := n.log.lines("somebody else"); len(got) != 0 {
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
		n.host.set(func(h *fakeHost) { h.err = errBroken })
		n.host.meddle("quay.io", "Puppet")
		after(time.Hour)
		if got := n.hosts.stats.snapshot().drift; got != 1 {
			t.Errorf("counted %d times", got)
		}
		if got := n.log.lines("somebody else changed"); len(got) != 1 {
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
		if got := n.log.lines("quay.io/notes.txt"); len(got) != 1 {
			t.Errorf("the stray is told %d times", len(got))
		}
		if got := n.log.lines("certs.d/old", "it was changed since"); len(got) != 1 {
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
		"it leaves its name": {hostconfig.Drift{Kind: hostconfig.Changed, Path: "p", Comment: "Managed by Ansible"}, `p says "Managed by Ansible"`},
		"it leaves none":     {hostconfig.Drift{Kind: hostconfig.Changed, Path: "p"}, "p is written by a program that leaves no name in it"},
		"it edits in place and leaves our mark": {hostconfig.Drift{Kind: hostconfig.Changed, Path: "p", Comment: strings.TrimPrefix(header, "# ")},
			"p is written by a program that leaves no name in it"},
		"it removes the file": {hostconfig.Drift{Kind: hostconfig.Missing, Path: "p"}, "p is removed by a program that leaves no name"},
		"it changes the mode": {hostconfig.Drift{Kind: hostconfig.WrongMode, Path: "p", Mode: 0o666, Comment: strings.TrimPrefix(header, "# ")},
			"p is given the mode 0666 by a program that leaves no name"},
	} {
		if got := competitor(c.drift); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestProbesAreMadeWhenNeeded(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
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
		n.log.reset()
		after(10 * idleInterval)
		if got := n.prober.count(); got < 11 || got > 13 {
			t.Errorf("%d more probes in %s, want one every %s", got-3, 10*idleInterval, idleInterval)
		}
		if got := n.log.lines("HostsLive"); len(got) != 0 {
			t.Errorf("the same is told again: %q", got)
		}
		n.prober.set(func(p *fakeProber) { p.verdict = probe.Verdict{Live: true} })
		after(idleInterval)
		n.expect(report.HostsLive, "True", "Live")
	})
}

func TestTheNodeIsNotReadyOnTheWordOfADeadProcess(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.source.write(doc)
		after(time.Minute)
		n.daemon.set(func(d *fakeDaemon) { d.err = errBroken })
		after(idleInterval)
		n.daemon.set(func(d *fakeDaemon) { d.err, d.info.PID = nil, 8 })
		n.prober.set(func(p *fakeProber) { p.verdict = probe.Verdict{} })
		n.log.reset()
		after(idleInterval)
		if got := n.log.lines("node is Ready"); len(got) != 0 {
			t.Errorf("the new process was not probed, and yet %q", got)
		}
		if got := n.log.lines("HostsLive", "NotProbed"); len(got) != 1 {
			t.Errorf("that it is another process is told as %q", n.log.lines("HostsLive"))
		}
	})
}

// The real prober writes into the hosts directory, which wakes the next pass; so does the fake.
func TestAProbeWithoutVerdictIsNotRepeatedAtFullSpeed(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.prober.set(func(p *fakeProber) { p.err = errBroken })
		n.source.write(doc)
		after(time.Minute)
		n.expect(report.HostsLive, "Unknown", "ProbeFailed", "it is broken")
		if got, most := n.prober.count(), int(time.Minute/unsettledInterval)+1; got > most || got < 2 {
			t.Errorf("%d probes in a minute, want at most %d", got, most)
		}
		if got := n.log.lines("HostsLive"); len(got) != 1 {
			t.Errorf("told %d times", len(got))
		}
		n.prober.set(func(p *fakeProber) { p.err = nil })
		after(unsettledInterval)
		n.expect(report.HostsLive, "True", "Live")
	})
}

func TestContainerdGoesAndComesBack(t *testing.T) {
	for name, fault := range map[string]func(*fakeDaemon){
		"it does not answer":         func(d *fakeDaemon) { d.err = errBroken },
		"its CRI plugin is not well": func(d *fakeDaemon) { d.cri = errBroken },
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
		if got := n.log.lines("unknown version", "nonsense"); len(got) != 1 {
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

func TestAnInvalidConfigKeepsTheLastGoodOne(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		good := n.source.write(doc)
		after(time.Minute)
		n.source.write(faulty)
		after(time.Minute)
		r := n.Report()
		if !r.Ready || r.Config.Hash != good {
			t.Errorf("ready %v, hash %q; want the good one to serve", r.Ready, r.Config.Hash)
		}
		if len(r.Config.Rejected) != 2 || !strings.Contains(r.Config.Rejected[0], "config.yaml:2: ") {
			t.Errorf("rejected: %q; want both faults with their lines", r.Config.Rejected)
		}
		n.expect(report.ConfigValid, "False", "Rejected", "registreis", "image")
		if got := n.log.lines("level=ERROR", "ConfigValid"); len(got) != 1 {
			t.Errorf("told %d times", len(got))
		}
		next := n.source.write(twoImages)
		after(time.Minute)
		if r := n.Report(); r.Config.Hash != next || r.Config.Rejected != nil || !r.Ready {
			t.Errorf("mended, and the report says %+v", r.Config)
		}
		n.expect(report.ConfigValid, "True", "Accepted")
	})
}

func TestAStartWithAnInvalidConfig(t *testing.T) {
	t.Run("the last good one is used", func(t *testing.T) {
		bubble(t, func(t *testing.T, n *node) {
			good := n.source.write(doc)
			after(time.Minute)
			if err := n.stop(); err != nil {
				t.Fatal(err)
			}
			n.start()
			n.run()
			n.source.write(faulty)
			after(time.Minute)
			r := n.Report()
			if !r.Ready || r.Config.Hash != good || len(r.Config.Rejected) == 0 {
				t.Errorf("ready %v, config %+v; want the last good one and what is wrong with the new", r.Ready, r.Config)
			}
			if got := n.log.lines("using the last good config"); len(got) != 1 {
				t.Errorf("told %d times", len(got))
			}
			n.source.write(faulty + "\n# still faulty")
			after(time.Minute)
			if got := n.log.lines("using the last good config"); len(got) != 1 {
				t.Errorf("put in force again: told %d times", len(got))
			}
		})
	})
	for name, lastGood := range map[string]string{"there is no earlier one": "", "the earlier one is broken too": faulty} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *node) {
				if lastGood != "" {
					if err := os.WriteFile(n.lastGoodPath(), []byte(lastGood), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				n.source.write(faulty)
				after(time.Hour)
				if len(n.host.calls()) != 0 || len(n.puller.took()) != 0 || n.prober.count() != 0 {
					t.Error("the node was touched")
				}
				if got := n.log.lines("the node stays as it is"); len(got) != 1 {
					t.Errorf("told %d times", len(got))
				}
				n.expect(report.ConfigValid, "False", "Rejected")
				n.expect(report.ContainerdHealthy, "True", "Answering")
				n.source.write(doc)
				after(time.Minute)
				if !n.Report().Ready {
					t.Error("mended, and the node is not Ready")
				}
			})
		})
	}
}

func TestTheLastGoodConfigIsKept(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.source.write(doc)
		after(time.Second)
		data, err := os.ReadFile(n.lastGoodPath())
		if err != nil || string(data) != doc {
			t.Errorf("kept is %q, %v", data, err)
		}
		if info, err := os.Stat(n.lastGoodPath()); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info, err)
		}
		if err := os.RemoveAll(n.dir); err != nil {
			t.Fatal(err)
		}
		next := n.source.write(twoImages)
		after(time.Minute)
		if r := n.Report(); r.Config.Hash != next || !r.Ready {
			t.Errorf("it could not be kept, and is not in force either: %+v", r.Config)
		}
		if got := n.log.lines("level=ERROR", "fall back"); len(got) != 1 {
			t.Errorf("told %d times", len(got))
		}
	})
}

func TestLimitsAndLoginsReachThePuller(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.source.write(doc + "prefetch: {maxParallel: 3, memory: 32Mi}\n")
		after(time.Second)
		want := []config.Prefetch{{MaxParallel: 3, Memory: 32 * config.Mi}}
		n.puller.set(func(p *fakePuller) {
			if diff := cmp.Diff(want, p.made); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
		if user, secret, err := n.logins("harbor.example.com"); user+secret != "" || err != nil {
			t.Errorf("a login that nobody gave: %s, %s, %v", user, secret, err)
		}
	})
}

func TestAChangedHostsDirectoryTriesFailedImagesAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.puller.set(func(p *fakePuller) { p.fails[llama] = errBroken })
		n.source.write(doc)
		after(time.Hour)
		n.puller.took()
		n.puller.set(func(p *fakePuller) { delete(p.fails, llama) })
		n.host.meddle("harbor.example.com", "Puppet")
		n.hosts.wake()
		after(2 * time.Second)
		if diff := cmp.Diff([]string{"ensure " + llama}, n.puller.took()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestRunEndsWithTheErrorOfAPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.source.fail <- errBroken
		if err := n.Run(t.Context()); !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "read config") {
			t.Errorf("got %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		cfg := n.config()
		cfg.NewPuller = func(config.Prefetch, Logins) (Puller, error) { return nil, errBroken }
		a, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		n.source.write(doc)
		if err := a.Run(t.Context()); !errors.Is(err, errBroken) {
			t.Errorf("got %v", err)
		}
	})
}

func TestWithoutAWatchTheTimerHasToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.watch = errBroken
		n.source.write(doc)
		n.run()
		after(time.Minute)
		if !n.Report().Ready {
			t.Error("not Ready")
		}
		n.host.meddle("quay.io", "Puppet")
		after(idleInterval)
		if got := n.hosts.stats.snapshot().drift; got != 1 {
			t.Errorf("%d changes were seen, want 1", got)
		}
		if got := n.log.lines("not watched", "it is broken"); len(got) != 1 {
			t.Errorf("told %d times", len(got))
		}
		after(2 * watchRetry)
		if got := n.log.lines("not watched"); len(got) != 3 {
			t.Errorf("tried %d times, want 3", len(got))
		}
	})
}

func TestOnce(t *testing.T) {
	once := func(t *testing.T, prepare func(n *node), check func(t *testing.T, n *node, r report.NodeReport, err error)) {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t)
			prepare(n)
			r, err := n.Once(t.Context())
			check(t, n, r, err)
		})
	}
	t.Run("all is well", func(t *testing.T) {
		once(t, func(n *node) { n.source.write(twoImages) }, func(t *testing.T, n *node, r report.NodeReport, err error) {
			if err != nil || !r.Ready || len(r.Images) != 2 {
				t.Errorf("%v, ready %v", err, r.Ready)
			}
			if got := len(n.host.calls()); got != 1 {
				t.Errorf("written %d times", got)
			}
		})
	})
	t.Run("an image fails, and the next is tried", func(t *testing.T) {
		once(t, func(n *node) {
			n.puller.fails[llama] = errBroken
			n.source.write(twoImages)
		}, func(t *testing.T, n *node, r report.NodeReport, err error) {
			if err != nil || r.Ready || r.Images[0].Phase != report.ImageFailed || r.Images[1].Phase != report.ImageReady {
				t.Errorf("%v, %+v", err, r.Images)
			}
			if diff := cmp.Diff([]string{"ensure " + llama, "ensure " + qwen}, n.puller.took()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	})
	t.Run("the config is rejected, whatever was last good", func(t *testing.T) {
		once(t, func(n *node) {
			if err := os.WriteFile(n.lastGoodPath(), []byte(doc), 0o600); err != nil {
				n.t.Fatal(err)
			}
			n.source.write(faulty)
		}, func(t *testing.T, n *node, r report.NodeReport, err error) {
			if err == nil || !strings.Contains(err.Error(), "registreis") || len(r.Config.Rejected) != 2 {
				t.Errorf("%v, rejected %q", err, r.Config.Rejected)
			}
			if len(n.host.calls()) != 0 {
				t.Error("the node was touched")
			}
		})
	})
	t.Run("the hosts directory cannot be written, so no image is sought", func(t *testing.T) {
		once(t, func(n *node) {
			n.host.err = errBroken
			n.source.write(doc)
		}, func(t *testing.T, n *node, r report.NodeReport, err error) {
			if err != nil || r.Ready || r.Condition(report.RegistriesConfigured).Reason != "WriteFailed" {
				t.Errorf("%v, %+v", err, r.Conditions)
			}
			if got := n.puller.took(); len(got) != 0 {
				t.Errorf("asked of the puller: %q", got)
			}
		})
	})
	t.Run("containerd is away", func(t *testing.T) {
		once(t, func(n *node) {
			n.daemon.err = errBroken
			n.source.write(doc)
		}, func(t *testing.T, _ *node, r report.NodeReport, err error) {
			if err != nil || r.Ready || r.Condition(report.ContainerdHealthy).Message != "it is broken" {
				t.Errorf("%v, %+v", err, r.Conditions)
			}
		})
	})
	t.Run("the config cannot be read", func(t *testing.T) {
		once(t, func(n *node) { n.source.fail <- errBroken }, func(t *testing.T, _ *node, _ report.NodeReport, err error) {
			if !errors.Is(err, errBroken) {
				t.Errorf("got %v", err)
			}
		})
	})
}

// What is under way when the agent ends is nobody's fault.
func TestTheEndOfTheAgentIsNoFault(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.source.write(twoImages)
		synctest.Wait()
		n.log.reset()
		if err := n.stop(); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		n.hosts.pass(ctx) // a pass that the end came into
		if got := n.log.lines(); len(got) != 0 {
			t.Errorf("told at the end: %q", got)
		}
	})
}

func TestNewSaysEverythingThatIsMissing(t *testing.T) {
	_, err := New(Config{})
	for _, name := range []string{"Version", "Address", "HostsDir", "StateDir", "Source", "SourceName", "Host", "Daemon", "Prober",
		"NewPuller", "WatchHosts", "Log"} {
		if err == nil || !strings.Contains(err.Error(), "agent: "+name+" is required") {
			t.Errorf("%s is not asked for: %v", name, err)
		}
	}
	n := newNode(t)
	path := filepath.Join(n.dir, "proven-cas.json")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(n.config()); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want an error that names %s", err, path)
	}
}

func TestWhyContainerdDoesNotObey(t *testing.T) {
	for claimed, want := range map[string]string{
		"":                                     "its config_path is not set to it, as far as it says",
		"/etc/containerd/certs.d":              "although it claims this config_path; another setting overrides it",
		"/etc/containerd/certs.d:/etc/docker/": `is a list, which containerd 2.1 and later ignore`,
		"/elsewhere":                           `its config_path is "/elsewhere"`,
	} {
		r := newReconciler(Config{HostsDir: "/etc/containerd/certs.d"}, nil, nil, nil)
		r.process.ConfigPath = claimed
		if got := r.notLive(probe.Verdict{Cause: "no such host"}); !strings.Contains(got, want) || !strings.Contains(got, "no such host") {
			t.Errorf("%q: %s; want %s", claimed, got, want)
		}
	}
}
