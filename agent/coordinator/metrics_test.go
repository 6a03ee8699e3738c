package coordinator

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"k8s.io/client-go/kubernetes/fake"
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
