package rig_test

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

func TestProxyGoesAwayAndComesBack(t *testing.T) {
	p := startProxy(t, rig.ProxyConfig{})
	p.SetScript(func(r *http.Request) rig.Fault {
		if r.URL.Path == "/held" {
			return rig.Fault{Hold: true}
		}
		return rig.Answer(http.StatusOK)
	})
	held := make(chan reply, 1)
	go func() {
		r, _ := fetch(t, p.URL()+"/held", "")
		held <- r
	}()
	waitFor(t, func() bool { return len(p.Requests()) == 1 })
	for range 2 {
		if err := p.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if r := <-held; r.Err == "" {
		t.Errorf("a request that was held got %+v, want a broken connection", r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := client().Do(req); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("while it is away: %v, want connection refused", err)
		if err == nil {
			resp.Body.Close()
		}
	}
	before := p.Host()
	for range 2 {
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if p.Host() != before {
		t.Errorf("it came back on %s, was on %s", p.Host(), before)
	}
	if r, _ := fetch(t, p.URL()+"/again", ""); r.Status != http.StatusOK {
		t.Errorf("after it came back: %+v", r)
	}
	if got := len(p.Requests()); got != 2 {
		t.Errorf("%d requests are recorded, want 2", got)
	}
}
