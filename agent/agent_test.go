package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
	"github.com/hotplate-dev/hotplate/agent/images"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
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
		want := []report.Registry{{Host: "harbor.example.com", State: report.RegistryApplied},
			{Host: "quay.io", State: report.RegistryApplied}}
		if diff := cmp.Diff(want, r.Registries); diff != "" {
			t.Errorf("registries (-want +got):\n%s", diff)
		}
		if got := len(n.log.Lines("node is Ready")); got != 1 {
			t.Errorf("told %d times that the node is Ready", got)
		}
		opts := apply.Options{Adopt: map[string]bool{"harbor.example.com": false, "quay.io": true}, Skip: map[string]bool{}}
		if diff := cmp.Diff(opts, n.host.calls()[0].opts); diff != "" {
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
		n.log.Reset()
		after(time.Hour)
		if got := n.log.Lines(); len(got) != 0 {
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
		n.host.set(func(h *fakeHost) { h.err = agenttest.ErrBroken })
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
		if got := n.puller.Took(); len(got) != 0 {
			t.Errorf("asked of the puller: %q", got)
		}
		if got, want := len(n.host.calls()), int(time.Minute/unsettledInterval); got < want {
			t.Errorf("tried %d times in a minute, want %d", got, want)
		}
		if got := n.log.Lines("RegistriesConfigured"); len(got) != 1 {
			t.Errorf("told %d times: %q", len(got), got)
		}
		n.host.set(func(h *fakeHost) { h.err = nil })
		after(unsettledInterval + 2*time.Second)
		if r := n.Report(); !r.Ready || r.Config.Hash != hash {
			t.Errorf("mended, and ready is %v, the hash %q", r.Ready, r.Config.Hash)
		}
	})
}

func TestADaemonThatHangsDoesNotHoldUpTheHostsDirectory(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.source.write(doc)
		after(time.Minute)
		n.daemon.set(func(d *fakeDaemon) { d.hang = true })
		hash := n.source.write(twoImages)
		after(daemonTimeout / 2)
		if r := n.Report(); r.Config.Hash != hash {
			t.Errorf("in force is %q, want %q, which is written", r.Config.Hash, hash)
		}
	})
}

func TestReadyIsAboutTheConfigInTheReport(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		old := n.source.write(doc)
		after(time.Minute)
		n.host.set(func(h *fakeHost) { h.err = agenttest.ErrBroken })
		n.source.write(twoImages)
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
		if got := n.log.Lines("level=ERROR", "ConfigValid"); len(got) != 1 {
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
			if got := n.log.Lines("using the last good config"); len(got) != 1 {
				t.Errorf("told %d times", len(got))
			}
			n.source.write(faulty + "\n# still faulty")
			after(time.Minute)
			if got := n.log.Lines("using the last good config"); len(got) != 1 {
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
				if len(n.host.calls()) != 0 || len(n.puller.Took()) != 0 || n.prober.count() != 0 {
					t.Error("the node was touched")
				}
				if got := n.log.Lines("the node stays as it is"); len(got) != 1 {
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
		if got := n.log.Lines("level=ERROR", "fall back"); len(got) != 1 {
			t.Errorf("told %d times", len(got))
		}
	})
}

func TestLimitsAndLoginsReachThePuller(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.source.write(doc + "prefetch: {maxParallel: 3, memory: 32Mi}\n")
		after(time.Second)
		cfg := config.Config{Prefetch: config.Prefetch{MaxParallel: 3, Memory: 32 * config.Mi}}
		cfg.Default()
		cfg.Prefetch.MaxImages, cfg.Prefetch.WhenUnwanted = 0, "" // these are the agent's own
		want := []config.Prefetch{cfg.Prefetch}
		n.puller.Set(func(p *agenttest.State) {
			if diff := cmp.Diff(want, p.Made); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
		if user, secret, err := n.logins("docker.io", "harbor.example.com"); user+secret != "" || err != nil {
			t.Errorf("a login that nobody gave: %s, %s, %v", user, secret, err)
		}

		// The Puller stays while its limits do, with what it counts, and sees new logins.
		login := filepath.Join(t.TempDir(), "login")
		if err := os.WriteFile(login, []byte("robot"), 0o600); err != nil {
			t.Fatal(err)
		}
		n.source.write(strings.Replace(twoImages, "skipVerify: true}}", "skipVerify: true}, credentials: robot}", 1) +
			"prefetch: {maxParallel: 3, memory: 32Mi, maxImages: 1, whenUnwanted: Delete}\n" +
			"credentials: [{name: robot, usernameFile: " + login + ", passwordFile: " + login + "}]\n")
		after(5 * time.Second)
		n.puller.Set(func(p *agenttest.State) {
			if len(p.Made) != 1 {
				t.Errorf("there is a new Puller although the limits are the same: %+v", p.Made)
			}
		})
		if user, secret, err := n.logins("harbor.example.com", "harbor.example.com"); user+secret != "robotrobot" || err != nil {
			t.Errorf("the new login is not seen: %s, %s, %v", user, secret, err)
		}
		n.source.write(doc + "prefetch: {maxParallel: 4, memory: 32Mi}\n")
		after(time.Second)
		n.puller.Set(func(p *agenttest.State) {
			if len(p.Made) != 2 || p.Made[1].MaxParallel != 4 {
				t.Errorf("new limits have no effect: %+v", p.Made)
			}
		})
	})
}

// Work under way goes on where its images come from as before, and begins anew where that has changed.
func TestAPullBeginsAnewWhenItsLoginChanges(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		file := filepath.Join(t.TempDir(), "login")
		if err := os.WriteFile(file, []byte("robot"), 0o600); err != nil {
			t.Fatal(err)
		}
		with := doc + "credentials: [{name: robot, usernameFile: " + file + ", passwordFile: " + file + "}]\n"
		n.puller.Takes = time.Hour
		n.source.write(with)
		after(time.Second)
		for _, c := range []struct {
			registry string
			anew     bool
		}{{"quay.io", false}, {"harbor.example.com", true}} {
			n.puller.Took()
			with = strings.Replace(with, c.registry+", ", c.registry+", credentials: robot, ", 1)
			n.source.write(with)
			after(time.Second)
			n.expect(report.ConfigValid, "True", "Accepted")
			if got := slices.Contains(n.puller.Took(), "ensure "+llama); got != c.anew {
				t.Errorf("%s has a login now, and the pull begins anew: %v, want %v", c.registry, got, c.anew)
			}
		}
	})
}

func TestRunEndsWithTheErrorOfAPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.source.fail <- agenttest.ErrBroken
		if err := n.Run(t.Context()); !errors.Is(err, agenttest.ErrBroken) || !strings.Contains(err.Error(), "read config") {
			t.Errorf("got %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		cfg := n.config()
		cfg.NewPuller = func(config.Prefetch, Logins) (images.Puller, error) { return nil, agenttest.ErrBroken }
		a, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		n.source.write(doc)
		if err := a.Run(t.Context()); !errors.Is(err, agenttest.ErrBroken) {
			t.Errorf("got %v", err)
		}
	})
}

func TestWithoutAWatchTheTimerHasToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.watch = agenttest.ErrBroken
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
		if got := n.log.Lines("not watched", "it is broken"); len(got) != 1 {
			t.Errorf("told %d times", len(got))
		}
		after(2 * watchRetry)
		if got := n.log.Lines("not watched"); len(got) != 3 {
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
			n.puller.Fails[llama] = agenttest.ErrBroken
			n.source.write(twoImages + "prefetch: {maxImages: 1}\n")
		}, func(t *testing.T, n *node, r report.NodeReport, err error) {
			if err != nil || r.Ready || r.Images[0].Phase != report.ImageFailed || r.Images[1].Phase != report.ImageReady {
				t.Errorf("%v, %+v", err, r.Images)
			}
			if diff := cmp.Diff([]string{"sweep " + llama + " " + qwen, "ensure " + llama, "ensure " + qwen}, n.puller.Took()); diff != "" {
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
			n.host.err = agenttest.ErrBroken
			n.source.write(doc)
		}, func(t *testing.T, n *node, r report.NodeReport, err error) {
			if err != nil || r.Ready || r.Condition(report.RegistriesConfigured).Reason != "WriteFailed" {
				t.Errorf("%v, %+v", err, r.Conditions)
			}
			if got := n.puller.Took(); len(got) != 0 {
				t.Errorf("asked of the puller: %q", got)
			}
		})
	})
	t.Run("containerd is away", func(t *testing.T) {
		once(t, func(n *node) {
			n.daemon.err = agenttest.ErrBroken
			n.source.write(doc)
		}, func(t *testing.T, _ *node, r report.NodeReport, err error) {
			if err != nil || r.Ready || r.Condition(report.ContainerdHealthy).Message != "it is broken" {
				t.Errorf("%v, %+v", err, r.Conditions)
			}
		})
	})
	t.Run("the config cannot be read", func(t *testing.T) {
		once(t, func(n *node) { n.source.fail <- agenttest.ErrBroken }, func(t *testing.T, _ *node, _ report.NodeReport, err error) {
			if !errors.Is(err, agenttest.ErrBroken) {
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
		n.log.Reset()
		if err := n.stop(); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		n.hosts.pass(ctx) // a pass that the end came into
		if got := n.log.Lines(); len(got) != 0 {
			t.Errorf("told at the end: %q", got)
		}
	})
}

func TestNewSaysEverythingThatIsMissing(t *testing.T) {
	_, err := New(Config{})
	for _, name := range []string{"Version", "Address", "HostsDir", "StateDir", "Source", "SourceName", "Host", "Daemon",
		"Prober", "NewPuller", "WatchHosts", "Log"} {
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

func TestWarningsOfTheConfigAreTold(t *testing.T) {
	s := snapshot(t, `
registries:
- {host: docker.io, credentials: robot, upstream: Allow, tls: {skipVerify: true}}
credentials:
- {name: robot, dockerConfigFile: DIR/token.json}
`)
	bubble(t, func(t *testing.T, n *node) {
		n.source.docs <- s
		after(time.Second)
		if got := n.log.Lines("level=WARN", "msg=config", "docker.io"); len(got) != 1 {
			t.Errorf("told %d times; the config's own warnings are %q", len(got), s.Warnings)
		}
	})
}
