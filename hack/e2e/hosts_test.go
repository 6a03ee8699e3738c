//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

func TestMirrorAsCache(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "upstream: Allow: the kubelet's pulls go to the mirror, and upstream only where that fails")
		up, mirror := newUpstream(t), newMirror(t)
		n := newNode(t, line, nil)
		n.writeConfig(n.allow(up, mirror))
		n.start()
		n.until(ready, condition(report.HostsLive, report.True, "live, no restart needed, because containerd",
			"asked the probe's listener"))
		n.waitApplied()

		both := mirror.push(t, small())
		n.mustPull(both.under(up.Host()), both)
		if asked := up.asked(); len(asked) > 0 {
			t.Errorf("upstream was asked although the mirror has the image: %+v", asked)
		}
		row.saw("on the mirror: %d requests there, %d upstream", len(mirror.asked()), len(up.asked()))
		checkProxied(t, mirror)

		mirror.Reset()
		only := up.push(t, small())
		n.mustPull(only.under(up.Host()), only)
		if len(mirror.asked()) == 0 || len(up.asked()) == 0 {
			t.Errorf("%d requests at the mirror and %d upstream, want some at both", len(mirror.asked()), len(up.asked()))
		} else if up.asked()[0].Time.Before(mirror.asked()[0].Time) {
			t.Error("upstream was asked before the mirror")
		}
		row.saw("missing on the mirror: %d there, then %d upstream", len(mirror.asked()), len(up.asked()))

		up.Reset()
		if err := mirror.Close(); err != nil {
			t.Fatal(err)
		}
		only = up.push(t, small())
		n.mustPull(only.under(up.Host()), only)
		row.saw("mirror dead: %d upstream", len(up.asked()))

		up.SetScript(func(*http.Request) rig.Fault { return rig.Answer(http.StatusNotFound) })
		if err := n.pull(up.push(t, small()).under(up.Host())); err == nil {
			t.Error("a pull works although neither has the image")
		}
		n.until(ready) // a mirror that is away is told, and no reason to take pods off the node
	})
}

// checkProxied checks that the requests are containerd's, for the mirror's project.
func checkProxied(t *testing.T, mirror *site) {
	t.Helper()
	for _, r := range mirror.asked() {
		if !strings.HasPrefix(r.Path, "/v2/"+project+"/") || !strings.HasPrefix(r.UserAgent, "containerd/") {
			t.Errorf("a request that is not containerd's for the project: %+v", r)
		}
	}
}

func TestMirrorAsWall(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "upstream: Deny: a missing image or a dead mirror fails the pull, and upstream is never asked")
		up, mirror := newUpstream(t), newMirror(t)
		n := newNode(t, line, nil)
		n.writeConfig(n.config(up.Host(), config.Deny, mirror))
		n.start()
		n.until(ready)
		n.waitApplied()

		img := mirror.push(t, small())
		n.mustPull(img.under(up.Host()), img)
		for _, status := range []int{http.StatusNotFound, http.StatusInternalServerError, http.StatusUnauthorized} {
			mirror.SetScript(func(*http.Request) rig.Fault { return rig.Answer(status) })
			if err := n.pull(up.push(t, small()).under(up.Host())); err == nil {
				t.Errorf("a pull works although the mirror answers %d", status)
			}
		}
		mirror.SetScript(func(r *http.Request) rig.Fault {
			if isBlob(r) {
				return rig.Answer(http.StatusNotFound)
			}
			return rig.Fault{}
		})
		if err := n.pull(mirror.push(t, small()).under(up.Host())); err == nil {
			t.Error("a pull works although the mirror has no blobs")
		}
		row.saw("404, 500, 401, missing blobs: pulls fail")
		if err := mirror.Close(); err != nil {
			t.Fatal(err)
		}
		if err := n.pull(up.push(t, small()).under(up.Host())); err == nil {
			t.Error("a pull works although the mirror is dead")
		}
		row.saw("mirror dead: pull fails")
		// Not even a look whether somebody is there.
		if all := up.Requests(); len(all) > 0 {
			t.Errorf("upstream was asked: %+v", all)
		}
		row.saw("upstream %d requests in all", len(up.Requests()))
	})
}

func TestOrderAndDefault(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "two mirrors are asked in order, and _default serves registries without an entry")
		up, first, second, other := newUpstream(t), newMirror(t), newMirror(t), newMirror(t)
		n := newNode(t, line, nil)
		c := n.config(up.Host(), config.Deny, first, second)
		c.Registries = append(c.Registries, config.Registry{Host: "_default", Upstream: config.Deny,
			Mirrors: []config.Mirror{n.mirror(c, other)}})
		n.writeConfig(c)
		n.start()
		n.until(ready)
		n.waitApplied()

		img := first.push(t, small())
		n.mustPull(img.under(up.Host()), img)
		if got := len(second.asked()); got > 0 {
			t.Errorf("the second mirror got %d requests although the first has the image", got)
		}
		row.saw("first has it: %d and %d requests", len(first.asked()), len(second.asked()))

		first.Reset()
		first.SetScript(func(*http.Request) rig.Fault { return rig.Answer(http.StatusNotFound) })
		img = second.push(t, small())
		n.mustPull(img.under(up.Host()), img)
		if len(first.asked()) == 0 || len(second.asked()) == 0 || second.asked()[0].Time.Before(first.asked()[0].Time) {
			t.Errorf("want the first mirror asked before the second: %+v, %+v", first.asked(), second.asked())
		}
		row.saw("first has it not: %d, then %d", len(first.asked()), len(second.asked()))

		// The name does not exist, so that nothing but _default can serve it.
		img = other.push(t, small())
		n.mustPull(img.under("nowhere.invalid"), img)
		row.saw("_default: %d", len(other.asked()))
		if all := up.Requests(); len(all) > 0 {
			t.Errorf("upstream was asked: %+v", all)
		}
		checkProxied(t, other)
	})
}

func TestNotLive(t *testing.T) {
	for _, tt := range []struct {
		name, what string
		configPath func(hosts string) string
	}{
		{"unset", "config_path unset: the verdict says what to do, and nothing is restarted",
			func(string) string { return "" }},
		{"other", "config_path elsewhere: the verdict says what to do, and nothing is restarted",
			func(hosts string) string { return hosts + ".other" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			forLines(t, func(t *testing.T, line string) {
				row := shows(t, line, tt.what)
				mirror := newMirror(t)
				n := newNode(t, line, func(c *rig.ContainerdConfig) { c.HostsDir = tt.configPath(c.HostsDir) })
				n.writeConfig(n.config("registry.invalid", config.Deny, mirror))
				n.start()
				n.until(notReady, condition(report.RegistriesConfigured, report.True),
					condition(report.HostsLive, report.False, "RestartNeeded", "does not read "+n.hosts(),
						"Set the registry config_path to exactly"))
				n.until(notReady) // the images condition has come as well by then, or does not matter
				if pid := n.containerd.PID(); pid != n.pid {
					t.Fatalf("containerd was process %d and is %d", n.pid, pid)
				}
				row.saw("RestartNeeded, not Ready, containerd's pid unchanged")

				// What the message says helps, without a word to the agent.
				n.pid = 0
				err := n.containerd.Restart(t.Context(), func(c *rig.ContainerdConfig) { c.HostsDir = n.hosts() })
				if err != nil {
					t.Fatal(err)
				}
				n.until(ready, condition(report.HostsLive, report.True))
				row.saw("after config_path was set and containerd restarted by hand: Live, Ready")
			})
		})
	}
}

func TestRegistryLeavesTheConfig(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "a registry that leaves the config leaves the hosts directory, and pulls go upstream again")
		// Without a hosts.toml, each version reaches a registry on the loopback by plain HTTP.
		up, mirror := newSite(t, upstream, "", func(c *rig.ProxyConfig) { c.CertPEM = nil }), newMirror(t)
		n := newNode(t, line, nil)
		c := n.config(up.Host(), config.Allow, mirror)
		c.Registries = append(c.Registries, config.Registry{Host: "kept.invalid", Upstream: config.Deny,
			Mirrors: c.Registries[0].Mirrors})
		n.writeConfig(c)
		n.start()
		n.until(ready)
		n.waitApplied()
		gone := n.hostsTOML(up.Host())
		if _, err := os.Stat(gone); err != nil {
			t.Fatal(err)
		}
		c.Registries = c.Registries[1:]
		n.configure(c)
		waitFor(t, "the registry's directory to go", func() string {
			if _, err := os.Stat(strings.TrimSuffix(gone, "/hosts.toml")); err == nil {
				return "it is still there"
			}
			return ""
		})
		mirror.Reset()
		img := mirror.push(t, small())
		n.mustPull(img.under("kept.invalid"), img)
		kept := len(mirror.asked())
		if kept == 0 {
			t.Error("the registry that stayed is not mirrored any more")
		}
		img = up.push(t, small())
		n.mustPull(img.under(up.Host()), img)
		if got := len(mirror.asked()); got != kept {
			t.Errorf("the mirror got %d requests for a registry that is not in the config", got-kept)
		}
		row.saw("upstream %d requests, mirror 0; the other registry still mirrored", len(up.asked()))
	})
}

func TestRegistryNames(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "registries of every form of name are mirrored: docker.io, host, host:port, [v6]:port, localhost:port")
		mirror := newMirror(t)
		n := newNode(t, line, nil)
		hosts := []string{"docker.io", "registry.invalid", "registry.invalid:5000", "localhost:5000", "[::1]:5000"}
		if line == "1.6" {
			hosts = hosts[:4]
			row.saw("1.6.20 takes no image name with an IPv6 address")
		}
		c := n.config(hosts[0], config.Deny, mirror)
		for _, h := range hosts[1:] {
			c.Registries = append(c.Registries, config.Registry{Host: h, Upstream: config.Deny,
				Mirrors: c.Registries[0].Mirrors})
		}
		n.writeConfig(c)
		n.start()
		n.until(ready)
		n.waitApplied()
		for _, h := range hosts {
			mirror.Reset()
			img := mirror.push(t, small())
			n.mustPull(img.under(h), img)
			checkProxied(t, mirror)
			if len(mirror.asked()) == 0 {
				t.Errorf("the mirror was not asked for an image of %s", h)
			}
		}
		row.saw("%d names, each through the mirror", len(hosts))
	})
}

func TestWaysToReachAMirror(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "mirrors over plain HTTP, with skipVerify, with headers, without a path")
		secure, plain := newMirror(t), newSite(t, harbor, project, func(c *rig.ProxyConfig) { c.CertPEM = nil })
		whole := newSite(t, upstream, "", nil)
		n := newNode(t, line, nil)
		c := n.config("trusted.invalid", config.Deny, secure)
		c.Registries[0].Mirrors[0].Headers = map[string][]string{"X-Node": {"gpu-1"}}
		for host, m := range map[string]config.Mirror{
			"plain.invalid":    {URL: plain.URL(), Path: project},
			"unproven.invalid": {URL: secure.URL(), Path: project, TLS: config.TLS{SkipVerify: true}},
			"whole.invalid":    {URL: whole.URL(), TLS: config.TLS{SkipVerify: true}},
		} {
			c.Registries = append(c.Registries, config.Registry{Host: host, Upstream: config.Deny, Mirrors: []config.Mirror{m}})
		}
		n.writeConfig(c)
		n.start()
		n.until(ready)
		n.waitApplied()
		var headers atomic.Int64
		secure.SetScript(func(r *http.Request) rig.Fault {
			if r.Header.Get("X-Node") == "gpu-1" {
				headers.Add(1)
			}
			return rig.Fault{}
		})
		for _, at := range []struct {
			host string
			*site
		}{{"trusted.invalid", secure}, {"plain.invalid", plain}, {"unproven.invalid", secure}, {"whole.invalid", whole}} {
			at.Reset()
			img := at.push(t, small())
			n.mustPull(img.under(at.host), img)
			if len(at.asked()) == 0 {
				t.Errorf("the mirror of %s was not asked", at.host)
			}
		}
		if headers.Load() == 0 {
			t.Error("no request has the configured header")
		}
		row.saw("each pulled through; %d requests with the header", headers.Load())
	})
}
