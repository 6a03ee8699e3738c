package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// rolloutOf is the ConfigMap in which the leader keeps r.
func rolloutOf(t *testing.T, r coordinator.Rollout, annotations map[string]string) *desk {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return newDesk(t, lease("leader"), configMap(coordinator.RolloutName, nil, annotations, map[string]string{coordinator.RolloutKey: string(text)}))
}

func TestRestarts(t *testing.T) {
	d := rolloutOf(t, coordinator.Rollout{
		Holders: map[string]coordinator.Holder{"gpu-3": {Since: noon.Add(-20 * time.Second), Held: true}},
		Paused:  &coordinator.Pause{Time: noon.Add(-3 * time.Hour), Node: "gpu-1", Reason: "RolledBack: it did not start"},
	}, map[string]string{coordinator.PauseAnnotation: "moving racks"})
	d.tells["v1/nodes"] = []coordinator.NodeStatus{gpu1(), gpu2(), {Node: "gpu-3"}, {Node: "gone"}}
	d.tells["v1/nodes/gpu-1"] = withReport(gpu1(), func(r *report.NodeReport) {
		set(r, report.HostsLive, report.False, report.RolledBack, "see the journal")
		r.Restart.Records = []report.RestartRecord{{How: "RolledBack", Time: noon.Add(-3 * time.Hour), Reason: "it did not start", Rescued: true},
			{How: "Restarted", Time: noon.Add(-72 * time.Hour), Reason: "config_path", Downtime: 420 * time.Millisecond}}
	})
	d.tells["v1/nodes/gpu-2"] = withReport(gpu2(), nil)
	d.tells["v1/nodes/gpu-3"] = withReport(coordinator.NodeStatus{Node: "gpu-3"}, func(r *report.NodeReport) {
		set(r, report.HostsLive, report.Unknown, report.Restarting, "")
	})
	want := `
paused by a person: moving racks
stopped 3h ago because of gpu-1: RolledBack: it did not start
kubectl hotplate resume lets them go on

HAS THE LEAVE   FOR   BEGUN
gpu-3           20s   yes


NOT RESTARTED   SINCE   REASON       MESSAGE
gpu-1           60m     RolledBack   see the journal


ENDED                           NODE    AGO   AWAY FOR   REASON
RolledBack by the node itself   gpu-1   3h               it did not start
Restarted                       gpu-1   3d    420ms      config_path

`
	out, errOut, err := d.run("restarts")
	if diff := cmp.Diff(want, "\n"+out); err != nil || errOut != "" || diff != "" {
		t.Errorf("%v %s (-want +got)\n%s", err, errOut, diff)
	}
	out, _, err = d.run("restarts", "--last", "1", "-o", "json")
	var got restarts
	if err = errors.Join(err, json.Unmarshal([]byte(out), &got)); err != nil || got.PausedByPerson != "moving racks" || got.Paused.Node != "gpu-1" ||
		len(got.Ended) != 1 || got.Ended[0].Node != "gpu-1" || len(got.Waiting) != 1 || !got.Holders["gpu-3"].Held {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestRestartsWhereThereAreNone(t *testing.T) {
	d := rolloutOf(t, coordinator.Rollout{}, nil)
	d.tells["v1/nodes"] = []coordinator.NodeStatus{}
	out, _, err := d.run("restarts")
	want := "no node has the leave to restart containerd\nno other node needs a restart, as far as is known\nno restart has ended, as far as is known\n"
	if err != nil || out != want {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestRestartsWithoutLeader: what the leader keeps is there without it.
func TestRestartsWithoutLeader(t *testing.T) {
	d := rolloutOf(t, coordinator.Rollout{Holders: map[string]coordinator.Holder{"gpu-3": {}}}, nil)
	d.tells["v1/nodes"] = errors.New("connection refused")
	out, errOut, err := d.run("restarts")
	if err != nil || !strings.Contains(out, "gpu-3") || !strings.Contains(errOut, "note: which nodes wait, and how restarts ended, is not known: ") {
		t.Errorf("%v %s\n%s", err, errOut, out)
	}
}

func (d *desk) rolloutAnnotations() map[string]string {
	d.t.Helper()
	is, err := d.client.CoreV1().ConfigMaps("hotplate").Get(d.t.Context(), coordinator.RolloutName, metav1.GetOptions{})
	if err != nil {
		d.t.Fatal(err)
	}
	return is.Annotations
}

func TestPauseAndResume(t *testing.T) {
	d := rolloutOf(t, coordinator.Rollout{}, map[string]string{"other": "stays"})
	out, _, err := d.run("pause", "moving", "racks")
	if got := d.rolloutAnnotations()[coordinator.PauseAnnotation]; err != nil || got != "moving racks" || out != "restarts paused: moving racks\n" {
		t.Errorf("%v %q %q", err, got, out)
	}
	out, _, err = d.run("resume")
	want := map[string]string{"other": "stays", coordinator.ResumeAnnotation: "2026-06-01T12:00:01Z"}
	if got := d.rolloutAnnotations(); err != nil || !cmp.Equal(got, want) || out != "restarts resumed; they were paused: moving racks\n" {
		t.Errorf("%v %v %q", err, got, out)
	}
	if out, _, err = d.run("resume"); err != nil || out != "restarts were not paused\n" {
		t.Errorf("again: %v %q", err, out)
	}
	if _, _, err = d.run("pause"); err != nil || d.rolloutAnnotations()[coordinator.PauseAnnotation] != "with kubectl hotplate pause, at 2026-06-01T12:00:00Z" {
		t.Errorf("without a reason: %v %v", err, d.rolloutAnnotations())
	}
}

// TestResumeIsAfterThePause also where this machine's clock is behind: else the coordinator would not heed it.
func TestResumeIsAfterThePause(t *testing.T) {
	for _, paused := range []time.Time{noon.Add(-time.Hour), noon, noon.Add(500 * time.Millisecond), noon.Add(time.Hour + 999*time.Millisecond)} {
		d := rolloutOf(t, coordinator.Rollout{Paused: &coordinator.Pause{Time: paused, Node: "gpu-1", Reason: "RolledBack"}}, nil)
		out, _, err := d.run("resume")
		said, parseErr := time.Parse(time.RFC3339, d.rolloutAnnotations()[coordinator.ResumeAnnotation])
		if err = errors.Join(err, parseErr); err != nil || !said.After(paused) || out != "restarts resumed; they had stopped because of gpu-1: RolledBack\n" {
			t.Errorf("paused at %s, resumed at %s: %v %q", paused, said, err, out)
		}
	}
}

func TestARolloutThatCannotBeRead(t *testing.T) {
	d := newDesk(t, lease("leader"), configMap(coordinator.RolloutName, nil, nil, map[string]string{coordinator.RolloutKey: "{"}))
	for _, command := range []string{"restarts", "resume"} {
		if _, _, err := d.run(command); err == nil || !strings.Contains(err.Error(), "correct it, or delete the key") {
			t.Errorf("%s: %v", command, err)
		}
	}
}
