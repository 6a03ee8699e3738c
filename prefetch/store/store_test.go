package store_test

import (
	"context"
	"strings"
	"testing"
	"time"

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
	address := t.TempDir() + "/nothing.sock"
	s, err := store.New(store.Config{Address: address, Log: prefetchtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// containerd's dialer waits a while for a socket to come.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.State(ctx, prefetch.Query{Names: []string{"a"}}); err == nil || !strings.Contains(err.Error(), address) {
		t.Errorf("%v", err)
	}
	if _, err := store.New(store.Config{Address: address}); err == nil {
		t.Error("a Config without Log was accepted")
	}
}
