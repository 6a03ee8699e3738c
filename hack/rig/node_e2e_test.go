//go:build e2e

package rig_test

import (
	"os"
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

func TestNodeBoots(t *testing.T) {
	n := rigtest.Node(t, rig.NodeConfig{Line: "2.4"})
	out, err := n.Exec(t.Context(), "systemd-analyze")
	t.Log(out, err)
	out, err = n.Exec(t.Context(), "systemctl", "--failed")
	t.Log(out, err)
	text, err := os.ReadFile(n.Path("/etc/containerd/config.toml"))
	t.Log(string(text), err)
	state, err := n.Systemctl(t.Context(), "is-active", "containerd", "dbus")
	if err != nil || strings.TrimSpace(state) != "active\nactive" {
		t.Errorf("%q, %v", state, err)
	}
}

func TestCounterOutlivesRestart(t *testing.T) {
	n := rigtest.Node(t, rig.NodeConfig{Line: "2.4"})
	c, err := n.StartCounter(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	st, err := c.Status(t.Context())
	t.Log(st, err)
	shim, err := c.ShimPID(t.Context())
	t.Log(shim, err)
	_, err = n.Systemctl(t.Context(), "restart", "containerd")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context()); err != nil {
		t.Error(err)
	}
	st, err = c.Status(t.Context())
	t.Log(st, err)
	t.Log(c.LargestGap())
}
