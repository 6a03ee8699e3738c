package agent

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// collector tells Prometheus what the report and the counters say at the moment it asks, so there is no second account of
// the state. The labels come from the config, or are the registry hosts that prefetch has asked, so their number is
// bounded by those.
type collector struct {
	agent *Agent
}

var _ prometheus.Collector = collector{}

// Describe sends nothing: which metrics there are depends on the config (an unchecked collector).
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	r := c.agent.Report()
	gauge := func(name, help string, value float64, labels ...string) {
		out <- metric(prometheus.GaugeValue, name, help, value, labels)
	}
	counter := func(name, help string, value int) {
		out <- metric(prometheus.CounterValue, name, help, float64(value), nil)
	}
	gauge("hotplate_build_info", "Always 1; the labels tell versions.", 1,
		"version", r.AgentVersion, "containerd", r.Containerd.Version)
	gauge("hotplate_ready", "1 when the node is Ready.", bit(r.Ready))
	gauge("hotplate_config_rejected", "1 while a newer config is not in force because of its faults.",
		bit(len(r.Config.Rejected) > 0))
	for _, cond := range r.Conditions {
		gauge("hotplate_condition", "1 when the condition is True, 0 when False, -1 when Unknown.",
			map[report.ConditionStatus]float64{report.True: 1, report.False: 0}[cond.Status]-bit(cond.Status == report.Unknown),
			"type", cond.Type)
	}
	for _, reg := range r.Registries {
		gauge("hotplate_registry_applied", "1 when the registry's host directory is as the config wants it.",
			bit(reg.State == report.RegistryApplied), "registry", reg.Host)
		for _, m := range reg.Mirrors {
			gauge("hotplate_mirror_reachable", "1 when the mirror answered and proved itself at the last look.",
				bit(m.Reachable), "registry", reg.Host, "url", m.URL)
		}
	}
	collectCertificates(r.Certificates, gauge)
	for _, i := range r.Images {
		gauge("hotplate_image_ready", "1 when the image is Ready.", bit(i.Phase == report.ImageReady), "image", i.Name)
		gauge("hotplate_image_bytes_done", "Compressed bytes of the image that the node has.", float64(i.BytesDone),
			"image", i.Name)
		gauge("hotplate_image_bytes_total", "Compressed bytes of the image.", float64(i.BytesTotal), "image", i.Name)
	}
	s := c.agent.hosts.stats.snapshot()
	counter("hotplate_passes_total", "Passes of the reconciler.", s.passes)
	counter("hotplate_hosts_changes_total", "Passes that changed the hosts directory.", s.changes)
	counter("hotplate_hosts_drift_total", "Files of ours that somebody else changed.", s.drift)
	c.agent.restarts.stats.collect(r.Restart.Records, out)
	collectImages(r, gauge)
	c.collectPrefetch(out)
}

// collectCertificates tells the soonest expiry of each bundle and key pair: subjects would make labels without bound.
func collectCertificates(certificates []report.Certificate, gauge func(string, string, float64, ...string)) {
	soonest := make(map[string]time.Time)
	for _, c := range certificates {
		if t, ok := soonest[c.Used]; !ok || c.NotAfter.Before(t) {
			soonest[c.Used] = c.NotAfter
		}
	}
	for _, used := range slices.Sorted(maps.Keys(soonest)) {
		gauge("hotplate_certificate_expiry_timestamp_seconds", "When the first certificate of the bundle or key pair ends.",
			float64(soonest[used].Unix()), "used", used)
	}
}

// metric makes a metric from pairs of label names and values.
func metric(t prometheus.ValueType, name, help string, value float64, pairs []string) prometheus.Metric {
	var names, values []string
	for pair := range slices.Chunk(pairs, 2) {
		names, values = append(names, pair[0]), append(values, pair[1])
	}
	return prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), t, value, values...)
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// stats counts what the reconciler did. It is safe for concurrent use.
type stats struct {
	mu sync.Mutex
	counts
}

type counts struct {
	passes, changes, drift int
	lastPass               time.Time
}

func (s *stats) add(f func(*counts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.counts)
}

func (s *stats) snapshot() counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}
