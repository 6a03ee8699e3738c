package coordinator

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// metrics are counted by a replica whether it leads or not; what is known of the fleet is asked of the leader.
type metrics struct {
	reports    *prometheus.CounterVec
	took       prometheus.Histogram
	untilReady prometheus.Histogram
}

func newMetrics() *metrics {
	return &metrics{
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hotplate_coordinator_reports_total",
			Help: "Reports of agents, by HTTP status of the answer."}, []string{"code"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hotplate_coordinator_report_seconds",
			Help: "How long the answer to a report took.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
		untilReady: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hotplate_node_until_ready_seconds",
			Help: "How long nodes were not Ready before they became so.", Buckets: prometheus.ExponentialBuckets(5, 2, 12)}),
	}
}

func (m *metrics) reported(code int, took time.Duration) {
	m.reports.WithLabelValues(strconv.Itoa(code)).Inc()
	m.took.Observe(took.Seconds())
}

func (m *metrics) ready(after time.Duration) { m.untilReady.Observe(after.Seconds()) }

// fleetCollector counts nodes when it is asked.
type fleetCollector struct{ s *Server }

// Describe implements prometheus.Collector: what there is depends on whether this replica leads.
func (fleetCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (f fleetCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(name, help string, v float64, labels ...string) {
		var names, values []string
		for i := 0; i+1 < len(labels); i += 2 {
			names, values = append(names, labels[i]), append(values, labels[i+1])
		}
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), prometheus.GaugeValue, v, values...)
	}
	l := f.s.leads.Load()
	if l == nil {
		gauge("hotplate_coordinator_leads", "Whether this replica leads.", 0)
		return
	}
	gauge("hotplate_coordinator_leads", "Whether this replica leads.", 1)
	c := l.count()
	for ready, n := range c.ready {
		gauge("hotplate_nodes", "Nodes with an agent, by HotplateReady.", float64(n), "ready", string(ready))
	}
	for reason, n := range c.reasons {
		gauge("hotplate_nodes_not_ready", "Nodes that are not Ready, by reason.", float64(n), "reason", reason)
	}
	for state, n := range c.images {
		gauge("hotplate_node_images", "Images that nodes should hold, by what has become of them.", float64(n), "state", string(state))
	}
	gauge("hotplate_images_bytes_done", "Compressed bytes of the images that nodes should hold and that have come.", float64(c.done))
	gauge("hotplate_images_bytes_total", "Compressed bytes of the images that nodes should hold, as far as that is known.", float64(c.total))
	for how, n := range c.restarts {
		gauge("hotplate_node_restarts", "Restarts of containerd that nodes remember, by how they ended.", float64(n), "outcome", how)
	}
	if !c.expiry.IsZero() {
		gauge("hotplate_certificate_expiry_timestamp_seconds", "When the first certificate of any node expires.", float64(c.expiry.Unix()))
	}
	r, paused := l.restarts(), 0.0
	if r.Paused != nil {
		paused = 1
	}
	gauge("hotplate_restarts_paused", "Whether restarts of containerd are paused until a person resumes them.", paused)
	gauge("hotplate_restart_holders", "Nodes that have the leave to restart containerd.", float64(len(r.Holders)))
	gauge("hotplate_coordinator_writes", "Requests that wrote to Nodes since this replica leads.", float64(l.marker.Writes()))
}

// counts are sums over all nodes.
type counts struct {
	ready       map[report.ConditionStatus]int
	reasons     map[string]int // of nodes that are not Ready
	images      map[ImageState]int
	restarts    map[string]int
	done, total int64
	expiry      time.Time // the soonest; zero if no node has a certificate
}

func (l *leader) count() counts {
	c := counts{ready: map[report.ConditionStatus]int{report.True: 0, report.False: 0, report.Unknown: 0}, reasons: map[string]int{},
		images:   map[ImageState]int{ImagePending: 0, ImageReady: 0, ImageFailed: 0},
		restarts: map[string]int{howRestarted: 0, howRolledBack: 0, howFailed: 0, howOther: 0}}
	for _, is := range l.statuses() {
		c.ready[is.Ready]++
		if is.Ready != report.True {
			c.reasons[is.Reason]++
		}
		for _, img := range is.Images {
			c.images[img.State]++
			c.done, c.total = c.done+img.Done, c.total+img.Total
		}
	}
	for _, h := range l.fleet.All() {
		for _, cert := range h.Report.Certificates {
			if c.expiry.IsZero() || cert.NotAfter.Before(c.expiry) {
				c.expiry = cert.NotAfter
			}
		}
		for _, r := range h.Report.Restart.Records {
			how := r.How
			if _, known := c.restarts[how]; !known {
				how = howOther
			}
			c.restarts[how]++
		}
	}
	return c
}
