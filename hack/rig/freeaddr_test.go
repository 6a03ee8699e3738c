package rig_test

import (
	"context"
	"net"
	"os/exec"
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

// TestPortsWhileProcessesStart looks for the copies of listeners that children have until they execute their programs.
func TestPortsWhileProcessesStart(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = exec.CommandContext(ctx, "true").Run() // it may be killed by the end of the test
		}
	}()
	defer func() { cancel(); <-done }()

	proxy := startProxy(t, rig.ProxyConfig{})
	for range 500 {
		if err := proxy.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := proxy.Start(); err != nil {
			t.Fatal(err)
		}
		addr, err := rig.FreeAddr(10_000, 19_999)
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
