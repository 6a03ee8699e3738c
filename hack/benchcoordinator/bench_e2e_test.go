//go:build e2e

package main

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// TestAHundredNodes counts. It asserts no duration: the machine may be at other work.
func TestAHundredNodes(t *testing.T) {
	rigtest.RequireRoot(t)
	const nodes, root = 100, "../.."
	o := options{nodes: nodes, pullers: 30, steady: 5 * time.Second, ramp: time.Second, fetch: time.Second, root: root, dir: t.TempDir(),
		coordinator: filepath.Join(t.TempDir(), "hotplate-coordinator")}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", o.coordinator, root+"/cmd/hotplate-coordinator")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the coordinator: %v\n%s", err, out)
	}
	r, err := measure(t.Context(), o, func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + r.Markdown())
	within := func(what string, got, least, most int) {
		if got < least || got > most {
			t.Errorf("%s: %d, want %d to %d", what, got, least, most)
		}
	}
	fill, steady, change := r.phase(phaseFill), r.phase(phaseSteady), r.phase(phaseChange)
	// Preparing and Ready take two writes each, the taint one more; Preparing may be over before it is written.
	within("writes on Nodes until all were Ready", fill.NodeWrites, 3*nodes, 5*nodes)
	within("writes as the coordinator counts them", fill.OwnWrites, fill.NodeWrites, 2*fill.NodeWrites)
	within("token reviews, at most one for each report", fill.TokenReviews, nodes, fill.Reports)
	within("writes on Nodes while nothing happened", steady.NodeWrites, 0, 0)
	// The replica that was killed may have had eight nodes under way, of which the other one does not know.
	within("writes on Nodes until all had the second image", change.NodeWrites, 2*nodes, 4*nodes+2*8)
	within("token reviews, at most one for each report", change.TokenReviews, nodes, change.Reports)
	within("nodes that had both images when it was killed", r.Takeover.ReadyBefore, nodes/2, nodes-1)
	within("nodes that lost the first image", r.Takeover.Lost, 0, 0)
	within("nodes that became Unknown", r.Takeover.Unknown, 0, 0)
	within("how often a replica began to lead", r.Takeover.Led, 2, 2)
	for _, p := range r.Phases {
		if p.CPUSeconds < 0 || p.PeakRSS < 10<<20 {
			t.Errorf("%s: %+v cannot be", p.Name, p)
		}
	}
	if fill.Reports < 2*nodes || fill.CPUSeconds <= 0 || fill.All.P99 <= 0 || change.Refused["no connection"] == 0 {
		t.Errorf("%+v\n%+v: cannot be", fill, change)
	}
}
