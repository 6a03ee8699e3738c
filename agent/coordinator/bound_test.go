package coordinator

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// TestWhatAReportSaysIsBounded sends what only somebody with a stolen token would say.
func TestWhatAReportSaysIsBounded(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	r := report.NodeReport{
		Conditions: []report.Condition{{Type: report.HostsLive, Status: report.False, Reason: long, Message: long},
			{Type: report.ContainerdHealthy, Reason: "Answering"}},
		Images: []report.Image{{Name: "a", Phase: report.ImageFailed, Reason: "no word"}},
	}
	r.Config.Rejected = []string{long}
	r.Restart.Records = []report.RestartRecord{{How: howRolledBack, Reason: long}, {How: `x"} 1`}}
	bound(&r)
	if c := r.Conditions[0]; c.Reason != invalidWord || len(c.Message) > maxMessage+10 || r.Conditions[1].Reason != "Answering" {
		t.Errorf("%.200v", r.Conditions)
	}
	if len(r.Config.Rejected[0]) > maxMessage+10 || r.Images[0].Reason != invalidWord {
		t.Errorf("%d bytes, %s", len(r.Config.Rejected[0]), r.Images[0].Reason)
	}
	if is := r.Restart.Records; is[0].How != howRolledBack || len(is[0].Reason) > maxMessage+10 || is[1].How != invalidWord {
		t.Errorf("%.200v", is)
	}
}

// TestRefusedReportsAreTold in the log, not without end: who is not who they say they are, and nobody else.
func TestRefusedReportsAreTold(t *testing.T) {
	var log bytes.Buffer
	h := newHandler(nodeOfToken{}, nil, func(int, time.Duration) {}, slog.New(slog.NewTextHandler(&log, nil)))
	post := func(token, body string) {
		req := httptest.NewRequest(http.MethodPost, report.ReportPath, strings.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+token)
		h.ServeHTTP(httptest.NewRecorder(), req)
	}
	post("gpu-2", `{"node":"gpu-1"}`)
	post("gpu-1", `{`)
	if text := log.String(); strings.Count(text, "report refused") != 1 || !strings.Contains(text, "code=403") {
		t.Errorf("told is:\n%s", text)
	}
	for range 10 * toldBurst {
		post("stranger", "")
	}
	if n := strings.Count(log.String(), "\n"); n < 2 || n > 2*toldBurst {
		t.Errorf("%d lines", n)
	}
}

// TestASlowReport has a node that sends a report byte by byte: it has one place, and others are answered.
func TestASlowReport(t *testing.T) {
	h := testHandler(func(context.Context, string, report.NodeReport) (report.Directive, error) {
		return report.Directive{}, nil
	})
	post := func(node string, body io.Reader) int {
		req := httptest.NewRequest(http.MethodPost, report.ReportPath, body)
		req.Header.Set("Authorization", "Bearer "+node)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w.Code
	}
	slow, end := io.Pipe()
	done := make(chan int)
	go func() { done <- post("slow", slow) }()
	if _, err := end.Write([]byte(`{"node":`)); err != nil { // it is being read
		t.Fatal(err)
	}
	if code := post("slow", strings.NewReader(`{"node":"slow"}`)); code != http.StatusTooManyRequests {
		t.Errorf("a second report of it: %d", code)
	}
	if code := post("other", strings.NewReader(`{"node":"other"}`)); code != http.StatusOK {
		t.Errorf("another node: %d", code)
	}
	fmt.Fprint(end, `"slow"}`)
	end.Close()
	if code := <-done; code != http.StatusOK {
		t.Errorf("in the end: %d", code)
	}
	if code := post("slow", strings.NewReader(`{"node":"slow"}`)); code != http.StatusOK {
		t.Errorf("and again: %d", code)
	}
}

// TestManyQuestionsAtOnce are answered one after the other, and refused only when that takes too long.
func TestManyQuestionsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{metrics: newMetrics()}
		s.leads.Store(&leader{})
		for takes, refused := range map[time.Duration]bool{time.Second: false, 2 * maxAsking: true} {
			h := s.asLeader(make(places, maxAsked), func(*leader, *http.Request) (any, error) {
				time.Sleep(takes)
				return "is", nil
			})
			var all sync.WaitGroup
			var no atomic.Int32
			for range 2 * maxAsked {
				all.Go(func() {
					w := httptest.NewRecorder()
					if h(w, httptest.NewRequest(http.MethodGet, "/", nil)); w.Code == http.StatusServiceUnavailable {
						no.Add(1)
					}
				})
			}
			if all.Wait(); refused != (no.Load() == maxAsked) || !refused && no.Load() > 0 {
				t.Errorf("answers that take %s: %d are refused", takes, no.Load())
			}
		}
	})
}

// TestNodesThatWereSilentBefore are told of by a leader that has never heard of them, once it would have.
func TestNodesThatWereSilentBefore(t *testing.T) {
	node := func(name string, labels map[string]string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u", Labels: labels}}
	}
	view := viewOf(t, fake.NewClientset(node("silent", map[string]string{ReadyLabel: "unknown"}), node("not ours", nil)), none, none)
	for age, want := range map[time.Duration]int{0: 0, SilentAfter: 1} {
		c := &Coordinator{cfg: Config{Nodes: view}, fleet: NewFleet(time.Now().Add(-age)), pullers: newPullers(1)}
		l := &leader{view: view, Coordinator: c}
		all := l.statuses()
		if len(all) != want {
			t.Errorf("after %s: %+v", age, all)
		}
		if want == 1 && (all[0].Node != "silent" || all[0].Ready != report.Unknown || l.count().ready[report.Unknown] != 1) {
			t.Errorf("%+v", all)
		}
	}
}
