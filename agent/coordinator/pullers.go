package coordinator

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// pullers are the nodes that may fetch images, so that a thousand nodes do not ask a registry for 140 GB in the same second.
// It belongs to one goroutine at a time.
type pullers struct {
	most    int
	active  map[string]bool
	waiting map[string]time.Time // since when
}

func newPullers(most int) *pullers {
	return &pullers{most: most, active: map[string]bool{}, waiting: map[string]time.Time{}}
}

// limit changes how many there may be. Those that are at it go on.
func (p *pullers) limit(most int) { p.most = most }

// ask gives a node the leave to fetch, or says why not. A node that fetches already, which a new coordinator may not know, goes
// on; one that needs nothing gives its place back, and so does one that waits to try again, to those that have waited longer.
func (p *pullers) ask(node string, does work, now time.Time) report.Leave {
	if !does.needs {
		p.leave(node)
		return report.Leave{Granted: true} // whatever it lacks next is asked for again
	}
	if does.fetching {
		p.active[node] = true
	}
	if does.failed && p.active[node] && len(p.waiting) > 0 {
		delete(p.active, node)
	}
	if !p.active[node] {
		if _, waits := p.waiting[node]; !waits {
			p.waiting[node] = now
		}
		p.fill()
	}
	if p.active[node] {
		delete(p.waiting, node)
		return report.Leave{Granted: true}
	}
	return report.Leave{Reason: fmt.Sprintf("waits for its turn to pull: %d nodes do, which is cluster.maxConcurrentNodes; %d wait",
		len(p.active), len(p.waiting))}
}

// leave gives the place of a node to others.
func (p *pullers) leave(node string) {
	delete(p.active, node)
	delete(p.waiting, node)
	p.fill()
}

// fill gives free places to those that have waited longest.
func (p *pullers) fill() {
	if len(p.active) >= p.most || len(p.waiting) == 0 {
		return
	}
	var queue []string
	for node := range p.waiting {
		queue = append(queue, node)
	}
	slices.SortFunc(queue, func(a, b string) int {
		return cmp.Or(p.waiting[a].Compare(p.waiting[b]), cmp.Compare(a, b))
	})
	for _, node := range queue[:min(len(queue), p.most-len(p.active))] {
		p.active[node] = true
		delete(p.waiting, node)
	}
}
