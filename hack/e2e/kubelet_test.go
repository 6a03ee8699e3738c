//go:build e2e

package e2e

import (
	"fmt"
	"testing"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

func TestKubeletPullsMeanwhile(t *testing.T) {
	forLinesAndWays(t, func(t *testing.T, line string, way config.Way) {
		row := shows(t, line, fmt.Sprintf("agent, way %s: the kubelet pulls the image while it is prefetched: both end well, and "+
			"no blob is fetched twice", way))
		mirror := newMirror(t)
		img := mirror.put(t, odd(t, model()), newName())
		mirror.SetScript(always(isBlob, rig.Fault{BytesPerSecond: 1 << 20}))
		n := newNode(t, line, nil)
		n.way = way
		n.writeConfig(n.wanting(img, mirror))
		n.start()
		n.until(asked(mirror, img.size/4))
		pulled := make(chan error, 1)
		go func() { pulled <- n.pull(img.under(mirrored)) }()
		n.until(ready, imageIs("model", report.ImageReady))
		if err := <-pulled; err != nil {
			t.Errorf("the kubelet's pull: %v", err)
		}
		book := newLedger(mirror)
		book.check(n, img, row)
		n.stopAgent()
		n.checkImage(mirror, img, allNames(img)...)
		n.checkSame(newReference(t, line), img)
		n.checkOnly(img)
	})
}

func TestKubeletWasFirst(t *testing.T) {
	forLinesAndWays(t, func(t *testing.T, line string, way config.Way) {
		row := shows(t, line, fmt.Sprintf("agent, way %s: an image that the kubelet has already is only named and pinned", way))
		mirror := newMirror(t)
		img := mirror.put(t, odd(t, model()), newName())
		n := newNode(t, line, nil)
		n.way = way
		n.prepare(mirror)
		n.mustPull(img.under(mirrored), img)
		mirror.Reset()
		n.writeConfig(n.wanting(img, mirror))
		n.start()
		n.until(ready, imageIs("model", report.ImageReady))
		if got := mirror.blobs(); got > 0 {
			t.Errorf("%d blobs were asked for", got)
		}
		row.saw("%d requests, none for a blob", len(mirror.asked()))
		n.checkImage(mirror, img, allNames(img)...)
		n.checkOnly(img)
	})
}
