package rigtest

import (
	"os"
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

// Volume makes a filesystem of size bytes in a directory of the test. Start what writes to it afterwards, so that it has
// ended when the volume goes.
func Volume(t testing.TB, size int64) *rig.Volume {
	t.Helper()
	RequireRoot(t)
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skipf("there are no loop devices here: %v", err)
	}
	v, err := rig.NewVolume(t.Context(), t.TempDir(), size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, "volume", "", v.Close) })
	return v
}
