package main

import (
	"maps"
	"math"
	"slices"
	"sync"
	"time"
)

// samples are what agents saw of their reports in one phase. It is safe for concurrent use.
type samples struct {
	mu      sync.Mutex
	all     []time.Duration // of reports that were answered
	cached  []time.Duration // those of them whose token the coordinator knew
	refused map[string]int  // others, by why
}

func newSamples() *samples { return &samples{refused: map[string]int{}} }

func (s *samples) answered(took time.Duration, cached bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, took)
	if cached {
		s.cached = append(s.cached, took)
	}
}

func (s *samples) refuse(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[why]++
}

// put writes into a phase what there is.
func (s *samples) put(p *Phase) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.Reports, p.All, p.Cached, p.Refused = len(s.all), latencyOf(s.all), latencyOf(s.cached), maps.Clone(s.refused)
}

// latencyOf sorts took.
func latencyOf(took []time.Duration) Latency {
	slices.Sort(took)
	return Latency{Reports: len(took), P50: ms(percentile(took, 0.50)), P99: ms(percentile(took, 0.99)), Max: ms(percentile(took, 1))}
}

// percentile is the least of sorted values that so large a share of them does not exceed; 0 of none.
func percentile(sorted []time.Duration, share float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(int(math.Ceil(share*float64(len(sorted)))), 1)-1]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
