package hostconfig_test

import (
	"os"
	"testing"

	"github.com/containerd/log"
)

func TestMain(m *testing.M) {
	// containerd's parser logs every rejected file and every http:// mirror.
	if err := log.SetLevel("panic"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
