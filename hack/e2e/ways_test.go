//go:build e2e

package e2e

import (
	"testing"

	"github.com/hotplate-dev/hotplate/agent/config"
)

// ways are those by which layers get into containerd: the direct one where it is open, and the content API.
func ways() []config.Way { return []config.Way{config.WayAuto, config.WayAPI} }

// forLinesAndWays runs a test for each way on each containerd line, in parallel.
func forLinesAndWays(t *testing.T, test func(t *testing.T, line string, way config.Way)) {
	forLines(t, func(t *testing.T, line string) {
		for _, way := range ways() {
			t.Run(string(way), func(t *testing.T) {
				t.Parallel()
				test(t, line, way)
			})
		}
	})
}
