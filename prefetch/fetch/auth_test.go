package fetch

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// challenged is an authorizer that was told to ask tokens for its token, and the response that told it.
func challenged(t *testing.T, tokens http.RoundTripper) (*authorizer, []*http.Response) {
	t.Helper()
	a := newAuthorizer(docker.NewDockerAuthorizer(docker.WithAuthClient(&http.Client{Transport: tokens})))
	told := []*http.Response{{
		StatusCode: http.StatusUnauthorized, Request: aRequest(),
		Header: http.Header{"Www-Authenticate": {`Bearer realm="https://auth.example.com/token"`}},
	}}
	if err := a.AddResponses(t.Context(), told); err != nil {
		t.Fatal(err)
	}
	return a, told
}

func aRequest() *http.Request {
	return httptest.NewRequest(http.MethodGet, "https://a.example.com/v2/a/blobs/b", nil)
}

// hanging is a token server whose first answers never come.
type hanging struct {
	first int

	mu    sync.Mutex
	asked int // guarded by mu
}

func (h *hanging) RoundTrip(req *http.Request) (*http.Response, error) {
	h.mu.Lock()
	h.asked++
	hangs := h.asked <= h.first
	h.mu.Unlock()
	if hangs {
		<-req.Context().Done()
		return nil, context.Cause(req.Context())
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(`{"token":"x"}`)), Request: req}, nil
}

func TestATokenServerThatHangsIsAskedOnceForAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &hanging{first: 1}
		a, told := challenged(t, server)
		start := time.Now()
		var all sync.WaitGroup
		for i := range 9 {
			all.Go(func() {
				var err error
				if i%3 == 2 {
					err = a.AddResponses(t.Context(), told)
				} else {
					err = a.Authorize(t.Context(), aRequest())
				}
				if !errors.Is(err, context.DeadlineExceeded) || !transient(clean(err)) {
					t.Errorf("%d: %v", i, err)
				}
			})
			synctest.Wait()
		}
		all.Wait()
		if took := time.Since(start); server.asked != 1 || took != authTimeout {
			t.Errorf("asked %d times in %s", server.asked, took)
		}
		req := aRequest()
		if err := a.Authorize(t.Context(), req); err != nil || req.Header.Get("Authorization") != "Bearer x" {
			t.Errorf("who comes later: %q, %v", req.Header.Get("Authorization"), err)
		}
	})
}

func TestACancelledTokenRequestIsNoFailureForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := challenged(t, &hanging{first: 1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var cancelled sync.WaitGroup
		cancelled.Go(func() {
			if err := a.Authorize(ctx, aRequest()); err == nil {
				t.Error("a token came")
			}
		})
		synctest.Wait()
		if err := a.Authorize(t.Context(), aRequest()); err != nil {
			t.Error(err)
		}
		cancelled.Wait()
	})
}
