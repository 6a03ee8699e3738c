package fetch

import (
	"context"
	"crypto/tls"
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
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
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
		a, told := challenged(t, server) //nolint:bodyclose // it has none
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

// TestEntriesOfOneHostShareItsAuthorizer as containerd makes them from one hosts.toml.
func TestEntriesOfOneHostShareItsAuthorizer(t *testing.T) {
	shared, own := new(nobody), new(nobody)
	c := onLinks(t, Config{}, nil)
	c.cfg.Hosts = func(string) (hosts []docker.RegistryHost, err error) {
		for _, h := range []docker.RegistryHost{
			{Host: "a.example.com", Path: "/v2/one", Authorizer: shared},
			{Host: "a.example.com", Path: "/v2/two", Authorizer: shared},
			{Host: "b.example.com", Authorizer: shared},
			{Host: "a.example.com", Path: "/v2/three", Authorizer: own},
			{Host: "c.example.com"},
		} {
			h.Capabilities = docker.HostCapabilityPull
			hosts = append(hosts, h)
		}
		return hosts, nil
	}
	var got []docker.Authorizer
	for _, s := range repositoryOf(t, c, "r.example.com").sources {
		got = append(got, s.at.host.Authorizer)
	}
	if got[0] != got[1] || got[0] == got[2] || got[0] == got[3] || got[4] != nil {
		t.Errorf("authorizers: %+v", got)
	}
}

// nobody never has credentials; it counts the 401s that it is to answer.
type nobody struct{ asked int }

func (*nobody) Authorize(context.Context, *http.Request) error { return nil }

func (n *nobody) AddResponses(context.Context, []*http.Response) error {
	n.asked++
	return errdefs.ErrNotImplemented
}

// bothWays asks for a chunk, as we do, and for a tag, as containerd's resolver does.
func bothWays(t *testing.T, src *Source) []error {
	t.Helper()
	named, err := reference.ParseDockerRef(src.Name() + "/a:v1")
	if err != nil {
		t.Fatal(err)
	}
	_, chunkErr := src.Ranged(true, nil).FetchRange(t.Context(), part(0))
	_, tagErr := src.resolve(t.Context(), named)
	return []error{chunkErr, tagErr}
}

func TestOnlyTheRegistrysOwn401IsAnswered(t *testing.T) {
	for name, tc := range map[string]struct {
		to    string // where a redirect leads first
		plain bool   // it speaks no TLS
		want  bool
	}{
		"its own":                          {want: true},
		"after a fallback to HTTP":         {plain: true, want: true},
		"on the same host":                 {to: "https://a.example.com/other", want: true},
		"there after a fallback to HTTP":   {to: "/other", plain: true, want: true},
		"on the same host without TLS":     {to: "http://a.example.com/other"},
		"on another port of the same host": {to: "https://a.example.com:8443/other"},
		"on another host":                  {to: "https://b.example.com/other"},
		"there and back":                   {to: "https://b.example.com/back", want: true},
	} {
		t.Run(name, func(t *testing.T) {
			src, auth := sourceOf(t, onLinks(t, Config{}, nil), "a.example.com"), &nobody{}
			src.at.host.Authorizer = newAuthorizer(auth)
			src.at.client.Transport = docker.NewHTTPFallback(roundTripFunc(func(req *http.Request) (*http.Response, error) {
				switch {
				case tc.plain && req.URL.Scheme == "https":
					return nil, tls.RecordHeaderError{RecordHeader: [5]byte([]byte("HTTP/"))}
				case req.URL.Path == "/back":
					return redirect(req, "https://a.example.com/other"), nil
				case tc.to != "" && req.URL.Path != "/other":
					return redirect(req, tc.to), nil
				}
				return &http.Response{StatusCode: http.StatusUnauthorized, Body: http.NoBody, Request: req}, nil
			}))
			for _, err := range bothWays(t, src) {
				if status := (*StatusError)(nil); !errors.As(err, &status) || status.Code != http.StatusUnauthorized {
					t.Errorf("%v, want a 401", err)
				}
			}
			if want := map[bool]int{true: 2}[tc.want]; auth.asked != want {
				t.Errorf("%d were answered, want %d of 2", auth.asked, want)
			}
		})
	}
}

func TestACancelledTokenRequestIsNoFailureForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := challenged(t, &hanging{first: 1}) //nolint:bodyclose // it has none
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
