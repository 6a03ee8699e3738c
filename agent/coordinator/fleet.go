package coordinator

import (
	"maps"
	"sync"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// SilentAfter is how old the last report may be before nothing is known of a node any more. Agents report every half
// minute, whatever happens.
const SilentAfter = 2 * time.Minute

// Heard is what a node said last.
type Heard struct {
	Report report.NodeReport
	At     time.Time
}

// silent tells whether that is too long ago to say anything of the node now.
func (h Heard) silent(now time.Time) bool { return now.Sub(h.At) >= SilentAfter }

// Fleet is what the nodes say. It is safe for concurrent use.
type Fleet struct {
	since time.Time

	mu    sync.Mutex
	heard map[string]*Heard // guarded by mu; a Heard is never changed
}

// NewFleet is a Fleet that listens from now on.
func NewFleet(now time.Time) *Fleet { return &Fleet{since: now, heard: map[string]*Heard{}} }

// Hear takes what a node reports, in the place of what it said before. Layers are left out: nobody asks for them, and they are
// most of it.
func (f *Fleet) Hear(node string, r report.NodeReport, now time.Time) {
	images := make([]report.Image, len(r.Images))
	for i, img := range r.Images {
		img.Layers = nil
		images[i] = img
	}
	r.Node, r.Images = node, images
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heard[node] = &Heard{Report: r, At: now}
}

// Of is what the node said last.
func (f *Fleet) Of(node string) (Heard, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h := f.heard[node]; h != nil {
		return *h, true
	}
	return Heard{}, false
}

// Forget drops a node that is gone.
func (f *Fleet) Forget(node string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.heard, node)
}

// All is what every node said last. The map is the caller's, what is in it is not to be changed.
func (f *Fleet) All() map[string]*Heard {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.heard)
}

// Any tells whether something is true of any node. It is for what every report asks: All would copy the fleet each time.
func (f *Fleet) Any(is func(node string, h *Heard) bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for node, h := range f.heard {
		if is(node, h) {
			return true
		}
	}
	return false
}

// Complete tells whether every agent has had the time to report since this Fleet began.
func (f *Fleet) Complete(now time.Time) bool { return now.Sub(f.since) >= SilentAfter }

// Silent tells whether nothing has been heard of a node for too long. Of one that nothing was ever heard of that can be said
// only when the Fleet has listened for long enough.
func (f *Fleet) Silent(node string, now time.Time) bool {
	h, known := f.Of(node)
	if !known {
		return f.Complete(now)
	}
	return h.silent(now)
}
