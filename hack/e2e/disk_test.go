//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// newNodeOn starts a containerd whose root is on a volume of its own.
func newNodeOn(t *testing.T, line string, v *rig.Volume) *node {
	t.Helper()
	return newNode(t, line, func(c *rig.ContainerdConfig) { c.Dir = filepath.Join(v.Path(), "containerd") })
}

// large is an image that needs, compressed and unpacked, twice its weights.
func large(weights int64) rig.ModelSpec {
	return rig.ModelSpec{RawSize: weights, ShardSize: 8 << 20, GzipLayers: 1, GzipSize: 1 << 20}
}

func TestImageThatDoesNotFit(t *testing.T) {
	forLinesAndWays(t, func(t *testing.T, line string, way config.Way) {
		row := shows(t, line, fmt.Sprintf("agent and hotplate pull, way %s: an image that does not fit is refused with numbers, "+
			"before its first layer; the next one goes on", way))
		v := rigtest.Volume(t, 128<<20)
		mirror := newMirror(t)
		big, fits := mirror.push(t, large(60<<20)), mirror.push(t, model())
		n := newNodeOn(t, line, v)
		n.way = way
		says := []string{"not enough room on the disk", "the image needs", "MB free of", "MB are to stay free", v.Path()}
		c := n.wanting(big, mirror)
		c.Images[0].Name, c.Images[0].Priority = "big", 10
		c.Images = append(c.Images, config.Image{Name: "fits", Ref: fits.under(mirrored)})
		n.writeConfig(c)
		n.start()
		n.until(notReady, imageIs("big", report.ImageFailed, says...), imageIs("fits", report.ImageReady))
		if got := mirror.layerBytes(big); got > 0 {
			t.Errorf("%d bytes of layers were fetched for an image that does not fit", got)
		}
		row.saw("refused: \"%s\"; the smaller one is Ready", says[0])
		c.Images = c.Images[1:]
		n.configure(c)
		n.until(ready)
		n.checkOnly(fits)
		n.stop()

		n.write("docker.json", dockerConfig(user, password, mirror.Host()))
		res := n.pullByHand(big)
		if res.code != 1 || !contains(res.err, append(says, big.under(mirrored))...) {
			t.Errorf("hotplate pull: exit code %d, want 1, and %q in:\n%s%s", res.code, says, res.out, res.err)
		}
		if got := mirror.layerBytes(big); got > 0 {
			t.Errorf("%d bytes of layers were fetched for an image that does not fit", got)
		}
	})
}

// layerBytes counts what the site has sent of the image's layers.
func (s *site) layerBytes(img image) (n int64) {
	layers := make(map[string]bool)
	for _, l := range img.layers {
		layers[filepath.Base(l.String())] = true
	}
	for _, r := range s.Requests() {
		if ofBlob(r) && layers[filepath.Base(r.Path)] {
			n += r.Sent
		}
	}
	return n
}

func TestDiskFullInTheMiddle(t *testing.T) {
	forLinesAndWays(t, diskFull)
}

func diskFull(t *testing.T, line string, way config.Way) {
	row := shows(t, line, fmt.Sprintf("agent, way %s: something else fills the disk in the middle; freed, the pull goes on with "+
		"what it has", way))
	v := rigtest.Volume(t, 256<<20)
	mirror := newMirror(t)
	img := mirror.put(t, odd(t, large(24<<20)), newName())
	mirror.SetScript(always(isBlob, rig.Fault{BytesPerSecond: 1 << 20}))
	n := newNodeOn(t, line, v)
	n.way = way
	n.writeConfig(n.wanting(img, mirror))
	n.start()
	book := newLedger(mirror)
	look := func(report.NodeReport) string {
		book.look()
		return ""
	}
	n.until(look, asked(mirror, img.size/3))
	release, err := v.Fill(0)
	if err != nil {
		t.Fatal(err)
	}
	full := time.Now()
	// Refused because of the reserve, or met in the middle of a write: both name the filesystem and the reason.
	n.until(look, notReady, imageIs("model", report.ImageFailed, "space", img.under(mirrored)))
	if _, err := n.cri.ImageStatus(t.Context(), img.under(mirrored)); err != nil {
		t.Errorf("containerd's CRI while the disk is full: %v", err)
	}
	n.checkContent()
	row.saw("Failed with \"space\" while it is full")
	if err := release(); err != nil {
		t.Fatal(err)
	}
	// What was on its way to the disk from then on may be lost.
	book.crashed(n, full)
	mirror.SetScript(nil)
	n.until(ready, imageIs("model", report.ImageReady))
	book.check(n, img, row)
	n.stopAgent()
	n.checkImage(mirror, img, allNames(img)...)
	n.checkSame(newReference(t, line), img)
	n.checkOnly(img)
}
