//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

func TestContainerdEndsAgainAndAgain(t *testing.T) {
	forLinesAndWays(t, func(t *testing.T, line string, way config.Way) {
		for name, end := range map[string]func(n *node) error{
			"SIGKILL": func(n *node) error { return n.containerd.Kill() },
			"SIGTERM": func(n *node) error { return n.containerd.Terminate(n.t.Context()) },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				endContainerd(t, line, way, name, end)
			})
		}
	})
}

func endContainerd(t *testing.T, line string, way config.Way, signal string, end func(n *node) error) {
	times := min(kills(line), fewKills)
	if signal == "SIGKILL" {
		times = kills(line)
	}
	row := shows(t, line, fmt.Sprintf("agent, way %s: containerd ended with %s at random points of one pull, again and again: "+
		"a pause, nothing is fetched twice", way, signal))
	random, mirror := newRand(t), newMirror(t)
	img := mirror.put(t, odd(t, rig.ModelSpec{
		RawSize: int64(max(24, times)) * chunkSize, ShardSize: 7 << 20, GzipLayers: 3, GzipSize: 2 << 20,
	}), newName())
	mirror.SetScript(always(isBlob, rig.Fault{BytesPerSecond: 256 << 10}))
	n := newNode(t, line, nil)
	n.pid, n.way = 0, way
	n.writeConfig(n.wanting(img, mirror))
	n.start()
	book := newLedger(mirror)
	look := func(report.NodeReport) string {
		book.look()
		return ""
	}
	for i := range times {
		n.until(neverFailed(t), look, asked(mirror, point(random, img, i, times)))
		at := time.Now()
		if err := end(n); err != nil {
			t.Fatal(err)
		}
		n.throughout(time.Duration(random.IntN(300))*time.Millisecond, neverFailed(t), look)
		if err := n.containerd.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		book.look()
		if way == config.WayAPI {
			book.away(at, time.Now())
		}
	}
	mirror.SetScript(nil)
	n.until(neverFailed(t), look, ready, imageIs("model", report.ImageReady))
	row.saw("%d times", times)
	book.check(n, img, row)
	n.stopAgent()
	n.checkImage(mirror, img, allNames(img)...)
	n.checkSame(newReference(t, line), img)
	n.checkOnly(img)
}

// point is a random number of bytes in the i-th of so many parts of an image.
func point(random *rand.Rand, img image, i, parts int) int64 {
	part := img.size / int64(parts)
	return int64(i)*part + random.Int64N(part)
}

func TestRegistryAwayForAWhile(t *testing.T) {
	forLinesAndWays(t, func(t *testing.T, line string, way config.Way) {
		row := shows(t, line, fmt.Sprintf("agent, way %s: the registry is away for 5 s, twice: a pause", way))
		mirror := newMirror(t)
		img := mirror.put(t, odd(t, model()), newName())
		slow := always(isBlob, rig.Fault{BytesPerSecond: 256 << 10})
		mirror.SetScript(slow)
		n := newNode(t, line, nil)
		n.way = way
		n.writeConfig(n.wanting(img, mirror))
		n.start()
		book := newLedger(mirror)
		for range 2 {
			n.until(neverFailed(t), asked(mirror, img.size/3), func(report.NodeReport) string {
				book.look()
				return ""
			})
			at := time.Now()
			mirror = n.away(mirror, 5*time.Second)
			mirror.SetScript(slow)
			book.moved(n, at, mirror)
		}
		mirror.SetScript(nil)
		n.until(neverFailed(t), ready, imageIs("model", report.ImageReady))
		book.check(n, img, row)
		n.checkImage(mirror, img, allNames(img)...)
		n.checkOnly(img)
	})
}

// away closes a site in the middle of what it answers, and starts it again in the same place after a time in which the image
// must not fail.
func (n *node) away(s *site, d time.Duration) *site {
	n.t.Helper()
	cert, key, err := s.ca.Issue("127.0.0.1")
	if err != nil {
		n.t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		n.t.Fatal(err)
	}
	n.throughout(d, neverFailed(n.t))
	again := newSite(n.t, s.backend, s.path, func(c *rig.ProxyConfig) {
		c.Addr, c.CertPEM, c.KeyPEM = s.Host(), cert, key
	})
	again.ca = s.ca
	return again
}
