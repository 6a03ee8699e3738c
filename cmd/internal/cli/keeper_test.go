package cli

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/hostconfig/supervised"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

func TestKeeperWithoutSystemd(t *testing.T) {
	dir := t.TempDir()
	cfg := systemd.Config{PrivateSocket: filepath.Join(dir, "private"), SystemBus: filepath.Join(dir, "bus")}
	socket := filepath.Join(dir, "s")
	first, err := os.ReadFile("/proc/1/comm")
	if err != nil {
		t.Fatal(err)
	}
	k, err := ConnectKeeper(t.Context(), socket, cfg)
	switch {
	case strings.TrimSpace(string(first)) == "systemd": // and must not be gone around
		if !errors.Is(err, supervised.ErrSystemd) || !errors.Is(err, systemd.ErrUnreachable) {
			t.Errorf("on a machine of systemd's it is %v", err)
		}
	case err != nil:
		t.Error(err)
	default:
		if !k.NoTimer {
			t.Error("it is said to have timers")
		}
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := ConnectKeeper(t.Context(), socket, cfg); !errors.Is(err, systemd.ErrUnreachable) || !errors.Is(err, supervised.ErrNotContainerd) {
		t.Errorf("with something else on containerd's socket it is %v", err)
	}
}
