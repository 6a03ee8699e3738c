package coordinator

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// metrics are counted by a replica whether it leads or not; what is known of the fleet is asked of the leader.
type metrics struct {
	reports *prometheus.CounterVec
	took    prometheus.Histogram
}

func newMetrics() *metrics {
	return &metrics{
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hotplate_coordinator_reports_total",
			Help: "Reports of agents, by HTTP status of the answer."}, []string{"code"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hotplate_coordinator_report_seconds",
			Help: "How long the answer to a report took.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
	}
}

func (m *metrics) reported(code int, took time.Duration) {
	m.reports.WithLabelValues(strconv.Itoa(code)).Inc()
	m.took.Observe(took.Seconds())
}

// NodeStatus is what is known of one node.
type NodeStatus struct {
	Node    string                 `json:"node"`
	Ready   report.ConditionStatus `json:"ready"`
	Reason  string                 `json:"reason,omitempty"`
	Message string                 `json:"message,omitempty"`
	Heard   time.Time              `json:"heard"`
	Images  []ImageStatus          `json:"images,omitempty"`
	Faults  []string               `json:"faults,omitempty"`
	// Report is what the node said last; only where one node is asked for.
	Report *report.NodeReport `json:"report,omitempty"`
}

// ImageStatus is what has become of one image that a node should hold.
type ImageStatus struct {
	report.WantedImage
	State ImageState `json:"state"`
	// Done and Total are compressed bytes.
	Done  int64 `json:"done"`
	Total int64 `json:"total"`
}

// Handler answers what people and programs ask: metrics, health, and what is known of nodes. It changes nothing and tells no
// secret.
func (s *Server) Handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(s.metrics.reports, s.metrics.took, fleetCollector{s})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	ok := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }
	mux.HandleFunc("GET /healthz", ok)
	mux.HandleFunc("GET /readyz", ok) // a replica that waits for the Lease is ready to
	mux.HandleFunc("GET /v1/nodes", s.asLeader(func(l *leader, _ *http.Request) (any, error) { return l.statuses(), nil }))
	mux.HandleFunc("GET /v1/nodes/{name}", s.asLeader(func(l *leader, req *http.Request) (any, error) {
		return l.statusOf(req.PathValue("name"), true)
	}))
	mux.HandleFunc("GET /v1/restarts", s.asLeader(func(l *leader, _ *http.Request) (any, error) { return l.restarts(), nil }))
	return mux
}

var errNoReport = errors.New("no report of this node")

// asLeader answers where this replica leads.
func (s *Server) asLeader(answer func(*leader, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		l := s.leads.Load()
		if l == nil {
			http.Error(w, errNotLeading.Error(), http.StatusServiceUnavailable)
			return
		}
		is, err := answer(l, req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(is) // the client has gone away
	}
}

func (l *leader) statuses() []NodeStatus {
	all := []NodeStatus{}
	for name := range l.fleet.All() {
		if is, err := l.statusOf(name, false); err == nil {
			all = append(all, is)
		}
	}
	slices.SortFunc(all, func(a, b NodeStatus) int { return cmp.Compare(a.Node, b.Node) })
	return all
}

func (l *leader) statusOf(name string, whole bool) (NodeStatus, error) {
	heard, ok := l.fleet.Of(name)
	node, there := l.view.Node(name)
	if !ok || !there {
		return NodeStatus{}, fmt.Errorf("%s: %w", name, errNoReport)
	}
	c, _ := l.Conclude(node, false)
	out := NodeStatus{Node: name, Ready: c.Status, Reason: c.Reason, Message: c.Message, Heard: heard.At, Faults: c.Faults}
	for _, want := range l.Wanted(node).Images {
		is, _ := find(heard.Report.Images, want)
		out.Images = append(out.Images, ImageStatus{WantedImage: want, State: c.Images[want.Name], Done: is.BytesDone, Total: is.BytesTotal})
	}
	if whole {
		out.Report = &heard.Report
	}
	return out, nil
}

// restarts is the Rollout as it is now.
func (l *leader) restarts() Rollout {
	l.rolling.Lock()
	defer l.rolling.Unlock()
	return l.rollout.clone()
}

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
	byReady := map[report.ConditionStatus]int{report.True: 0, report.False: 0, report.Unknown: 0}
	var expiry time.Time
	for _, is := range l.statuses() {
		byReady[is.Ready]++
	}
	for _, h := range l.fleet.All() {
		for _, c := range h.Report.Certificates {
			if expiry.IsZero() || c.NotAfter.Before(expiry) {
				expiry = c.NotAfter
			}
		}
	}
	for ready, n := range byReady {
		gauge("hotplate_nodes", "Nodes with an agent, by HotplateReady.", float64(n), "ready", string(ready))
	}
	if !expiry.IsZero() {
		gauge("hotplate_certificate_expiry_timestamp_seconds", "When the first certificate of any node expires.", float64(expiry.Unix()))
	}
	r, paused := l.restarts(), 0.0
	if r.Paused != nil {
		paused = 1
	}
	gauge("hotplate_restarts_paused", "Whether restarts of containerd are paused until a person resumes them.", paused)
	gauge("hotplate_restart_holders", "Nodes that have the leave to restart containerd.", float64(len(r.Holders)))
	gauge("hotplate_coordinator_writes", "Requests that wrote to Nodes since this replica leads.", float64(l.marker.Writes()))
}
