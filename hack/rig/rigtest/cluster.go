package rigtest

import (
	"path/filepath"
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

// Cluster starts a Kubernetes in a directory of the test. The ends of its logs are printed when the test failed.
func Cluster(t testing.TB, cfg rig.ClusterConfig) *rig.Cluster {
	t.Helper()
	RequireRoot(t)
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	c, err := rig.StartCluster(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		logs := c.LogPaths()
		if err := c.Close(); err != nil {
			t.Errorf("close the cluster: %v", err)
		}
		for _, path := range logs {
			printLog(t, filepath.Base(filepath.Dir(path))+"/"+filepath.Base(path), path)
		}
	})
	return c
}
