package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// dashboard is what is read of a Grafana dashboard.
type dashboard struct {
	Panels []struct {
		ID      int    `json:"id"`
		Type    string `json:"type"`
		Title   string `json:"title"`
		Targets []struct {
			Expr string `json:"expr"`
		} `json:"targets"`
	} `json:"panels"`
}

// The golden metrics are those that the collector exports.
func TestTheDashboardAsksForMetricsThatExist(t *testing.T) {
	metrics, err := os.ReadFile(filepath.Join("testdata", "metrics.golden"))
	if err != nil {
		t.Fatal(err)
	}
	exported := make(map[string]bool)
	for _, line := range regexp.MustCompile(`(?m)^hotplate_[a-z_]+`).FindAllString(string(metrics), -1) {
		exported[line] = true
	}
	data, err := os.ReadFile(filepath.Join("..", "manifests", "grafana", "hotplate-node.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	used, ids := make(map[string]bool), make(map[int]bool)
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("%s: another panel has the ID %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			names := regexp.MustCompile(`hotplate_[a-z_]+`).FindAllString(target.Expr, -1)
			if len(names) == 0 || strings.Count(target.Expr, "(") != strings.Count(target.Expr, ")") {
				t.Errorf("%s: the query is %s", p.Title, target.Expr)
			}
			for _, name := range names {
				used[name] = true
				if !exported[name] {
					t.Errorf("%s asks for %s, which the agent does not export", p.Title, name)
				}
			}
		}
	}
	// Whoever adds a metric of prefetch shows it, or says here why not.
	unshown := []string{"hotplate_prefetch_requests_total"} // its bytes and retries say more
	for name := range exported {
		family := regexp.MustCompile(`_(sum|count)$`).ReplaceAllString(name, "_bucket")
		if strings.HasPrefix(name, "hotplate_prefetch_") && !used[name] && !used[family] && !slices.Contains(unshown, name) {
			t.Errorf("%s is shown nowhere", name)
		}
	}
}
