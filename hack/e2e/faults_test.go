//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// script chooses a fault for a request.
type script func(*http.Request) rig.Fault

// always misbehaves towards all requests that match.
func always(match func(*http.Request) bool, f rig.Fault) script {
	return func(r *http.Request) rig.Fault {
		if match(r) {
			return f
		}
		return rig.Fault{}
	}
}

// times misbehaves towards the first n requests for each thing that match. A chunk that is asked for again from a later
// byte on is the same thing: the end of its range tells.
func times(n int, match func(*http.Request) bool, f rig.Fault) script {
	var mu sync.Mutex
	seen := make(map[string]int)
	return func(r *http.Request) rig.Fault {
		if !match(r) {
			return rig.Fault{}
		}
		mu.Lock()
		defer mu.Unlock()
		_, end, _ := strings.Cut(r.Header.Get("Range"), "-")
		key := r.Method + " " + r.URL.Path + " " + end
		seen[key]++
		if seen[key] > n {
			return rig.Fault{}
		}
		return f
	}
}

// both lets either of two scripts misbehave.
func both(a, b script) script {
	return func(r *http.Request) rig.Fault {
		f := a(r)
		if f.Header == nil && f.Status == 0 && f.CutAfter == nil {
			return b(r)
		}
		return f
	}
}

// anything matches what is asked for images, and not a look whether somebody is there.
func anything(r *http.Request) bool { return r.URL.Path != "/v2/" }

// ranged matches requests for parts of blobs.
func ranged(r *http.Request) bool { return isBlob(r) && r.Header.Get("Range") != "" }

// weights matches requests for the largest layer.
func weights(img image) func(*http.Request) bool {
	return func(r *http.Request) bool { return isBlob(r) && strings.HasSuffix(r.URL.Path, img.largest.String()) }
}

// fault is one way in which a registry misbehaves.
type fault struct {
	what   string
	script func(img image) script
	// says are texts of the error while the fault lasts, beside the registry's host and the image. Without them the image
	// becomes Ready in spite of the fault.
	says []string
	// hit is how many answers must have been faulty at least, so that a test which meets no fault fails.
	hit int
	// byHand runs it with `hotplate pull` as well.
	byHand bool
}

func faults() []fault {
	const much = 300_000
	return []fault{
		{what: "no fault", script: func(image) script { return nil }, byHand: true},
		{what: "404 for the manifest", hit: 1, byHand: true, says: []string{"404", "push it there"},
			script: func(image) script { return always(isManifest, rig.Answer(http.StatusNotFound)) }},
		{what: "404 for a layer", hit: 1, says: []string{"404"},
			script: func(img image) script { return always(weights(img), rig.Answer(http.StatusNotFound)) }},
		{what: "412 for the manifest", hit: 1, says: []string{"412"},
			script: func(image) script { return always(isManifest, rig.Answer(http.StatusPreconditionFailed)) }},
		{what: "429 with Retry-After for everything at first", hit: 5, byHand: true,
			script: func(image) script { return times(1, anything, rig.TooManyRequests(time.Second)) }},
		{what: "503 for everything at first, twice", hit: 10, byHand: true,
			script: func(image) script { return times(2, anything, rig.Answer(http.StatusServiceUnavailable)) }},
		{what: "every body cut at first", hit: 4, byHand: true,
			script: func(image) script { return times(1, isBlob, rig.Fault{CutAfter: rig.At(200)}) }},
		{what: "a large body cut again and again", hit: 3,
			script: func(img image) script { return times(3, weights(img), rig.Fault{CutAfter: rig.At(much)}) }},
		{what: "a wrong byte in a layer", hit: 1, byHand: true, says: []string{"digest"},
			script: func(img image) script { return always(weights(img), rig.Fault{FlipAt: rig.At(much)}) }},
		{what: "a wrong byte in the manifest", hit: 1, says: []string{"wrong content"}, script: func(image) script {
			return always(func(r *http.Request) bool { return isManifest(r) && r.Method == http.MethodGet },
				rig.Fault{FlipAt: rig.At(100)})
		}},
		{what: "no ranges: 200 and everything", hit: 1, byHand: true,
			script: func(image) script { return always(ranged, rig.Fault{IgnoreRange: true}) }},
		{what: "another Content-Range than asked for", hit: 1, byHand: true, script: func(image) script {
			return always(ranged, rig.Fault{Header: http.Header{"Content-Range": {"bytes 1-2/*"}}})
		}},
		{what: "no ranges, and every body cut at first", hit: 4, script: func(image) script {
			return both(times(1, isBlob, rig.Fault{CutAfter: rig.At(much)}),
				always(ranged, rig.Fault{IgnoreRange: true}))
		}},
		{what: "a body that stalls", hit: 1,
			script: func(img image) script { return times(1, weights(img), rig.Fault{StallAfter: rig.At(much)}) }},
		{what: "connections dropped without an answer at first", hit: 5,
			script: func(image) script { return times(1, anything, rig.Fault{Drop: true}) }},
	}
}

// drip is a rate that is a fault in itself.
const drip = 32 << 10

// counted counts the requests that a script misbehaves to.
type counted struct {
	mu sync.Mutex
	n  int
}

func (c *counted) count(s script) script {
	return func(r *http.Request) rig.Fault {
		f := s(r)
		faulty := f.Status != 0 || f.Header != nil || f.CutAfter != nil || f.FlipAt != nil || f.StallAfter != nil ||
			f.IgnoreRange || f.Drop || f.BytesPerSecond == drip
		if faulty {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.n++
		}
		return f
	}
}

func (c *counted) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// arm sets the fault's script, if it has one.
func (f fault) arm(mirror *site, img image) *counted {
	c := &counted{}
	if s := f.script(img); s != nil {
		mirror.SetScript(c.count(s))
	}
	return c
}

// wanting is a config that asks for an image under a tag and an alias, from one mirror.
func (n *node) wanting(img image, mirrors ...*site) *config.Config {
	n.t.Helper()
	c := n.config(mirrored, config.Deny, mirrors...)
	c.Registries = append(c.Registries, config.Registry{Host: aliased, Upstream: config.Deny,
		Mirrors: slices.Clone(c.Registries[0].Mirrors)})
	c.Prefetch = chunky()
	c.Prefetch.Way = n.way
	c.Images = []config.Image{{Name: "model", Ref: img.under(mirrored), Aliases: []string{img.under(aliased)}}}
	return c
}

func TestAgentAndFaultyRegistry(t *testing.T) {
	forFaults(t, faults(), func(t *testing.T, line string, way config.Way, f fault) {
		row := shows(t, line, fmt.Sprintf("agent, way %s: %s", way, f.what))
		mirror := newMirror(t)
		img := mirror.put(t, odd(t, model()), newName())
		hits := f.arm(mirror, img)
		n := newNode(t, line, nil)
		n.way = way
		n.writeConfig(n.wanting(img, mirror))
		n.start()
		if f.says != nil {
			n.until(notReady, condition(report.HostsLive, report.True),
				imageIs("model", report.ImageFailed, append(f.says, mirror.Host(), img.under(mirrored))...))
			n.checkAbsent(allNames(img)...)
			row.saw("Failed with \"%s\", CRI knows nothing of it", strings.Join(f.says, "\" and \""))
			mirror.SetScript(nil)
		}
		n.until(ready, imageIs("model", report.ImageReady), cameBy("model", way))
		if hits.total() < f.hit {
			t.Errorf("only %d answers were faulty, want at least %d", hits.total(), f.hit)
		}
		row.saw("%d faulty answers of %d; then Ready", hits.total(), len(mirror.asked()))
		n.checkImage(mirror, img, allNames(img)...)
		row.saw("kubelet's pulls by tag, alias and digest: %d requests, %d blobs", len(mirror.asked()), mirror.blobs())
		n.checkOnly(img)
	})
}

// forFaults runs a test for each fault, by each way and on each containerd line, or on the newest one in a run that is not full:
// it is our own code that meets the registry.
func forFaults(t *testing.T, list []fault, test func(t *testing.T, line string, way config.Way, f fault)) {
	forLinesAndWays(t, func(t *testing.T, line string, way config.Way) {
		if !rigtest.Full() && line != newest {
			t.Log("left out: only the newest line's, unless " + rigtest.FullVariable + " is set")
			return
		}
		for _, f := range list {
			t.Run(f.what, func(t *testing.T) {
				t.Parallel()
				test(t, line, way, f)
			})
		}
	})
}

func TestPullAndFaultyRegistry(t *testing.T) {
	byHand := slices.DeleteFunc(faults(), func(f fault) bool { return !f.byHand })
	forFaults(t, byHand, func(t *testing.T, line string, way config.Way, f fault) {
		row := shows(t, line, fmt.Sprintf("hotplate pull, way %s: %s", way, f.what))
		mirror := newMirror(t)
		img := mirror.put(t, odd(t, model()), newName())
		n := newNode(t, line, nil)
		n.way = way
		n.prepare(mirror)
		hits := f.arm(mirror, img)
		if f.says != nil {
			res := n.pullByHand(img)
			if res.code != 1 || !contains(res.err, append(f.says, mirror.Host(), img.under(mirrored))...) {
				t.Errorf("exit code %d, want 1; the error should have %q:\n%s", res.code, f.says, res.err)
			}
			n.checkAbsent(img.under(mirrored))
			row.saw("exit code %d", res.code)
			mirror.SetScript(nil)
		}
		if res := n.pullByHand(img); res.code != 0 {
			t.Fatalf("exit code %d\n%s%s", res.code, res.out, res.err)
		}
		if hits.total() < f.hit {
			t.Errorf("only %d answers were faulty, want at least %d", hits.total(), f.hit)
		}
		row.saw("%d faulty answers of %d; then exit code 0", hits.total(), len(mirror.asked()))
		n.checkImage(mirror, img, img.under(mirrored), mirrored+"/"+img.repo+"@"+img.digest)
		row.saw("kubelet's pulls: %d requests, %d blobs", len(mirror.asked()), mirror.blobs())
		n.checkOnly(img)
	})
}

// prepare lets the agent write the hosts directory for mirrors, once, and writes a docker config with the login.
func (n *node) prepare(mirrors ...*site) {
	n.t.Helper()
	n.writeConfig(n.config(mirrored, config.Deny, mirrors...))
	var hosts []string
	for _, m := range mirrors {
		hosts = append(hosts, m.Host())
	}
	n.write("docker.json", dockerConfig(user, password, hosts...))
	args := append(n.flags(), "--config", n.etc("config.yaml"), "--once", "--node-name", "gpu-1")
	if res := n.run("hotplate-agent", args...); res.code != 0 {
		n.t.Fatalf("hotplate-agent --once: exit code %d\n%s%s", res.code, res.out, res.err)
	}
}

// pullByHand runs hotplate pull with chunks so small that the test's images have several.
func (n *node) pullByHand(img image, more ...string) output {
	n.t.Helper()
	return n.run("hotplate", n.pullArgs(img, more...)...)
}

// pullArgs are those of pullByHand.
func (n *node) pullArgs(img image, more ...string) []string {
	args := []string{"pull", "--address", n.containerd.Address(), "--hosts-dir", n.hosts(), "--state-dir", n.path("state"),
		"--credentials", n.etc("docker.json"), "--max-parallel", "64", "--pin"}
	if n.way == config.WayAPI {
		args = append(args, "--way", string(n.way))
	}
	return append(append(args, more...), img.under(mirrored))
}

func TestRegistryDownAtStart(t *testing.T) {
	t.Parallel()
	row := shows(t, newest, "agent: the registry is down at the start, and back later")
	mirror := newMirror(t)
	img := mirror.push(t, model())
	cert, key, err := mirror.ca.Issue("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if err := mirror.Close(); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, newest, nil)
	n.writeConfig(n.wanting(img, mirror))
	n.start()
	n.until(notReady, condition(report.HostsLive, report.True), condition(report.ImagesReady, report.False))
	waitFor(t, "the log to tell of the first failed request", func() string {
		if !contains(n.log(), "registry request failed", "connection refused") {
			return "it does not"
		}
		return ""
	})
	again := newSite(t, harbor, project, func(c *rig.ProxyConfig) {
		c.Addr, c.CertPEM, c.KeyPEM = mirror.Host(), cert, key
	})
	n.until(ready, imageIs("model", report.ImageReady))
	row.saw("connection refused while down; Ready with %d requests after it is back", len(again.asked()))
	n.checkImage(again, img, allNames(img)...)
}

func TestRegistryGoesAwayInTheMiddle(t *testing.T) {
	t.Parallel()
	row := shows(t, newest, "agent: the registry goes away in the middle of a layer, and comes back")
	mirror := newMirror(t)
	img := mirror.push(t, model())
	mirror.SetScript(always(isBlob, rig.Fault{BytesPerSecond: 512 << 10}))
	cert, key, err := mirror.ca.Issue("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, newest, nil)
	n.writeConfig(n.wanting(img, mirror))
	n.start()
	r := n.until(fetched(1 << 20))
	if err := mirror.Close(); err != nil {
		t.Fatal(err)
	}
	row.saw("gone after %s", report.Bytes(r.Images[0].BytesDone))
	waitFor(t, "the log to tell of a failed request", func() string {
		if !strings.Contains(n.log(), "registry request failed") {
			return "it does not"
		}
		return ""
	})
	again := newSite(t, harbor, project, func(c *rig.ProxyConfig) {
		c.Addr, c.CertPEM, c.KeyPEM = mirror.Host(), cert, key
	})
	n.until(ready, imageIs("model", report.ImageReady))
	row.saw("back: Ready")
	n.checkImage(again, img, allNames(img)...)
}

// fetched wants an image to be on its way, with at least so many bytes on the node.
func fetched(least int64) want {
	return func(r report.NodeReport) string {
		if len(r.Images) == 0 || r.Images[0].BytesDone < least {
			return fmt.Sprintf("less than %d bytes are fetched", least)
		}
		return ""
	}
}
