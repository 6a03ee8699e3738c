package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestForgetLeavesOnlyWhatIsNotTheAgents(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{lastGoodName, provenName, SocketName, "lock"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	staged := filepath.Join(dir, stagingName, "hotplate", "blobs", "sha256-x")
	if err := os.MkdirAll(staged, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to forget
		if err := Forget(dir); err != nil {
			t.Fatal(err)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{filepath.Join(dir, "lock")}, left); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := loadLastGood(filepath.Join(dir, lastGoodName), nil); err == nil {
		t.Error("there is still a last good config")
	}
}
