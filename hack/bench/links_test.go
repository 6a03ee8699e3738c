package main

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

func TestDiceGivesEachTwentyAStragglerAndEachHundredARefusal(t *testing.T) {
	draw := func(seed uint64) []rig.Fault {
		d := &dice{r: rand.New(rand.NewPCG(seed, 0))}
		var list []rig.Fault
		for range 400 {
			list = append(list, d.next())
		}
		return list
	}
	list := draw(1)
	statuses := map[int]int{}
	for i := 0; i < 400; i += 20 {
		odd := 0
		for _, f := range list[i : i+20] {
			if f.BytesPerSecond != slowRate {
				odd++
			}
			if f.BytesPerSecond == stragglerRate && f.Status != 0 {
				t.Error("a refusal is slow as well")
			}
			statuses[f.Status]++
		}
		// A refusal may fall on the straggler's place, or on another of the same twenty.
		if odd < 1 || odd > 2 {
			t.Errorf("answers %d to %d: %d are not as the others, want 1 or 2", i, i+19, odd)
		}
	}
	want := map[int]int{0: 396, http.StatusTooManyRequests: 2, http.StatusServiceUnavailable: 2}
	if diff := cmp.Diff(want, statuses); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(list, draw(1)); diff != "" {
		t.Errorf("the same seed gives other faults:\n%s", diff)
	}
	if cmp.Equal(list, draw(2)) {
		t.Error("another seed gives the same faults")
	}
}

func TestFlawedLinkCountsFromTheBeginning(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, 1000)) // the client sees what is missing
	}))
	defer upstream.Close()
	proxy, err := rig.StartProxy(rig.ProxyConfig{Upstream: upstream.URL})
	if err != nil {
		t.Fatal(err)
	}
	l := &flawed{proxy}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	for round := range uint64(2) {
		if err := l.Begin(round); err != nil {
			t.Fatal(err)
		}
		get(t, "http://"+l.Host())
		get(t, "http://"+l.Host())
		bytes, requests, err := l.Used(t.Context())
		// One of the two may have been refused, with a short body.
		if err != nil || requests != 2 || bytes < 1000 || bytes > 2000 {
			t.Errorf("round %d: %d bytes in %d requests, %v, want at most 2000 in 2", round, bytes, requests, err)
		}
	}
}

func get(t *testing.T, url string) {
	t.Helper()
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
}

const completed = `time="2026-01-02T03:04:05Z" level=info msg="response completed" http.request.uri="/v2/x/blobs/sha256:1" ` +
	`http.response.status=206 http.response.written=`

func TestAccessLogCountsSinceTheMark(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	add := func(text string) {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			t.Error(err)
			return
		}
		_, err = f.WriteString(text)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Error(err)
		}
	}
	// The registry's line for the marker comes with the answer, after those of the requests before.
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		add(completed + "70 version=3\n")
		add(`msg="response completed" http.request.uri="` + r.RequestURI + `" http.response.written=2 version=3` + "\n")
	}))
	defer s.Close()
	defer http.DefaultClient.CloseIdleConnections()
	add(completed + "1000000 version=3\n")
	a := &accessLog{path: path, url: s.URL}
	if err := a.mark(); err != nil {
		t.Fatal(err)
	}
	add(completed + "500 version=3\n" + `127.0.0.1 - - "GET /v2/ HTTP/1.1" 206 500 "" "x"` + "\n" +
		`level=warning msg="something else" http.response.written=9` + "\n")
	sent, answers, err := a.since(t.Context())
	if err != nil || sent != 570 || answers != 2 {
		t.Errorf("%d bytes in %d answers, %v, want 570 in 2", sent, answers, err)
	}
}
