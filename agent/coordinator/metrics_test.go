package coordinator

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// TestTheDashboardAsksForMetricsThatExist looks at all that a leader exports.
func TestTheDashboardAsksForMetricsThatExist(t *testing.T) {
	s, _ := replica(t, fake.NewClientset(joining()), "one")
	exported := map[string]bool{}
	name := regexp.MustCompile(`hotplate_[a-z_]+`)
	await(t, "it leads", func() bool { return s.leads.Load() != nil })
	s.metrics.reported(200, 0)
	_, body := get(t, s, "/metrics")
	for _, line := range regexp.MustCompile(`(?m)^hotplate_[a-z_]+`).FindAllString(body, -1) {
		exported[line] = true
	}
	// Only where there are such nodes.
	for _, more := range []string{"hotplate_nodes_not_ready", "hotplate_certificate_expiry_timestamp_seconds"} {
		exported[more] = true
	}
	data, err := os.ReadFile(filepath.Join("..", "..", "manifests", "grafana", "hotplate-fleet.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			ID      int    `json:"id"`
			Title   string `json:"title"`
			Type    string `json:"type"`
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
	}
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	used, ids := map[string]bool{}, map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s asks for nothing, or has the ID of another panel", p.Title)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			for _, n := range name.FindAllString(target.Expr, -1) {
				used[n] = true
				if !exported[n] {
					t.Errorf("%s asks for %s, which no coordinator exports", p.Title, n)
				}
			}
		}
	}
	for n := range exported {
		family := regexp.MustCompile(`_(sum|count)$`).ReplaceAllString(n, "_bucket")
		if !used[n] && !used[family] {
			t.Errorf("%s is shown nowhere", n)
		}
	}
}

// TestWhatTheFleetComesTo has three nodes of which everything is known, and compares every figure.
func TestWhatTheFleetComesTo(t *testing.T) {
	gpu := func(name string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u"}}
	}
	view := viewOf(t, fake.NewClientset(gpu("gpu-1"), gpu("gpu-2"), gpu("gpu-3")), none, none)
	s := &Server{metrics: newMetrics()}
	l := &leader{view: view, marker: &Marker{}, Coordinator: &Coordinator{cfg: Config{Nodes: view}, fleet: NewFleet(time.Now()), pullers: newPullers(1)}}
	l.intent = &Intent{Hash: "h1", Images: []config.Image{{Name: "a", Ref: "registry.example.com/a@" + someDigest}}}
	l.rollout = Rollout{Holders: map[string]Holder{"gpu-1": {}, "gpu-2": {}}, Paused: &Pause{Node: "gpu-2"}}
	s.leads.Store(l)

	soonest := time.Unix(2_000_000_000, 0)
	ready := healthy(report.Image{Name: "a", Target: someDigest, Phase: report.ImageReady, BytesDone: 70, BytesTotal: 70})
	ready.Certificates = []report.Certificate{{NotAfter: soonest.Add(time.Hour)}, {NotAfter: soonest}}
	ready.Restart.Records = []report.RestartRecord{{How: howRestarted}, {How: howRestarted}, {How: "Puzzled"}}
	failed := healthy(report.Image{Name: "a", Target: someDigest, Phase: report.ImageFailed, Reason: "PullFailed", BytesDone: 10, BytesTotal: 70})
	failed.Certificates = []report.Certificate{{NotAfter: soonest.Add(time.Minute)}}
	failed.Restart.Records = []report.RestartRecord{{How: howRolledBack}}
	l.fleet.Hear("gpu-1", ready, time.Now())
	l.fleet.Hear("gpu-2", failed, time.Now())
	l.fleet.Hear("gpu-3", ready, time.Now().Add(-SilentAfter))

	_, text := get(t, s, "/metrics")
	for _, want := range []string{
		`hotplate_nodes{ready="True"} 1`, `hotplate_nodes{ready="False"} 1`, `hotplate_nodes{ready="Unknown"} 1`,
		`hotplate_nodes_not_ready{reason="ImageFailed"} 1`, `hotplate_nodes_not_ready{reason="AgentSilent"} 1`,
		`hotplate_node_images{state="ready"} 2`, `hotplate_node_images{state="failed"} 1`, `hotplate_node_images{state="pending"} 0`,
		`hotplate_images_bytes_done 150`, `hotplate_images_bytes_total 210`,
		`hotplate_node_restarts{outcome="Restarted"} 4`, `hotplate_node_restarts{outcome="RolledBack"} 1`, `hotplate_node_restarts{outcome="Other"} 2`,
		`hotplate_certificate_expiry_timestamp_seconds 2e+09`, `hotplate_restarts_paused 1`, `hotplate_restart_holders 2`, `hotplate_coordinator_leads 1`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("%s is not in the metrics", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}
