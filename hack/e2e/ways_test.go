//go:build e2e

package e2e

import (
	"testing"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// ways are those by which layers get into containerd: the direct one where it is open, and the content API.
func ways() []config.Way { return []config.Way{config.WayAuto, config.WayAPI} }

// waysOn are the ways to test on a line. The API way is the same on all, so that it is tested on the oldest and the newest of
// the run here; prefetch/store has a conformance suite for both ways on every one.
func waysOn(t *testing.T, line string) []config.Way {
	t.Helper()
	if lines := rigtest.Lines(t); line == lines[0] || line == lines[len(lines)-1] {
		return ways()
	}
	return []config.Way{config.WayAuto}
}

// forLinesAndWays runs a test for each way on each containerd line, in parallel.
func forLinesAndWays(t *testing.T, test func(t *testing.T, line string, way config.Way)) {
	forLines(t, func(t *testing.T, line string) {
		for _, way := range waysOn(t, line) {
			t.Run(string(way), func(t *testing.T) {
				t.Parallel()
				test(t, line, way)
			})
		}
	})
}
