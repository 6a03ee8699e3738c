package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// gpu1 has all, gpu2 is on its way.
func gpu1() coordinator.NodeStatus {
	return coordinator.NodeStatus{Node: "gpu-1", Ready: report.True, Reason: "Ready", Message: "1 of 1 images", Heard: noon.Add(-3 * time.Second),
		Images: []coordinator.ImageStatus{imageStatus("llama", llama, coordinator.ImageReady, 10<<30, 10<<30)}}
}

func gpu2() coordinator.NodeStatus {
	return coordinator.NodeStatus{Node: "gpu-2", Ready: report.False, Reason: "ImagesPreparing", Message: "1 of 2; preparing: whisper", Heard: noon.Add(-5 * time.Minute),
		Images: []coordinator.ImageStatus{imageStatus("llama", llama, coordinator.ImageReady, 10<<30, 10<<30), imageStatus("whisper", whisper, coordinator.ImagePending, 3<<30, 4<<30)},
		Faults: []string{`"nonsense" is no image`}}
}

func imageStatus(name, ref string, state coordinator.ImageState, done, total int64) coordinator.ImageStatus {
	return coordinator.ImageStatus{WantedImage: report.WantedImage{Name: name, Ref: ref, Digest: digest, Pin: true}, State: state, Done: done, Total: total}
}

// withReport is a node with what its agent says.
func withReport(is coordinator.NodeStatus, change func(r *report.NodeReport)) coordinator.NodeStatus {
	r := &report.NodeReport{Node: is.Node, Ready: is.Ready == report.True, Config: report.ConfigStatus{Source: "ConfigMap", Hash: "abc"}}
	for _, kind := range []string{report.ConfigValid, report.ContainerdHealthy, report.RegistriesConfigured, report.HostsLive, report.CertificatesValid} {
		r.Conditions = append(r.Conditions, report.Condition{Type: kind, Status: report.True, Reason: "Fine", LastTransitionTime: noon.Add(-time.Hour)})
	}
	for _, img := range is.Images {
		phase := report.ImageFetching
		if img.State == coordinator.ImageReady {
			phase = report.ImageReady
		}
		r.Images = append(r.Images, report.Image{Name: img.Name, Ref: img.Ref, Digest: digest, Target: digest, Phase: phase, Pinned: phase == report.ImageReady,
			BytesDone: img.Done, BytesTotal: img.Total})
	}
	if change != nil {
		change(r)
	}
	is.Report = r
	return is
}

func set(r *report.NodeReport, kind string, status report.ConditionStatus, reason, message string) {
	for i := range r.Conditions {
		if r.Conditions[i].Type == kind {
			r.Conditions[i].Status, r.Conditions[i].Reason, r.Conditions[i].Message = status, reason, message
		}
	}
}

func twoNodes(t *testing.T) *desk {
	d := newDesk(t, lease("leader"), node("cpu-1", nil), node("gpu-1", map[string]string{coordinator.ReadyLabel: "true"}),
		node("gpu-2", map[string]string{"pool": "gpu", coordinator.ReadyLabel: "false"}))
	d.tells["v1/nodes"] = []coordinator.NodeStatus{gpu1(), gpu2()}
	d.tells["v1/nodes/gpu-1"] = withReport(gpu1(), nil)
	d.tells["v1/nodes/gpu-2"] = withReport(gpu2(), nil)
	return d
}

func TestStatus(t *testing.T) {
	for args, want := range map[string]string{
		"status": `
NODE    READY   REASON            IMAGES   HEARD   MESSAGE
gpu-1   True    Ready             1/1      3s      1 of 1 images
gpu-2   False   ImagesPreparing   1/2      5m      1 of 2; preparing: whisper; "nonsense" is no image

NODE    IMAGE     STATE     PROGRESS                      BYTES
gpu-2   whisper   pending   [###############-----]  75%   3.0 GiB of 4.0 GiB
`,
		"status -o wide": `
NODE    READY   REASON            IMAGES   HEARD   MESSAGE
gpu-1   True    Ready             1/1      3s      1 of 1 images
gpu-2   False   ImagesPreparing   1/2      5m      1 of 2; preparing: whisper; "nonsense" is no image

NODE    IMAGE     STATE     PROGRESS                      BYTES                PRIORITY   REF                                      DIGEST
gpu-1   llama     ready     [####################] 100%   10.0 GiB             0          registry.example.com/models/llama:v1     sha256:0123456789ab
gpu-2   llama     ready     [####################] 100%   10.0 GiB             0          registry.example.com/models/llama:v1     sha256:0123456789ab
gpu-2   whisper   pending   [###############-----]  75%   3.0 GiB of 4.0 GiB   0          registry.example.com/models/whisper:v1   sha256:0123456789ab
`,
	} {
		out, errOut, err := twoNodes(t).run(strings.Fields(args)...)
		if diff := cmp.Diff(want, "\n"+out); err != nil || errOut != "" || diff != "" {
			t.Errorf("%s: %v %s (-want +got)\n%s", args, err, errOut, diff)
		}
	}
}

func TestStatusOfOneNode(t *testing.T) {
	d := twoNodes(t)
	d.tells["v1/nodes/gpu-2"] = withReport(gpu2(), func(r *report.NodeReport) {
		r.Images[1].Rate, r.Images[1].Left, r.Images[1].Message = 100<<20, 10*time.Second, "from \x1b[31mmirror\n"
		set(r, report.HostsLive, report.Unknown, "NotProbed", "it was restarted")
	})
	out, _, err := d.run("status", "gpu-2")
	want := `
NODE    READY   REASON            IMAGES   HEARD   MESSAGE
gpu-2   False   ImagesPreparing   1/2      5m      1 of 2; preparing: whisper; "nonsense" is no image

IMAGE     STATE     PROGRESS                      BYTES                RATE          LEFT   PHASE      MESSAGE
llama     ready     [####################] 100%   10.0 GiB                                  Ready
whisper   pending   [###############-----]  75%   3.0 GiB of 4.0 GiB   100.0 MiB/s   10s    Fetching   from  [31mmirror

CONDITION   STATUS    REASON      MESSAGE
HostsLive   Unknown   NotProbed   it was restarted
`
	if diff := cmp.Diff(want, "\n"+out); err != nil || diff != "" {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	if out, _, err = d.run("status", "gpu-2", "-o", "wide"); err != nil || !strings.Contains(out, "config abc from ConfigMap") {
		t.Errorf("%v, not the whole report:\n%s", err, out)
	}
}

func TestStatusForPrograms(t *testing.T) {
	d := twoNodes(t)
	want := []coordinator.NodeStatus{gpu1(), gpu2()}
	var got []coordinator.NodeStatus
	out, _, err := d.run("status", "-o", "json")
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })); diff == "" {
		t.Fatal("the test compares nothing")
	}
	if err = errors.Join(err, json.Unmarshal([]byte(out), &got)); err != nil || !cmp.Equal(want, got) {
		t.Errorf("%v %s", err, cmp.Diff(want, got))
	}
	got = nil
	out, _, err = d.run("status", "-o", "yaml")
	if err = errors.Join(err, yaml.Unmarshal([]byte(out), &got)); err != nil || !cmp.Equal(want, got) || !strings.HasPrefix(out, "---\n") {
		t.Errorf("%v %s\n%s", err, cmp.Diff(want, got), out)
	}
	var one coordinator.NodeStatus
	out, _, err = d.run("status", "gpu-1", "-o", "json")
	if err = errors.Join(err, json.Unmarshal([]byte(out), &one)); err != nil || !cmp.Equal(withReport(gpu1(), nil), one) {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestStatusWithoutLeader: what was concluded stands on Node objects.
func TestStatusWithoutLeader(t *testing.T) {
	marked := node("gpu-3", map[string]string{coordinator.ReadyLabel: "false"})
	marked.Annotations = map[string]string{coordinator.StatusAnnotation: `{"ready":"False","images":{"llama":"failed","a":"ready"}}`}
	marked.Status.Conditions = []corev1.NodeCondition{{Type: coordinator.ConditionReady, Status: corev1.ConditionFalse, Reason: "ImageFailed", Message: "failed: llama (NoSpace)"}}
	table := `
NODE    READY   REASON        IMAGES   HEARD   MESSAGE
gpu-3   False   ImageFailed   1/2      -       failed: llama (NoSpace)

NODE    IMAGE   STATE    PROGRESS
gpu-3   llama   failed   [--------------------]   -
`
	out, errOut, err := newDesk(t, node("cpu-1", nil), marked).run("status")
	if diff := cmp.Diff(table, "\n"+out); err != nil || diff != "" || !strings.Contains(errOut, "note: this is what Node objects say, without progress, because no coordinator leads") {
		t.Errorf("%v, %s, (-want +got)\n%s", err, errOut, diff)
	}

	d := newDesk(t, lease("leader"), marked)
	d.tells["v1/nodes"] = []coordinator.NodeStatus{gpu1()}
	if out, errOut, err = d.run("status"); err != nil || errOut != "" || !strings.Contains(out, "gpu-1   True") || !strings.Contains(out, "gpu-3   False") {
		t.Errorf("a leader that has not heard all: %v, %s\n%s", err, errOut, out)
	}
	d.forbid("list", "nodes")
	if out, errOut, err = d.run("status"); err != nil || strings.Contains(out, "gpu-3") || !strings.Contains(errOut, "docs/kubectl.md") {
		t.Errorf("no rights to list nodes: %v, %s\n%s", err, errOut, out)
	}
}

func TestStatusIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, lease("leader"))
		looks := 0
		d.tells["v1/nodes"] = func() any {
			looks++
			is := gpu2()
			is.Heard = time.Now() // no news
			switch {
			case looks == 3:
				return errors.New("the API server is away")
			case looks >= 4:
				is.Images[1].Done = 4 << 30
			}
			return []coordinator.NodeStatus{is}
		}
		ctx, end := context.WithTimeout(t.Context(), 11*time.Second)
		defer end()
		out, errOut, err := d.runIn(ctx, "status", "--watch")
		if err != nil || looks != 6 || strings.Count(out, "NODE    READY") != 2 || !strings.Contains(out, " 75%") || !strings.Contains(out, " 99%") {
			t.Errorf("%v, %d looks, shows\n%s", err, looks, out)
		}
		if strings.Count(errOut, "note: ") != 1 || !strings.Contains(errOut, "the API server is away") {
			t.Errorf("of what went wrong it says %q", errOut)
		}
	})
}

// TestFrameInPlace: marks that steer a terminal stand at the beginning of a frame only.
func TestFrameInPlace(t *testing.T) {
	p := &plugin{now: func() time.Time { return noon }}
	var out bytes.Buffer
	p.Out = &out
	o := &statusOptions{plugin: p}
	if err := o.frame(seen{nodes: []coordinator.NodeStatus{gpu1()}}, "it is away", true); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.HasPrefix(got, "\x1b[H\x1b[J12:00:00\nnote: this is as it was: it is away\nNODE ") || strings.Count(got, "\x1b") != 2 {
		t.Errorf("%q", got)
	}
}

func TestBar(t *testing.T) {
	for _, c := range []struct {
		done, total int64
		complete    bool
		want        string
	}{
		{0, 0, false, "[--------------------]   - "},
		{0, 10, false, "[--------------------]   0%"},
		{1, 2, false, "[##########----------]  50%"},
		{10, 10, false, "[####################]  99%"},
		{11, 10, false, "[####################]  99%"},
		{-1, 10, false, "[--------------------]   0%"},
		{0, 0, true, "[####################] 100%"},
		{1 << 62, 1<<63 - 1, false, "[##########----------]  50%"},
	} {
		if got := bar(c.done, c.total, c.complete); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

// TestTheDocumentsNameEveryCommand keeps docs/kubectl.md whole.
func TestTheDocumentsNameEveryCommand(t *testing.T) {
	doc, err := os.ReadFile("../../docs/kubectl.md")
	if err != nil {
		t.Fatal(err)
	}
	d := newDesk(t)
	out, _, err := d.run("__complete", "")
	for line := range strings.Lines(out) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if name != "" && !strings.HasPrefix(name, ":") && name != "completion" && name != "help" && !strings.Contains(string(doc), name) {
			t.Errorf("it does not name %s", name)
		}
	}
	if err != nil || !strings.Contains(out, "doctor") {
		t.Errorf("%v: commands are\n%s", err, out)
	}
}
