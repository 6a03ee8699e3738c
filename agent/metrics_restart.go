package agent

import (
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
	"github.com/hotplate-dev/hotplate/prefetch/fetch"
)

// downtimeBounds are the bounds of the downtimes, in seconds: a healthy restart takes 0.2 s, and one that has to be taken
// back up to a minute.
var downtimeBounds = []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60} //nolint:gochecknoglobals // a constant

// restartStats counts restarts of containerd since the agent's start. It is safe for concurrent use.
type restartStats struct {
	mu        sync.Mutex // guards what follows
	ended     map[restart.Kind]int
	deferrals map[string]int // by the check that put it off
	refusals  map[string]int // by the check that refused it
	downtime  fetch.Histogram
}

func newRestartStats() *restartStats {
	return &restartStats{
		ended: map[restart.Kind]int{restart.Restarted: 0, restart.RolledBack: 0, restart.Abandoned: 0, restart.Failed: 0},
		// Those that are usual. Others come with their first: which there are says hostconfig/restart.
		deferrals: map[string]int{"busy": 0, "unit": 0},
		refusals:  map[string]int{},
		downtime:  fetch.Histogram{Bounds: downtimeBounds, Counts: make([]int64, len(downtimeBounds)+1)},
	}
}

// add counts an outcome; the zero one counts nothing.
func (s *restartStats) add(o restart.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.ended[o.Kind]; ok {
		s.ended[o.Kind]++
	}
	if o.Downtime > 0 {
		seconds := o.Downtime.Seconds()
		i, _ := slices.BinarySearch(s.downtime.Bounds, seconds)
		s.downtime.Counts[i]++
		s.downtime.Sum += seconds
	}
	by, verdict := s.deferrals, restart.Defer
	switch o.Kind {
	case restart.Deferred:
	case restart.Refused:
		by, verdict = s.refusals, restart.Refuse
	default:
		return
	}
	seen := make(map[string]bool)
	for _, c := range o.Checks {
		if c.Verdict == verdict && !seen[c.Name] {
			seen[c.Name] = true
			by[c.Name]++
		}
	}
}

// collect tells them, and how the newest restart ended, which the state directory knows from before the agent's start.
func (s *restartStats) collect(records []report.RestartRecord, out chan<- prometheus.Metric) {
	s.mu.Lock()
	defer s.mu.Unlock()
	counter := func(name, help, label, value string, n int) {
		out <- metric(prometheus.CounterValue, name, help, float64(n), []string{label, value})
	}
	for _, kind := range slices.Sorted(maps.Keys(s.ended)) {
		counter("hotplate_restarts_total", "Restarts of containerd that were begun, by how they ended.", "outcome",
			string(kind), s.ended[kind])
	}
	for _, reason := range slices.Sorted(maps.Keys(s.deferrals)) {
		counter("hotplate_restart_deferrals_total", "Restarts of containerd that were put off, by the check that did.",
			"reason", reason, s.deferrals[reason])
	}
	for _, reason := range slices.Sorted(maps.Keys(s.refusals)) {
		counter("hotplate_restart_refusals_total", "Restarts of containerd that were refused, by the check that did.",
			"reason", reason, s.refusals[reason])
	}
	out <- histogram("hotplate_restart_downtime_seconds", "From the order to restart containerd until CRI answered.",
		fetch.Histogram{Bounds: s.downtime.Bounds, Counts: slices.Clone(s.downtime.Counts), Sum: s.downtime.Sum})
	if len(records) > 0 {
		out <- metric(prometheus.GaugeValue, "hotplate_restart_last_timestamp_seconds", "When the newest restart of containerd "+
			"ended, by how.", float64(records[0].Time.Unix()), []string{"outcome", records[0].How})
	}
}
