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
