package main

import (
	"compress/gzip"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotplate-dev/hotplate/agent/kube"
	"github.com/hotplate-dev/hotplate/agent/report"
)

const digest = "sha256:0000000000000000000000000000000000000000000000000000000000000001"

func TestAnAgentDoesWhatADirectiveSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(&fleet{fetch: 3 * time.Second}, "gpu-1", "token")
		phases := func() (all []report.ImagePhase) {
			for _, i := range a.report("hash", time.Now()).Images {
				all = append(all, i.Phase)
			}
			return all
		}
		want := report.WantedImage{Name: "first", Ref: "registry.example.com/first:v1"}
		d := report.Directive{Images: []report.WantedImage{want}, Pull: report.Leave{Granted: true}}
		if a.take(d, time.Now()) || phases()[0] != report.ImagePending {
			t.Error("an image without a digest is", phases())
		}
		d.Images[0].Digest, d.Pull.Granted = digest, false
		if a.take(d, time.Now()) || phases()[0] != report.ImagePending {
			t.Error("without leave the image is", phases())
		}
		d.Pull.Granted = true
		if !a.take(d, time.Now()) || phases()[0] != report.ImageFetching {
			t.Error("with leave the image is", phases())
		}
		if a.take(d, time.Now()) {
			t.Error("it is fetched twice")
		}
		time.Sleep(4 * time.Second)
		r := a.report("hash", time.Now())
		if r.Images[0].Phase != report.ImageReady || r.Images[0].Target != digest || !r.Ready {
			t.Errorf("afterwards it says %+v", r.Images)
		}
		// A tag that means something else now is another image.
		d.Images[0].Digest = digest[:len(digest)-1] + "2"
		if !a.take(d, time.Now()) || phases()[0] != report.ImageFetching {
			t.Error("an image that changes is", phases())
		}
	})
}

func TestAnAgentWaitsAsAgentsDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(&fleet{fetch: 3 * time.Second}, "gpu-1", "token")
		between := func(what string, got, least, most time.Duration) {
			t.Helper()
			if got < least || got > most {
				t.Errorf("%s: %s, want %s to %s", what, got, least, most)
			}
		}
		by := func(hash string) report.NodeReport { return report.NodeReport{Config: report.ConfigStatus{Hash: hash}} }
		d := report.Directive{ConfigHash: "h", NextReport: 30 * time.Second}
		between("what the Directive names", a.rhythm.Answered(d, by("h")), 24*time.Second, 36*time.Second)
		between("while configs differ", a.rhythm.Answered(d, by("h2")), 4*time.Second, 6*time.Second)
		time.Sleep(time.Minute)
		between("while they differ for long", a.rhythm.Answered(d, by("h2")), 24*time.Second, 36*time.Second)

		a.take(report.Directive{Images: []report.WantedImage{{Name: "first", Digest: digest}}, Pull: report.Leave{Granted: true}}, time.Now())
		began := time.Now()
		a.pause(t.Context(), began, time.Hour, nil, nil)
		between("until an image is there", time.Since(began), 2400*time.Millisecond, 4100*time.Millisecond)
		moved := make(chan struct{})
		close(moved)
		began = time.Now()
		a.pause(t.Context(), began, time.Hour, moved, nil)
		between("until it moves", time.Since(began), time.Second, 11*time.Second)
	})
}

// server is a coordinator that answers as it is told.
func server(t *testing.T, answer http.HandlerFunc) (*agent, view) {
	srv := httptest.NewTLSServer(answer)
	t.Cleanup(srv.Close)
	s := newSite()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := s.move(kube.Coordinator{URL: srv.URL, CA: string(ca)}); err != nil {
		t.Fatal(err)
	}
	at := s.look()
	at.trust = at.trust.Clone()
	at.trust.ServerName = "example.com" // httptest's
	a := newAgent(&fleet{dial: new(net.Dialer).DialContext}, "gpu-1", "token")
	a.samples.Store(newSamples())
	return a, at
}

func TestTheWire(t *testing.T) {
	refuse := false
	a, at := server(t, func(w http.ResponseWriter, req *http.Request) {
		if refuse {
			w.Header().Set("Retry-After", "7")
			http.Error(w, "node gpu-1 reports too often", http.StatusTooManyRequests)
			return
		}
		zip, err := gzip.NewReader(req.Body)
		if err != nil {
			t.Error(err)
			return
		}
		var r report.NodeReport
		if err := json.NewDecoder(zip).Decode(&r); err != nil || r.Node != "gpu-1" || req.Header.Get("Authorization") != "Bearer token" ||
			req.URL.Path != report.ReportPath {
			t.Errorf("%v: %s %v: %+v", err, req.URL, req.Header, r)
		}
		_ = json.NewEncoder(w).Encode(report.Directive{ConfigHash: r.Config.Hash})
	})
	for range 2 {
		if d, err := a.ask(t.Context(), at, a.report("h", time.Now())); err != nil || d.ConfigHash != "h" {
			t.Error(d, err)
		}
	}
	refuse = true
	_, err := a.ask(t.Context(), at, a.report("h", time.Now()))
	if r, ok := errors.AsType[*refusal](err); !ok || r.code != http.StatusTooManyRequests || retryAfter(err) != 7*time.Second {
		t.Error(err)
	}
	if _, err := a.ask(t.Context(), view{}, a.report("h", time.Now())); err == nil {
		t.Error("without a coordinator there is an answer")
	}
	var p Phase
	a.samples.Load().put(&p)
	if p.Reports != 2 || p.Cached.Reports != 1 || p.Refused["429: node reports too often"] != 1 || p.Refused["no coordinator"] != 1 {
		t.Errorf("%+v", p)
	}
	if a.answered.Load() == 0 {
		t.Error("it is not noted when there was an answer")
	}
}

func TestWhatIsSaidOnNodes(t *testing.T) {
	w := &watch{nodes: map[string]marks{}, lost: map[string]bool{}, unknown: map[string]bool{}}
	w.see("a", marks{ready: "true", first: "ready", tainted: true})
	if w.done(false) != 0 {
		t.Error("a tainted node is done")
	}
	w.see("a", marks{ready: "true", first: "ready"})
	w.see("b", marks{ready: "false", first: "ready", second: "pending"})
	if w.done(false) != 1 || w.done(true) != 0 {
		t.Error(w.done(false), w.done(true))
	}
	w.see("b", marks{ready: "unknown"})
	w.see("b", marks{ready: "true", first: "ready", second: "ready"})
	lost, unknown := w.faults()
	if lost != 1 || unknown != 1 || w.done(true) != 1 {
		t.Error(lost, unknown, w.done(true))
	}
}
