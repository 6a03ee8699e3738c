package rig_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

// blob is larger than any buffer on the way.
func blob() []byte { return bytes.Repeat([]byte("0123456789abcdef"), 64<<10) }

// upstream serves blob at every path, with ranges.
func upstream(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(blob()))
	}))
	t.Cleanup(s.Close)
	return s
}

func startProxy(t *testing.T, cfg rig.ProxyConfig) *rig.Proxy {
	t.Helper()
	p, err := rig.StartProxy(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("close the proxy: %v", err)
		}
	})
	return p
}

// client makes a new connection for each request and follows no redirect.
func client() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// reply is what a client got. Err is the kind of failure in one word.
type reply struct {
	Status int
	Body   string
	Err    string
}

// fetch asks for a range if from is not empty.
func fetch(t *testing.T, url, byteRange string) (reply, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if byteRange != "" {
		req.Header.Set("Range", byteRange)
	}
	resp, err := client().Do(req)
	if err != nil {
		return reply{Err: kind(err)}, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return reply{Status: resp.StatusCode, Body: string(body), Err: kind(err)}, resp.Header
}

func kind(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "cut"
	case errors.Is(err, io.EOF), strings.Contains(err.Error(), "connection reset"):
		return "dropped"
	default:
		return err.Error()
	}
}

func TestProxyFaults(t *testing.T) {
	whole := string(blob())
	flipped := whole[:70_000] + string([]byte{whole[70_000] ^ 0xff}) + whole[70_001:]
	body := func(message string) string { return `{"errors":[{"code":"RIG","message":"` + message + `"}]}` }
	tests := map[string]struct {
		fault  rig.Fault
		ask    string
		want   reply
		header http.Header
	}{
		"no fault gives everything": {want: reply{Status: 200, Body: whole}},
		"no fault gives the range": {ask: "bytes=16-31", want: reply{Status: 206, Body: whole[16:32]},
			header: http.Header{"Content-Range": {"bytes 16-31/1048576"}}},
		"a status is answered without upstream": {fault: rig.Answer(503, "X-Cause", "test"),
			want: reply{Status: 503, Body: body("Service Unavailable")}, header: http.Header{"X-Cause": {"test"}}},
		"429 says when to come back": {fault: rig.TooManyRequests(1500 * time.Millisecond),
			want:   reply{Status: 429, Body: body("Too Many Requests")},
			header: http.Header{"Retry-After": {"2"}}},
		"drop answers nothing":  {fault: rig.Fault{Drop: true}, want: reply{Err: "dropped"}},
		"cut after the headers": {fault: rig.Fault{CutAfter: rig.At(0)}, want: reply{Status: 200, Err: "cut"}},
		"cut in the body": {fault: rig.Fault{CutAfter: rig.At(70_000)},
			want: reply{Status: 200, Body: whole[:70_000], Err: "cut"}},
		"one byte is wrong": {fault: rig.Fault{FlipAt: rig.At(70_000)}, want: reply{Status: 200, Body: flipped}},
		"a range is ignored": {fault: rig.Fault{IgnoreRange: true}, ask: "bytes=16-31",
			want: reply{Status: 200, Body: whole}},
		"the range is a lie": {fault: rig.Fault{Header: http.Header{"Content-Range": {"bytes 0-15/99"}}}, ask: "bytes=16-31",
			want: reply{Status: 206, Body: whole[16:32]}, header: http.Header{"Content-Range": {"bytes 0-15/99"}}},
		"a length that is too small": {fault: rig.Fault{Header: http.Header{"Content-Length": {"100"}}},
			want: reply{Status: 200, Body: whole[:100]}},
		"a length that is too large": {fault: rig.Fault{Header: http.Header{"Content-Length": {"1048577"}}},
			want: reply{Status: 200, Body: whole, Err: "cut"}},
		"no length at all": {fault: rig.Fault{Header: http.Header{"Content-Length": nil}},
			want: reply{Status: 200, Body: whole}, header: http.Header{"Content-Length": nil}},
		"a limit takes nothing away": {fault: rig.Fault{BytesPerSecond: 100 << 20},
			want: reply{Status: 200, Body: whole}},
		"faults combine": {fault: rig.Fault{FlipAt: rig.At(70_000), CutAfter: rig.At(70_001), BytesPerSecond: 100 << 20},
			want: reply{Status: 200, Body: flipped[:70_001], Err: "cut"}},
		"416": {fault: rig.Answer(416, "Content-Range", "bytes */7"), ask: "bytes=16-31",
			want:   reply{Status: 416, Body: body("Requested Range Not Satisfiable")},
			header: http.Header{"Content-Range": {"bytes */7"}}},
	}
	behind := upstream(t)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := startProxy(t, rig.ProxyConfig{Upstream: behind.URL})
			p.SetScript(func(*http.Request) rig.Fault { return tt.fault })
			got, header := fetch(t, p.URL()+"/v2/x/blobs/y?ns=docker.io", tt.ask)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%.2000s", diff)
			}
			for name, want := range tt.header {
				if diff := cmp.Diff(want, header[name]); diff != "" {
					t.Errorf("header %s (-want +got):\n%s", name, diff)
				}
			}
			requests := p.Requests()
			if len(requests) != 1 {
				t.Fatalf("%d requests are recorded, want 1", len(requests))
			}
			r := requests[0]
			if r.Path != "/v2/x/blobs/y" || r.RawQuery != "ns=docker.io" || r.Range != tt.ask || r.Status != tt.want.Status {
				t.Errorf("recorded %+v", r)
			}
			if r.Sent != int64(len(tt.want.Body)) {
				t.Errorf("recorded %d bytes, want %d", r.Sent, len(tt.want.Body))
			}
		})
	}
}

func TestProxyWithoutUpstreamSaysNotFound(t *testing.T) {
	p := startProxy(t, rig.ProxyConfig{})
	if got, _ := fetch(t, p.URL()+"/v2/", ""); got.Status != http.StatusNotFound {
		t.Errorf("got %d %q, want 404", got.Status, got.Body)
	}
}

func TestProxyRedirects(t *testing.T) {
	p := startProxy(t, rig.ProxyConfig{})
	p.SetScript(func(r *http.Request) rig.Fault { return rig.Redirect(r, "https://blobs.example.com/") })
	got, header := fetch(t, p.URL()+"/v2/x/blobs/y?ns=docker.io", "")
	if want := "https://blobs.example.com/v2/x/blobs/y?ns=docker.io"; got.Status != 307 || header.Get("Location") != want {
		t.Errorf("got %d to %q, want 307 to %q", got.Status, header.Get("Location"), want)
	}
}

func TestProxyStallsUntilReleased(t *testing.T) {
	release := make(chan struct{})
	faults := map[string]rig.Fault{
		"before the headers": {Hold: true, Release: release},
		"in the body":        {StallAfter: rig.At(70_000), Release: release},
	}
	behind := upstream(t)
	got := map[string]chan reply{}
	proxies := map[string]*rig.Proxy{}
	for name, fault := range faults {
		p := startProxy(t, rig.ProxyConfig{Upstream: behind.URL})
		p.SetScript(func(*http.Request) rig.Fault { return fault })
		c := make(chan reply, 1)
		go func() {
			r, _ := fetch(t, p.URL(), "")
			c <- r
		}()
		got[name], proxies[name] = c, p
	}
	waitFor(t, func() bool {
		held, stalled := proxies["before the headers"].Requests(), proxies["in the body"].Requests()
		return len(held) == 1 && len(stalled) == 1 && stalled[0].Sent == 70_000
	})
	if r := proxies["before the headers"].Requests()[0]; r.Status != 0 || r.Done {
		t.Errorf("a held request is recorded as %+v, want no answer yet", r)
	}
	close(release)
	for name, c := range got {
		if r := <-c; r.Status != 200 || r.Body != string(blob()) || r.Err != "" {
			t.Errorf("stalled %s, then released: status %d, %d bytes, error %q", name, r.Status, len(r.Body), r.Err)
		}
	}
}

func TestProxyNoticesThatAStalledClientGoes(t *testing.T) {
	for name, fault := range map[string]rig.Fault{
		"before the headers": {Hold: true},
		"in the body":        {StallAfter: rig.At(10)},
	} {
		t.Run(name, func(t *testing.T) {
			p := startProxy(t, rig.ProxyConfig{Upstream: upstream(t).URL})
			p.SetScript(func(*http.Request) rig.Fault { return fault })
			ctx, cancel := context.WithCancel(t.Context())
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL(), nil)
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() {
				resp, err := client().Do(req)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					err = errors.Join(err, resp.Body.Close())
				}
				ended <- err
			}()
			waitFor(t, func() bool { return len(p.Requests()) == 1 })
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("the client got %v, want context canceled", err)
			}
			waitFor(t, func() bool { return p.Requests()[0].Done })
		})
	}
}

func TestProxyCloseEndsStalledRequests(t *testing.T) {
	p, err := rig.StartProxy(rig.ProxyConfig{Upstream: upstream(t).URL})
	if err != nil {
		t.Fatal(err)
	}
	p.SetScript(func(*http.Request) rig.Fault { return rig.Fault{StallAfter: rig.At(10)} })
	got := make(chan reply, 1)
	go func() {
		r, _ := fetch(t, p.URL(), "")
		got <- r
	}()
	waitFor(t, func() bool { r := p.Requests(); return len(r) == 1 && r[0].Sent == 10 })
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if r := <-got; r.Err != "cut" {
		t.Errorf("the client got error %q, want a cut body", r.Err)
	}
	if !p.Requests()[0].Done {
		t.Error("Close returned before the request's handler")
	}
}

func TestProxyShowsItsNewCertificateAtOnce(t *testing.T) {
	ca1, ca2 := newCA(t), newCA(t)
	cert, key, err := ca1.Issue("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	p := startProxy(t, rig.ProxyConfig{CertPEM: cert, KeyPEM: key})
	// This client keeps its connection, as containerd does.
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca1.Pool()}}
	defer transport.CloseIdleConnections()
	get := func() error {
		resp, err := (&http.Client{Transport: transport}).Get(p.URL())
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return errors.Join(err, resp.Body.Close())
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
	cert, key, err = ca2.Issue("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.SetCertificate(cert, key); err != nil {
		t.Fatal(err)
	}
	var unknown *tls.CertificateVerificationError
	if err := get(); !errors.As(err, &unknown) {
		t.Errorf("with the old CA after the change: %v, want a verification error", err)
	}
}

func TestProxyWantsAClientCertificate(t *testing.T) {
	ca := newCA(t)
	cert, key, err := ca.Issue("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	p := startProxy(t, rig.ProxyConfig{CertPEM: cert, KeyPEM: key, ClientCA: ca.PEM()})
	certPEM, keyPEM, err := ca.IssueClient("node")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	for name, certs := range map[string][]tls.Certificate{"with": {pair}, "without": nil} {
		c := client()
		c.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: ca.Pool(), Certificates: certs}
		resp, err := c.Get(p.URL())
		if err == nil {
			err = resp.Body.Close()
		}
		if (err == nil) != (name == "with") {
			t.Errorf("a client %s a certificate: %v", name, err)
		}
	}
}

// waitFor waits for a condition that another goroutine brings about.
func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the condition did not come true in 30 s")
		}
	}
}
