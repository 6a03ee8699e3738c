package coordinator

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hotplate-dev/hotplate/agent/report"
)

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

const (
	// maxAsked is how many people and programs are answered at once, maxAsking how long others wait for that.
	maxAsked  = 8
	maxAsking = 5 * time.Second
)

// Handler answers what people and programs ask: metrics, health, and what is known of nodes. It changes nothing and tells no
// secret.
func (s *Server) Handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(s.metrics.reports, s.metrics.took, s.metrics.untilReady, fleetCollector{s})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxAsked}))
	asked := make(places, maxAsked)
	ok := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }
	mux.HandleFunc("GET /healthz", ok)
	mux.HandleFunc("GET /readyz", ok) // a replica that waits for the Lease is ready to
	mux.HandleFunc("GET /v1/nodes", s.asLeader(asked, func(l *leader, _ *http.Request) (any, error) { return l.statuses(), nil }))
	mux.HandleFunc("GET /v1/nodes/{name}", s.asLeader(asked, func(l *leader, req *http.Request) (any, error) {
		return l.statusOf(req.PathValue("name"), true)
	}))
	mux.HandleFunc("GET /v1/restarts", s.asLeader(asked, func(l *leader, _ *http.Request) (any, error) { return l.restarts(), nil }))
	return mux
}

var errNoReport = errors.New("no report of this node")

// asLeader answers where this replica leads. An answer looks at the whole fleet, so there are only so many at once.
func (s *Server) asLeader(asked places, answer func(*leader, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		leave, ok := asked.take(req.Context(), maxAsking)
		if !ok {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many questions at once", http.StatusServiceUnavailable)
			return
		}
		defer leave()
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
	names := l.fleet.All()
	for _, name := range l.view.Marked() { // of some of them this leader has heard nothing
		if _, heard := names[name]; !heard {
			names[name] = nil
		}
	}
	for name := range names {
		if is, err := l.statusOf(name, false); err == nil {
			all = append(all, is)
		}
	}
	slices.SortFunc(all, func(a, b NodeStatus) int { return cmp.Compare(a.Node, b.Node) })
	return all
}

func (l *leader) statusOf(name string, whole bool) (NodeStatus, error) {
	heard, ok := l.fleet.Of(name)
	object := l.view.Get(name)
	if object == nil {
		return NodeStatus{}, fmt.Errorf("%s: %w", name, errNoReport)
	}
	node := nodeOf(object)
	c, known := l.Conclude(node, !ok && ours(object).marked())
	if !ok && !known {
		return NodeStatus{}, fmt.Errorf("%s: %w", name, errNoReport)
	}
	out := NodeStatus{Node: name, Ready: c.Status, Reason: c.Reason, Message: c.Message, Heard: heard.At, Faults: c.Faults}
	for _, want := range l.Wanted(node).Images {
		is, _ := find(heard.Report.Images, want)
		out.Images = append(out.Images, ImageStatus{WantedImage: want, State: c.Images[want.Name], Done: is.BytesDone, Total: is.BytesTotal})
	}
	if whole && ok {
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
