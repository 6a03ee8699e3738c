package coordinator

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/report"
)

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// healthy is a report in which all is well, with these images.
func healthy(images ...report.Image) report.NodeReport {
	r := report.NodeReport{Config: report.ConfigStatus{Hash: "h1"}, Images: images}
	for _, t := range []string{report.ConfigValid, report.ContainerdHealthy, report.RegistriesConfigured, report.HostsLive, report.ImagesReady} {
		r.Conditions = append(r.Conditions, report.Condition{Type: t, Status: report.True, Reason: "Fine"})
	}
	return r
}

func with(r report.NodeReport, t string, status report.ConditionStatus, reason, message string) report.NodeReport {
	for i := range r.Conditions {
		if r.Conditions[i].Type == t {
			r.Conditions[i] = report.Condition{Type: t, Status: status, Reason: reason, Message: message}
		}
	}
	return r
}

func TestConclude(t *testing.T) {
	wanted := Wanted{Images: []report.WantedImage{
		{Name: "a", Ref: "registry.example.com/a:v1", Digest: "sha256:a"}, {Name: "b", Ref: "registry.example.com/b:v1"}}}
	a := report.Image{Name: "a", Target: "sha256:a", Phase: report.ImageReady}
	b := report.Image{Name: "b", Target: "sha256:b", Phase: report.ImageReady}
	other := healthy(a, b)
	other.Config.Hash = "h0"
	rejects := healthy(a, b)
	rejects.Config.Hash, rejects.Config.Rejected = "h0", []string{"line 3: no"}
	for name, c := range map[string]struct {
		report  report.NodeReport
		change  func(*question)
		status  report.ConditionStatus
		reason  string
		message string
		images  map[string]ImageState
	}{
		"all is there": {report: healthy(a, b), status: report.True, reason: ReasonReady, message: "2 of 2 images"},
		"nothing is wanted": {report: healthy(), change: func(q *question) { q.wanted = Wanted{} }, status: report.True, reason: ReasonReady,
			message: "no images", images: map[string]ImageState{}},
		"one has not been begun": {report: healthy(a), status: report.False, reason: ReasonPreparing, message: "1 of 2; preparing: b",
			images: map[string]ImageState{"a": ImageReady, "b": ImagePending}},
		"the tag has moved": {report: healthy(report.Image{Name: "a", Target: "sha256:old", Phase: report.ImageReady}, b), status: report.False,
			reason: ReasonPreparing, message: "preparing: a", images: map[string]ImageState{"a": ImagePending, "b": ImageReady}},
		"the platform's manifest was resolved": {report: healthy(report.Image{Name: "a", Target: "sha256:index", Digest: "sha256:a",
			Phase: report.ImageReady}, b), status: report.True, reason: ReasonReady},
		"half of the bytes are there": {report: healthy(a, report.Image{Name: "b", Phase: report.ImageFetching, BytesDone: 60, BytesTotal: 100}),
			status: report.False, reason: ReasonPreparing, message: "more than 50 %", images: map[string]ImageState{"a": ImageReady, "b": ImagePending}},
		"one has failed": {report: healthy(a, report.Image{Name: "b", Phase: report.ImageFailed, Reason: report.NoSpace}), status: report.False,
			reason: ReasonFailed, message: "failed: b (NoSpace)", images: map[string]ImageState{"a": ImageReady, "b": ImageFailed}},
		"nobody knows the tag": {report: healthy(a), change: func(q *question) { q.unknown = map[string]string{"registry.example.com/b:v1": "404"} },
			status: report.False, reason: ReasonUnresolved, message: "b: 404", images: map[string]ImageState{"a": ImageReady, "b": ImagePending}},
		"nobody knows the tag of a short name": {report: healthy(), change: func(q *question) {
			q.wanted = Wanted{Images: []report.WantedImage{{Name: "c", Ref: "c:v1"}}}
			q.unknown = map[string]string{"docker.io/library/c:v1": "404"}
		}, status: report.False, reason: ReasonUnresolved, message: "c: 404", images: map[string]ImageState{"c": ImagePending}},
		"containerd is away": {report: with(healthy(a, b), report.ContainerdHealthy, report.False, "Away", "no answer"), status: report.False,
			reason: "Away", message: "ContainerdHealthy: no answer"},
		"it restarts": {report: with(healthy(a, b), report.HostsLive, report.Unknown, report.Restarting, ""), status: report.False,
			reason: report.Restarting, message: "HostsLive"},
		"nothing was observed": {report: report.NodeReport{Images: []report.Image{a, b}}, status: report.False, reason: "NotObserved"},
		"a new config is rejected": {report: func() report.NodeReport {
			r := healthy(a, b)
			r.Config.Rejected = []string{"line 3: no"}
			return r
		}(), status: report.True, reason: ReasonReady, message: "2 of 2 images; a newer config is rejected: line 3: no"},
		"no config is good": {report: report.NodeReport{Config: report.ConfigStatus{Rejected: []string{"line 3: no"}}}, status: report.False,
			reason: ReasonRejected, message: "no config is in force: line 3: no",
			images: map[string]ImageState{"a": ImagePending, "b": ImagePending}},
		"a new config has just come": {report: other, change: func(q *question) { q.changed = noon.Add(-time.Minute) }, status: report.True,
			reason: ReasonReady},
		"the old config stays": {report: other, status: report.False, reason: ReasonBehind, message: "older config"},
		"the new config is rejected": {report: rejects, status: report.False, reason: ReasonBehind,
			message: "rejects the newer one: line 3: no"},
		"it is silent": {report: healthy(a, b), change: func(q *question) { q.heard.At = noon.Add(-SilentAfter) }, status: report.Unknown,
			reason: ReasonSilent, message: "since 2026-11-26T11:58:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			q := question{hash: "h1", changed: noon.Add(-time.Hour), wanted: wanted, heard: Heard{Report: c.report, At: noon}, now: noon}
			if c.change != nil {
				c.change(&q)
			}
			got := conclude(q)
			if got.Status != c.status || got.Reason != c.reason || !strings.Contains(got.Message, c.message) {
				t.Errorf("%s %s %q, want %s %s %q", got.Status, got.Reason, got.Message, c.status, c.reason, c.message)
			}
			if c.images == nil {
				c.images = map[string]ImageState{"a": ImageReady, "b": ImageReady}
			}
			if diff := cmp.Diff(c.images, got.Images); diff != "" {
				t.Errorf("images (-want +got):\n%s", diff)
			}
		})
	}
}

// TestProgressIsCoarse: a whole pull changes what is concluded a handful of times, so that few writes follow.
func TestProgressIsCoarse(t *testing.T) {
	wanted := Wanted{Images: []report.WantedImage{{Name: "a", Ref: "registry.example.com/a:v1"}}}
	said := map[string]bool{}
	for done := range int64(1001) {
		img := report.Image{Name: "a", Phase: report.ImageFetching, BytesDone: done, BytesTotal: 1000}
		c := conclude(question{hash: "h1", wanted: wanted, heard: Heard{Report: healthy(img), At: noon}, now: noon})
		said[c.Message] = true
	}
	if len(said) != 4 {
		t.Errorf("%d different messages: %v", len(said), said)
	}
}

func TestFleet(t *testing.T) {
	f := NewFleet(noon)
	if f.Silent("a", noon.Add(SilentAfter-1)) || !f.Silent("a", noon.Add(SilentAfter)) {
		t.Error("a node that was never heard is silent only when all have had the time to report")
	}
	at := noon.Add(time.Hour)
	r := healthy(report.Image{Name: "x", Layers: []report.Layer{{Digest: "sha256:l"}}})
	r.Node = "b" // what a report says of its own node counts for nothing
	f.Hear("a", r, at)
	h, ok := f.Of("a")
	if !ok || h.Report.Node != "a" || h.Report.Images[0].Layers != nil || r.Images[0].Layers == nil {
		t.Errorf("%+v", h)
	}
	if f.Silent("a", at.Add(SilentAfter-1)) || !f.Silent("a", at.Add(SilentAfter)) {
		t.Error("silence begins at the last report")
	}
	f.Hear("a", healthy(), at.Add(1))
	if h, _ := f.Of("a"); len(h.Report.Images) != 0 {
		t.Error("what was said before counts")
	}
	if _, ok := f.Of("b"); ok || len(f.All()) != 1 {
		t.Error("b was never heard")
	}
	f.Forget("a")
	if len(f.All()) != 0 {
		t.Error("a is gone")
	}
}

func TestPullers(t *testing.T) {
	p := newPullers(2)
	ask := func(node string, needs, fetching bool, at int) bool {
		return p.ask(node, work{needs: needs, fetching: fetching}, noon.Add(time.Duration(at)*time.Second)).Granted
	}
	if !ask("idle", false, false, 0) {
		t.Error("who needs nothing is not held back")
	}
	if !ask("a", true, false, 1) || !ask("b", true, false, 2) {
		t.Error("there are two places")
	}
	if ask("d", true, false, 3) || ask("c", true, false, 4) {
		t.Error("there is no third place")
	}
	if leave := p.ask("c", work{needs: true, fetching: false}, noon); !strings.Contains(leave.Reason, "2 nodes do") {
		t.Errorf("%q", leave.Reason)
	}
	if !ask("a", true, true, 5) {
		t.Error("who has a place keeps it")
	}
	ask("a", false, false, 6)
	if ask("c", true, false, 7) || !ask("d", true, false, 8) {
		t.Error("d has waited for longer than c")
	}
	p.leave("b")
	if !ask("c", true, false, 9) {
		t.Error("a place is free")
	}
	if !ask("late", true, true, 10) || ask("e", true, false, 11) {
		t.Error("who fetches already goes on, and counts")
	}
	p.limit(4)
	if !ask("e", true, false, 12) {
		t.Error("there are more places now")
	}
	p.leave("gone")
	if len(p.waiting) != 0 {
		t.Errorf("waiting: %v", p.waiting)
	}
}
