//go:build e2e || onnode

package systemd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd/systemdtest"
)

// These tests run on a node, in a sandbox as a pod is one. TestOnNode builds and starts them there.

// dirVariable is the environment variable with the directory on the node that the tests may use. It is not set elsewhere.
const dirVariable = "HOTPLATE_NODE_DIR"

// unitDir is where unit files are.
const unitDir = "/etc/systemd/system"

func onNode(t *testing.T) (dir string) {
	t.Helper()
	dir = os.Getenv(dirVariable)
	if dir == "" {
		t.Skip("it runs on a node, started there by TestOnNode")
	}
	return dir
}

func connect(t *testing.T) *systemd.Manager {
	t.Helper()
	m, err := systemd.Connect(t.Context(), systemd.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// realNode is a node with real systemd.
type realNode struct {
	*testing.T
	*systemd.Manager
	dir, prefix string
}

func newRealNode(t *testing.T) *realNode {
	t.Helper()
	dir := filepath.Join(onNode(t), t.Name())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	name := strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	return &realNode{T: t, Manager: connect(t), dir: dir, prefix: "hotplate-" + name + "-"}
}

func (n *realNode) Systemd() systemdtest.Systemd { return n.Manager }
func (n *realNode) Dir() string                  { return n.dir }
func (n *realNode) Local(path string) string     { return path }
func (n *realNode) Prefix() string               { return n.prefix }

func (n *realNode) Define(services ...systemdtest.Service) {
	n.Helper()
	for _, s := range services {
		n.Edit(s)
		n.Cleanup(func() {
			ctx := context.WithoutCancel(n.Context()) // which has ended by now
			_, stop := n.Stop(ctx, s.Name)
			if err := errors.Join(stop, n.ResetFailed(ctx, s.Name), os.Remove(filepath.Join(unitDir, s.Name))); err != nil {
				n.Error(err)
			}
		})
	}
	if err := n.Reload(n.Context()); err != nil {
		n.Fatal(err)
	}
}

// script is what services run. Their main process is that of the shell, and then sleep's.
const script = `case "$(cat "$1")" in
run) systemd-notify --ready; exec sleep infinity ;;
hang) exec sleep infinity ;;
*) exit 3 ;;
esac
`

func (n *realNode) Edit(s systemdtest.Service) {
	n.Helper()
	file := filepath.Join(n.dir, "service.sh")
	if err := os.WriteFile(file, []byte(script), 0o644); err != nil {
		n.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(unitDir, s.Name), []byte(unitFile(s, file)), 0o644); err != nil {
		n.Fatal(err)
	}
}

func unitFile(s systemdtest.Service, script string) string {
	s = s.WithDefaults()
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("[Unit]")
	for key, names := range map[string][]string{
		"Requires": s.Requires, "BindsTo": s.BindsTo, "PartOf": s.PartOf, "Wants": s.Wants,
	} {
		for _, name := range names {
			line("%s=%s\nAfter=%s", key, name, name)
		}
	}
	line("StartLimitBurst=%d\nStartLimitIntervalSec=%dms", s.StartLimitBurst, s.StartLimitInterval.Milliseconds())
	line("[Service]\nType=%s\nNotifyAccess=all", s.Type)
	line("ExecStart=/bin/sh %s %s", script, s.Control)
	line("Restart=%s\nRestartSec=%dms", s.Restart, s.RestartDelay.Milliseconds())
	line("TimeoutStartSec=%dms\nKillMode=%s", s.TimeoutStart.Milliseconds(), s.KillMode)
	line("[Install]\nWantedBy=multi-user.target")
	return b.String()
}

func TestNodeLetsNobodyButRootIn(t *testing.T) {
	onNode(t)
	if os.Geteuid() == 0 {
		t.Skip("it is for other users than root")
	}
	_, err := systemd.Connect(t.Context(), systemd.Config{})
	if !errors.Is(err, systemd.ErrUnreachable) || strings.Count(err.Error(), "run as uid 0 of the node") != 2 {
		t.Error(err)
	}
}

func TestNodeIsLikeTheFake(t *testing.T) {
	onNode(t)
	for _, c := range systemdtest.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			if !c.Alone {
				t.Parallel()
			}
			c.Test(t, newRealNode(t))
		})
	}
}
