package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotplate-dev/hotplate/agent/agenttest"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/report"
)

func TestAConditionThatSaysNothingNewIsNotLogged(t *testing.T) {
	var log agenttest.Log
	v := newView(report.NodeReport{}, log.Logger())
	for range 3 {
		v.set(report.ContainerdHealthy, report.False, "NotAnswering", "no socket")
	}
	if got := log.Lines("ContainerdHealthy"); len(got) != 1 || !strings.Contains(got[0], "level=WARN") {
		t.Errorf("want one warning, got %q", got)
	}
	v.set(report.ContainerdHealthy, report.False, "NotAnswering", "refused")
	if got := log.Lines("ContainerdHealthy"); len(got) != 2 {
		t.Errorf("a new message is not told: %q", got)
	}
	v.set(report.ContainerdHealthy, report.True, "Answering", "")
	if got := log.Lines("ContainerdHealthy", "status=True", "level=INFO"); len(got) != 1 {
		t.Errorf("the good end is not told: %q", log.Lines("ContainerdHealthy"))
	}
	v.set(report.ConfigValid, report.False, "Rejected", "no host")
	if got := log.Lines("ConfigValid", "level=ERROR"); len(got) != 1 {
		t.Errorf("a rejected config is told quietly: %q", log.Lines("ConfigValid"))
	}
}

func TestATransitionTimeMovesWithTheStatusOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		v := newView(report.NodeReport{}, new(agenttest.Log).Logger())
		time.Sleep(time.Minute)
		v.set(report.HostsLive, report.False, "RestartNeeded", "a")
		time.Sleep(time.Minute)
		v.set(report.HostsLive, report.False, "RestartNeeded", "b")
		c := v.Report().Condition(report.HostsLive)
		if want := start.Add(time.Minute); !c.LastTransitionTime.Equal(want) || c.Message != "b" {
			t.Errorf("got %s since %s, want since %s", c.Message, c.LastTransitionTime, want)
		}
		v.set(report.HostsLive, report.True, "Live", "")
		c = v.Report().Condition(report.HostsLive)
		if want := start.Add(2 * time.Minute); !c.LastTransitionTime.Equal(want) {
			t.Errorf("True since %s, want %s", c.LastTransitionTime, want)
		}
		if got := v.Report().Time; !got.Equal(time.Now()) {
			t.Errorf("the report is of %s, not of now", got)
		}
	})
}

func TestReady(t *testing.T) {
	needed := []string{report.ContainerdHealthy, report.RegistriesConfigured, report.HostsLive, report.ImagesReady}
	allTrue := func() (*view, *agenttest.Log) {
		log := new(agenttest.Log)
		v := newView(report.NodeReport{}, log.Logger())
		for _, c := range conditionTypes() {
			v.set(c, report.True, "Good", "")
		}
		return v, log
	}
	if v := newView(report.NodeReport{}, new(agenttest.Log).Logger()); v.Report().Ready {
		t.Error("a node of which nothing is known is Ready")
	}
	v, log := allTrue()
	if !v.Report().Ready || len(log.Lines("node is Ready")) != 1 {
		t.Errorf("with every condition True the node is not Ready, or it is not told once: %q", log.Lines())
	}
	for _, c := range needed {
		for _, status := range []report.ConditionStatus{report.False, report.Unknown} {
			v, log := allTrue()
			v.set(c, status, "Bad", "")
			if v.Report().Ready || len(log.Lines("node is not Ready any more")) != 1 {
				t.Errorf("%s %s: the node is still Ready, or it is not told once", c, status)
			}
		}
	}
	for _, c := range []string{report.ConfigValid, report.CertificatesValid} {
		v, _ := allTrue()
		v.update(func(r *report.NodeReport) { r.Config.Rejected = []string{"line 1"} })
		v.set(c, report.False, "Bad", "")
		if !v.Report().Ready {
			t.Errorf("%s False makes the node unready: a typing error must not empty a cluster", c)
		}
	}
}

func TestAReportIsACopy(t *testing.T) {
	full := func() *view {
		v := newView(report.NodeReport{}, new(agenttest.Log).Logger())
		v.update(func(r *report.NodeReport) {
			r.Config.Rejected = []string{"fault"}
			r.Conditions = []report.Condition{{Type: report.HostsLive}}
			r.Registries = []report.Registry{{Host: "a.example.com", Mirrors: []report.Mirror{{URL: "https://m"}}}}
			r.Certificates = []report.Certificate{{Used: "ca a"}}
		})
		return v
	}
	v := full()
	mine := v.Report()
	mine.Config.Rejected[0] = "x"
	mine.Conditions[0].Status = "x"
	mine.Registries[0].Host = "x"
	mine.Registries[0].Mirrors[0].URL = "x"
	mine.Certificates[0].Used = "x"
	if diff := cmp.Diff(full().r, v.r); diff != "" {
		t.Errorf("a change of the copy changes the view:\n%s", diff)
	}
}

func TestMirrorsAreLoggedWhenTheyChange(t *testing.T) {
	var log agenttest.Log
	v := newView(report.NodeReport{}, log.Logger())
	v.update(func(r *report.NodeReport) {
		r.Registries = []report.Registry{{Host: "a.example.com"}, {Host: "b.example.com"}}
	})
	before := v.Report()
	seen := map[string][]report.Mirror{"a.example.com": {{URL: "https://m.example.com", Reachable: true,
		Message: "200 OK"}}}
	v.mirrors(seen)
	v.mirrors(seen)
	if got := log.Lines("msg=mirror", "level=INFO"); len(got) != 1 {
		t.Errorf("want one line, got %q", got)
	}
	if len(before.Registries[0].Mirrors) != 0 {
		t.Error("an older report has changed")
	}
	v.mirrors(map[string][]report.Mirror{"a.example.com": {{URL: "https://m.example.com", Message: "refused"}}})
	if got := log.Lines("msg=mirror", "level=WARN", "refused"); len(got) != 1 {
		t.Errorf("want one warning, got %q", log.Lines("msg=mirror"))
	}
	r := v.Report()
	if len(r.Registries[0].Mirrors) != 1 || len(r.Registries[1].Mirrors) != 0 {
		t.Errorf("mirrors are at the wrong registry: %+v", r.Registries)
	}
}
