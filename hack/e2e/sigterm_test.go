//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

func TestAgentEndsAtOnce(t *testing.T) {
	forLinesAndWays(t, func(t *testing.T, line string, way config.Way) {
		row := shows(t, line, fmt.Sprintf("agent, way %s: SIGTERM in the middle of a pull, also while the registry says nothing: it "+
			"ends with code 0 and leaves no process; the next one goes on", way))
		mirror := newMirror(t)
		img := mirror.put(t, odd(t, model()), newName())
		n := newNode(t, line, nil)
		n.way = way
		n.writeConfig(n.wanting(img, mirror))
		book := newLedger(mirror)
		for _, f := range []rig.Fault{{BytesPerSecond: 512 << 10}, {StallAfter: rig.At(64 << 10)}, {Hold: true}} {
			mirror.SetScript(always(isBlob, f))
			n.start()
			began := time.Now()
			n.until(inFlight(mirror), func(report.NodeReport) string {
				// Let it write something, where there is something to write.
				if book.look(); f.BytesPerSecond > 0 && time.Since(began) < time.Second {
					return "it has just begun"
				}
				return ""
			})
			at := time.Now()
			n.stop() // which fails the test unless the agent ends with code 0
			if took := time.Since(at); took > stopLimit/3 {
				t.Errorf("the agent took %s to end", took)
			}
			checkEnded(t, n.agent)
			book.crashed(n, at)
		}
		mirror.SetScript(nil)
		n.start()
		n.until(ready, imageIs("model", report.ImageReady))
		book.check(n, img, row)
		n.checkImage(mirror, img, allNames(img)...)
		if open := openFiles(t, n.agent.cmd.Process.Pid, n.containerd.Root()); len(open) > 0 {
			t.Errorf("the agent, which has nothing to do, has files of containerd's open: %q", open)
		}
		n.checkOnly(img)
	})
}
