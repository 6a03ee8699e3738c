package agent

import (
	"flag"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "write the golden files and the README's blocks")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// after lets d go by in a bubble of synctest, and then everything come to rest.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
