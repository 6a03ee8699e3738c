package rigtest

import (
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

// Node boots a systemd node in a directory of the test. Its console's output, the journal in it, is printed when the test
// failed.
func Node(t testing.TB, cfg rig.NodeConfig) *rig.Node {
	t.Helper()
	RequireRoot(t)
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	n, err := rig.StartNode(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, "node with containerd "+n.Line(), n.LogPath(), n.Close) })
	return n
}
