package rigtest

import (
	"context"
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

// Node boots a systemd node in a directory of the test. Its console's output, the journal in it, is printed when the
// test failed.
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

// Supervisor starts a containerd without systemd, in a directory of the test.
func Supervisor(t testing.TB, cfg rig.SupervisorConfig) *rig.Supervisor {
	t.Helper()
	RequireRoot(t)
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	s, err := rig.StartSupervisor(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, "supervised containerd", s.LogPath(), s.Close) })
	return s
}

// Counter starts a pod that counts. It ends with what it runs on.
func Counter(t testing.TB, on interface {
	StartCounter(ctx context.Context, name string) (*rig.Counter, error)
}, name string,
) *rig.Counter {
	t.Helper()
	c, err := on.StartCounter(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
