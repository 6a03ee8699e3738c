package systemd_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// listen makes a socket in a directory of the test. accept gets each connection, and owns it; nil closes it at once.
func listen(t *testing.T, accept func(net.Conn)) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "socket")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if accept == nil {
				c.Close()
			} else {
				accept(c)
			}
		}
	})
	t.Cleanup(func() {
		l.Close()
		served.Wait()
	})
	return path
}

// The error says which sockets were tried, why each was not it, and what to do.
func TestWhatConnectSays(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "private")
	abandoned := filepath.Join(t.TempDir(), "socket")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", abandoned)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	var mu sync.Mutex
	var silent []net.Conn
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range silent {
			c.Close()
		}
	})
	for what, c := range map[string]struct {
		private, bus string
		says         []string
	}{
		"nothing is mounted": {missing, missing, []string{missing, "no such file", "mount the node's directory /run/systemd",
			"mount the node's directory /run/dbus", "not the socket"}},
		"old sockets are mounted": {abandoned, abandoned, []string{abandoned, "refused", "instead of its directory /run/dbus"}},
		"nobody of the node":      {listen(t, nil), missing, []string{"authenticate as uid", "run as uid 0 of the node"}},
		"it does not answer": {missing, listen(t, func(c net.Conn) {
			mu.Lock()
			defer mu.Unlock()
			silent = append(silent, c)
		}), []string{"does not answer", "is PID 1 stopped"}},
	} {
		t.Run(what, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			m, err := systemd.Connect(ctx, systemd.Config{PrivateSocket: c.private, SystemBus: c.bus})
			if err == nil {
				m.Close()
				t.Fatal("connected")
			}
			if !errors.Is(err, systemd.ErrUnreachable) {
				t.Errorf("%v is not ErrUnreachable", err)
			}
			for _, part := range c.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
		})
	}
}
