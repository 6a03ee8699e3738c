package images

import (
	"maps"
	"slices"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// readyBounds are the bounds of Stats.ReadySeconds: from a small image on a fast link to a large model on a slow one.
var readyBounds = []float64{1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200} //nolint:gochecknoglobals // a constant

// Stats is what a Worker has done since it was made.
type Stats struct {
	// Fetched counts the bytes fetched for images that became Ready.
	Fetched int64
	// Failures counts the preparations that failed by their reasons, such as report.NoSpace.
	Failures map[string]int64
	// Ready counts preparations that fetched something by their seconds: one entry for each of ReadyBounds, each without
	// those of the bounds below it, and one for those above the last. ReadySum is the sum of their seconds.
	ReadyBounds []float64
	Ready       []int64
	ReadySum    float64
	// BoundBy counts them by what held them back.
	BoundBy map[prefetch.Bound]int64
	// Way is how the newest one got its layers in, WayReason why not directly; empty before the first.
	Way       prefetch.WayName
	WayReason string
	// PinnedBytes is what the pinned images that are Ready take, 0 where that is not known.
	PinnedBytes int64
}

func newStats() Stats {
	return Stats{ReadyBounds: readyBounds, Ready: make([]int64, len(readyBounds)+1), BoundBy: make(map[prefetch.Bound]int64),
		Failures: make(map[string]int64)}
}

func (s *Stats) add(res prefetch.Result) {
	s.Fetched += res.BytesFetched
	if res.Way == "" {
		return // all was there
	}
	seconds := res.Duration.Seconds()
	i, _ := slices.BinarySearch(s.ReadyBounds, seconds)
	s.Ready[i]++
	s.ReadySum += seconds
	s.BoundBy[res.BoundBy]++
	s.Way, s.WayReason = res.Way, res.WayReason
}

// Stats returns a copy, and what the Puller counts; that begins at 0 again when the config changes its limits.
func (w *Worker) Stats() (Stats, prefetch.Stats) {
	w.mu.Lock()
	s, puller := w.stats, w.wanted.Puller
	s.Ready, s.BoundBy, s.Failures = slices.Clone(s.Ready), maps.Clone(s.BoundBy), maps.Clone(s.Failures)
	seen := make(map[string]bool)
	for _, e := range w.images {
		if r := e.report(); r.Pinned && !seen[e.result.ConfigDigest] {
			seen[e.result.ConfigDigest] = true
			s.PinnedBytes += r.Size
		}
	}
	w.mu.Unlock()
	if puller == nil {
		return s, prefetch.Stats{}
	}
	return s, puller.Stats()
}
