package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLatencies(t *testing.T) {
	s := newSamples()
	for i := 200; i > 0; i-- {
		s.answered(time.Duration(i)*time.Millisecond, i <= 100)
	}
	s.refuse("timeout")
	s.refuse("timeout")
	var p Phase
	s.put(&p)
	want := Phase{Reports: 200, All: Latency{Reports: 200, P50: 100, P99: 198, Max: 200}, Cached: Latency{Reports: 100, P50: 50, P99: 99, Max: 100},
		Refused: map[string]int{"timeout": 2}}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
	newSamples().put(&p)
	if p.All != (Latency{}) {
		t.Errorf("of no reports: %+v", p.All)
	}
}

func TestWritesOfTheAPIServer(t *testing.T) {
	const page = `# HELP apiserver_request_total Counter.
# TYPE apiserver_request_total counter
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="nodes",scope="resource",subresource="",verb="APPLY",version="v1"} 7
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="nodes",scope="resource",subresource="status",verb="APPLY",version="v1"} 8
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="nodes",scope="resource",subresource="",verb="PATCH",version="v1"} 4
apiserver_request_total{code="409",component="apiserver",dry_run="",group="",resource="nodes",scope="resource",subresource="",verb="PATCH",version="v1"} 100
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="nodes",scope="cluster",subresource="",verb="LIST",version="v1"} 1000
apiserver_request_total{code="201",component="apiserver",dry_run="",group="events.k8s.io",resource="events",scope="resource",subresource="",verb="POST",version="v1"} 1.2e+03
apiserver_request_total{code="201",component="apiserver",dry_run="",group="authentication.k8s.io",resource="tokenreviews",scope="resource",subresource="",verb="POST",version="v1"} 5
apiserver_request_duration_seconds_count{resource="nodes",verb="PATCH"} 9
`
	got := writesOf(parseSeries([]byte(page)))
	if want := (writes{nodes: 19, events: 1200, reviews: 5}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := got.sub(writes{nodes: 10, events: 200, reviews: 5}); got != (writes{nodes: 9, events: 1000}) {
		t.Errorf("%+v", got)
	}
}

func TestTargetsAreJudged(t *testing.T) {
	good := &Report{Nodes: 10, Phases: []Phase{{Name: phaseFill, Seconds: 10, CPUSeconds: 9, PeakRSS: 200 << 20, NodeWrites: 50},
		{Name: phaseSteady, Seconds: 100, CPUSeconds: 3, Cached: Latency{P99: 12.5}}, {Name: phaseChange, Seconds: 10, Refused: map[string]int{"timeout": 2}}}}
	text := good.Markdown()
	for _, want := range []string{"| coordinator, fill | 0.9 cores | 1 cores | met |", "| p99 of a report, steady, known token | 12.5 ms | 50 ms | met |",
		"| fill | 10.0 | 0 | 0.0 | 0.0 | 0 | 0.0 | 9.0 | 0.90 | 200 | 5.00 |", "2 timeout |"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if strings.Contains(text, "missed") {
		t.Error(text)
	}
	bad := &Report{Nodes: 10, Takeover: Takeover{Lost: 1}, Phases: []Phase{{Name: phaseFill, Seconds: 10, CPUSeconds: 11, PeakRSS: 251 << 20},
		{Name: phaseSteady, Seconds: 10, CPUSeconds: 11, Cached: Latency{P99: 51}, NodeWrites: 1}, {Name: phaseChange, Seconds: 10, CPUSeconds: 11}}}
	if text := bad.Markdown(); strings.Count(text, "**missed**") != 7 {
		t.Errorf("seven are missed:\n%s", text)
	}
}
