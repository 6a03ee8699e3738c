package store_test

import (
	"net"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
	"github.com/hotplate-dev/hotplate/prefetch/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestKnowsPins(t *testing.T) {
	for version, want := range map[string]bool{
		"1.6.20~ds1": false, "v1.6.21": false, "v1.6.22": true, "v1.6.36": true, "1.7.2": false, "1.7.3": true,
		"1.7.35": true, "1.5.99": false, "v2.0.0-rc.1": true, "v2.4.2": true, "2.4.2+unknown": true, "unknown": true, "": true,
	} {
		if got := store.KnowsPins(version); got != want {
			t.Errorf("containerd %q: %v, want %v", version, got, want)
		}
	}
}

func TestADaemonThatIsNotThereIsNamed(t *testing.T) {
	// A socket that nobody listens to any more; for one that does not exist containerd's dialer waits ten seconds.
	address := t.TempDir() + "/gone.sock"
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := store.New(store.Config{Address: address, Log: prefetchtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.State(t.Context(), prefetch.Query{Names: []string{"a"}}); err == nil || !strings.Contains(err.Error(), address) {
		t.Errorf("%v", err)
	}
	if _, err := store.New(store.Config{Address: address}); err == nil {
		t.Error("a Config without Log was accepted")
	}
	for _, owner := range []string{"a/b", "..", "/a"} {
		if _, err := store.New(store.Config{Address: address, Log: prefetchtest.Logger(t), Owner: owner}); err == nil {
			t.Errorf("owner %q was accepted", owner)
		}
	}
}
