//go:build e2e

package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// breaks is a file that keeps containerd from starting once its configuration names the hosts directory.
const breaks = "/etc/breaks"

// TestRestarts installs hotplate where containerd does not read the hosts directory, so that every node needs a restart.
func TestRestarts(t *testing.T) {
	if !rigtest.Full() {
		t.Skip("restarts of containerd take minutes, with their soak times; set HOTPLATE_FULL=1")
	}
	text, err := rig.BaseConfig("2.4", 0, "")
	if err != nil {
		t.Fatal(err)
	}
	nodes := make([]rig.ClusterNodeConfig, 3)
	for i := range nodes {
		nodes[i].NodeConfig = rig.NodeConfig{ConfigTOML: text, Files: map[string]string{breaks: ""}, DropIns: map[string]string{
			"10-breaks.conf": "[Service]\nExecStartPre=/bin/sh -c 'test ! -e " + breaks + " || ! grep -q certs.d /etc/containerd/config.toml'\n"}}
	}
	s := newSite(t, nodes...)
	s.pushModel("llama:v1", 1)
	before := s.files()
	registry, _, _ := strings.Cut(s.repository, "/") // of hotplate's own image: it needs no mirror
	for _, n := range s.c.Nodes() {
		s.runs(n.Name, registry+"/models/llama:v1")
	}
	pods := s.pods()
	s.configMap("site-ca", map[string]string{"ca.crt": string(s.c.CA().PEM())})
	s.configure(fmt.Sprintf("[{name: llama, ref: %s/models/llama:v1}]", host))
	s.helm(append([]string{"install", "hotplate", s.chart, "--timeout", "3m"}, s.values()...)...)
	var canary string
	s.row("the first node to restart rolls back: the others wait", func(s *site) string {
		canary = pauses(s)
		s.samePods(pods)
		return "one node restarted and rolled back; two were not touched; the same containers run"
	})
	s.row("resumed: the others restart one by one", func(s *site) string {
		defer s.samePods(pods)
		return resumes(s, canary) + "; the same containers run"
	})
	s.row("uninstall: nodes byte for byte as before, config.toml too, without a restart", func(s *site) string {
		daemons := s.daemons()
		happened := uninstall(s, before)
		s.sameDaemons(daemons)
		return happened + "; containerd was not restarted"
	})
}

// rollout is what the leader keeps.
func (s *site) rollout(ctx context.Context) (r coordinator.Rollout, err error) {
	is, err := s.client.CoreV1().ConfigMaps(namespace).Get(ctx, coordinator.RolloutName, metav1.GetOptions{})
	if err != nil {
		return r, err
	}
	return coordinator.ParseRollout(is)
}

// pauses waits until a canary has rolled back, and returns its name.
func pauses(s *site) (canary string) {
	before := s.daemons()
	s.awaitLong("the rollout to be paused", func(ctx context.Context) error {
		r, err := s.rollout(ctx)
		switch {
		case err != nil:
			return err
		case r.Paused == nil:
			return fmt.Errorf("it goes on: %+v", r)
		}
		canary = r.Paused.Node
		return nil
	})
	s.fresh()
	var others []string
	for line := range strings.Lines(before) {
		if !strings.HasPrefix(line, canary+" ") {
			others = append(others, line)
		}
	}
	now := s.daemons()
	for _, line := range others {
		if !strings.Contains(now, line) {
			s.Errorf("besides %s, containerd was restarted:\n%s\nbefore\n%s", canary, now, before)
		}
	}
	for _, n := range s.c.Nodes() {
		want := "restarts are paused since"
		if n.Name == canary {
			want = "RolledBack"
		}
		s.await(n.Name+" to say why", func(context.Context) error {
			is, err := s.statusOf(n.Name)
			if text := is.Report.Text(time.Now()); err == nil && !strings.Contains(text, want) {
				err = fmt.Errorf("it does not say %q:\n%s", want, text)
			}
			return err
		})
	}
	return canary
}

// resumes lets the others go on, and returns when they have.
func resumes(s *site, canary string) string {
	for _, n := range s.c.Nodes() {
		if _, err := n.Exec(s.Context(), "rm", "-f", breaks); err != nil {
			s.Fatal(err)
		}
	}
	newPlugin(s).says("resume", 0, "they had stopped because of "+canary)
	var spans []report.RestartRecord
	for _, n := range s.c.Nodes() {
		if n.Name == canary {
			continue
		}
		s.awaitLong(n.Name+" to become Ready", func(ctx context.Context) error {
			is, err := s.node(ctx, n.Name)
			if got := says(is, "HotplateReady"); err == nil && !strings.HasPrefix(got, "True Ready") {
				err = fmt.Errorf("it says %q", got)
			}
			return err
		})
		is, err := s.statusOf(n.Name)
		if err != nil || len(is.Report.Restart.Records) != 1 || is.Report.Restart.Records[0].How != "Restarted" {
			s.Fatalf("%v: restarts of %s: %+v", err, n.Name, is.Report)
		}
		spans = append(spans, is.Report.Restart.Records[0])
	}
	slices.SortFunc(spans, func(a, b report.RestartRecord) int { return a.Time.Compare(b.Time) })
	// A restart ends with the soak time, and the next node gets the leave only then.
	if apart := spans[1].Time.Sub(spans[0].Time); apart < 30*time.Second {
		s.Errorf("two restarts ended within %s", apart)
	}
	return fmt.Sprintf("two restarts, %s apart; the node that rolled back stays as it was", spans[1].Time.Sub(spans[0].Time).Round(time.Second))
}

// statusOf is what the leader knows of a node.
func (s *site) statusOf(node string) (coordinator.NodeStatus, error) {
	var is coordinator.NodeStatus
	text, err := s.askLeader(s.Context(), "v1", "nodes", node)
	if err == nil {
		err = json.Unmarshal(text, &is)
	}
	if err == nil && is.Report == nil {
		err = fmt.Errorf("there is no report of %s", node)
	}
	if is.Report == nil {
		is.Report = &report.NodeReport{}
	}
	return is, err
}
