package rig

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func testNetns(t *testing.T) *netns {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skipf("there is no iproute2 here: %v", err)
	}
	ns, err := newNetns(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.close(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

func TestNetworkNamespacesAreApart(t *testing.T) {
	const address = "127.0.0.1:5000"
	a, b := testNetns(t), testNetns(t)
	for _, ns := range []*netns{a, b} {
		l, err := ns.listen(address) // the same in both
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				conn.Close()
			}
		}()
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			conn, err := a.dial(t.Context(), "tcp", address)
			if err != nil {
				t.Error(err)
				return
			}
			conn.Close()
		})
	}
	all.Wait()
	if _, err := a.dial(t.Context(), "tcp", "127.0.0.1:5001"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("nobody listens there: %v, want connection refused", err)
	}
	if _, err := a.dial(t.Context(), "tcp", "localhost:5000"); err == nil {
		t.Error("a name, which is looked up in another namespace, is no error")
	}
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for name, ns := range map[string]*netns{"a": a, "b": b, "": nil} {
		out, err := runLine(t.Context(), ns.enter("readlink", "/proc/self/ns/net"), nil, []string{"readlink"})
		if err != nil || (strings.TrimSpace(out) == here) != (ns == nil) {
			t.Errorf("in namespace %q a program is in %q, %v; here is %s", name, out, err, here)
		}
	}
	if err := a.sysctl("ipv4/ip_forward", "1"); err != nil {
		t.Error(err)
	}
	for name, ns := range map[string]*netns{"1": a, "0": b} {
		var got []byte
		err := ns.do(func() (err error) {
			got, err = os.ReadFile("/proc/sys/net/ipv4/ip_forward")
			return err
		})
		if err != nil || strings.TrimSpace(string(got)) != name {
			t.Errorf("ip_forward is %q, %v, want %s", got, err, name)
		}
	}
}

func TestNothingStaysInANetworkNamespace(t *testing.T) {
	ns := testNetns(t)
	theirs, err := os.Readlink(ns.path())
	if err != nil {
		t.Fatal(err)
	}
	failed := errors.New("f failed")
	for range 50 {
		if err := ns.do(func() error { return failed }); !errors.Is(err, failed) {
			t.Fatalf("got %v, want what f returns", err)
		}
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		if in, err := os.Readlink("/proc/self/task/" + thread.Name() + "/ns/net"); err == nil && in == theirs {
			t.Errorf("thread %s is in the namespace", thread.Name())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ns.dial(ctx, "tcp", "127.0.0.1:1"); err == nil {
		t.Error("dialing with a context that has ended is no error")
	}
	if err := ns.ip(t.Context(), "link add a type bridge", "link set nobody up"); err == nil {
		t.Error("a command that fails is no error")
	}
}
