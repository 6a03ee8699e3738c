//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
)

func TestLeaseOfARunThatDiedAtItsEnd(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "agent: the content lease of a run that was killed after the image was Ready is taken away at the next start")
		mirror := newMirror(t)
		img := mirror.push(t, model())
		mirror.SetScript(slowly())
		n := newNode(t, line, nil)
		n.writeConfig(n.wanting(img, mirror))
		n.start()
		n.until(fetched(1 << 20))
		n.kill()
		manager, ctx := n.ctrd().LeasesService(), namespaces.WithNamespace(t.Context(), "k8s.io")
		died, err := manager.List(ctx, `labels."hotplate.dev/owner"==hotplate`)
		if err != nil || len(died) == 0 {
			t.Fatalf("a run that died left the leases %v, %v", died, err)
		}
		mirror.SetScript(nil)
		n.start()
		n.until(ready, imageIs("model", report.ImageReady))
		n.checkLeftovers()
		n.stop()
		// As if the second run had been killed just before it let go of its own.
		if _, err := manager.Create(ctx, leases.WithID(died[0].ID), leases.WithLabels(died[0].Labels)); err != nil {
			t.Fatal(err)
		}
		n.start()
		n.until(ready, imageIs("model", report.ImageReady))
		n.checkOnly(img)
		row.saw("no lease left")
	})
}

func TestUninstallInTheMiddle(t *testing.T) {
	forLinesAndWays(t, func(t *testing.T, line string, way config.Way) {
		row := shows(t, line, fmt.Sprintf("agent and hotplate pull, way %s: killed in the middle of a pull; uninstall leaves nothing "+
			"of it", way))
		mirror := newMirror(t)
		agents, byHand := mirror.push(t, model()), mirror.push(t, model())
		n := newNode(t, line, nil)
		n.way = way
		n.prepare(mirror)
		n.writeConfig(n.wanting(agents, mirror))
		mirror.SetScript(slowly())
		n.start()
		n.until(fetched(2 << 20))
		n.kill()
		before := mirror.sent()
		p := pullers()[1].start(n, byHand)
		waitFor(t, "hotplate pull to have fetched something", func() string {
			if got := mirror.sent() - before; got < 2<<20 {
				return fmt.Sprintf("%d bytes", got)
			}
			return ""
		})
		_ = p.end(syscall.SIGKILL) // it ends with that signal
		if len(n.ownFiles()) == 0 {
			t.Error("nothing was left in the middle")
		}
		n.uninstall()
		n.checkAbsent(allNames(agents)...)
		n.checkOnly()
		for dir := range n.ownDirs() {
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is still there: %v", dir, err)
			}
		}
		row.saw("no lease, ingest, snapshot or directory left")
	})
}
