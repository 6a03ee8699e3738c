//go:build e2e

package e2e

import (
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"

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
