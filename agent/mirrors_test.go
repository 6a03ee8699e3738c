package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/agent/agenttest"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/certs"
	"github.com/hotplate-dev/hotplate/hostconfig"
)

// serverWith starts a TLS server whose nth handshake shows the nth certificate; the last one stays.
func serverWith(t *testing.T, h http.Handler, clients *x509.CertPool, chain ...tls.Certificate) *httptest.Server {
	t.Helper()
	var n atomic.Int64
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = nil
	srv.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		i := min(int(n.Add(1)), len(chain)) - 1
		conf := &tls.Config{Certificates: chain[i : i+1]}
		if clients != nil {
			conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, clients
		}
		return conf, nil
	}, Certificates: chain[:1]}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

func answers(status int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" || r.Method != http.MethodGet {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		w.Header().Set("Location", "https://elsewhere.invalid/")
		w.WriteHeader(status)
	})
}

func TestCheckMirror(t *testing.T) {
	soon, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	good, other := newCA(t, "good", soon), newCA(t, "other", soon)
	leaf, stranger := good.issue(t, "", soon), other.issue(t, "", soon)
	pool := good.bundle.Pool(nil)
	client := keyPair(t, good.issue(t, "", soon))
	endless := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	})
	cases := map[string]struct {
		handler http.Handler
		clients *x509.CertPool
		chain   []tls.Certificate
		tls     hostconfig.TLS
		want    string // the status, or what the error holds
		ok      bool
	}{
		"it verifies against the CA": {answers(200), nil, []tls.Certificate{leaf}, hostconfig.TLS{CA: good.bundle}, "200 OK",
			true},
		"asking for a login is an answer": {answers(401), nil, []tls.Certificate{leaf}, hostconfig.TLS{CA: good.bundle},
			"401 Unauthorized", true},
		"a redirect is an answer and is not followed": {answers(302), nil, []tls.Certificate{leaf},
			hostconfig.TLS{CA: good.bundle}, "302 Found", true},
		"an endless answer is an answer": {endless, nil, []tls.Certificate{leaf}, hostconfig.TLS{CA: good.bundle}, "200 OK",
			true},
		"another CA signed it": {answers(200), nil, []tls.Certificate{stranger}, hostconfig.TLS{CA: good.bundle},
			"name the CA that signed it under ca", false},
		"no CA is named": {answers(200), nil, []tls.Certificate{leaf}, hostconfig.TLS{},
			"name the CA that signed it under ca", false},
		"the third server behind it has the old one": {answers(200), nil, []tls.Certificate{leaf, leaf, stranger},
			hostconfig.TLS{CA: good.bundle}, "name the CA that signed it under ca", false},
		"any certificate will do": {answers(200), nil, []tls.Certificate{stranger}, hostconfig.TLS{SkipVerify: true},
			"200 OK", true},
		"its certificate is expired": {answers(200), nil, []tls.Certificate{good.issue(t, "", past)},
			hostconfig.TLS{CA: good.bundle}, "renew the server's certificate", false},
		"its certificate is for another name": {answers(200), nil, []tls.Certificate{good.issue(t, "elsewhere.example.com",
			soon)},
			hostconfig.TLS{CA: good.bundle}, "use a URL with a name that the certificate holds", false},
		"it asks for a client certificate": {answers(200), pool, []tls.Certificate{leaf},
			hostconfig.TLS{CA: good.bundle, Client: &client}, "200 OK", true},
		"it asks in vain for a client certificate": {answers(200), pool, []tls.Certificate{leaf},
			hostconfig.TLS{CA: good.bundle}, "certificate required", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			srv := serverWith(t, c.handler, c.clients, c.chain...)
			srv.Config.ErrorLog = discard()
			status, err := checkMirror(t.Context(), srv.URL+"/project", c.tls)
			switch {
			case c.ok && (err != nil || status != c.want):
				t.Errorf("got %q, %v; want %q", status, err, c.want)
			case !c.ok && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %q, %v; want an error with %q", status, err, c.want)
			}
		})
	}
}

func TestCheckMirrorOverHTTP(t *testing.T) {
	srv := httptest.NewServer(answers(200))
	defer srv.Close()
	if status, err := checkMirror(t.Context(), srv.URL, hostconfig.TLS{}); err != nil || status != "200 OK" {
		t.Errorf("got %q, %v", status, err)
	}
}

func TestALookAtADeadMirrorSaysTheSameEachTime(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // it breaks every connection off, so that the error comes from a connection with a port of ours
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	}()
	defer func() { l.Close(); <-done }()
	var seen []string
	for range 3 {
		_, err := checkMirror(t.Context(), "https://"+l.Addr().String(), hostconfig.TLS{})
		if err == nil {
			t.Fatal("a mirror that breaks connections off is reachable")
		}
		if strings.Contains(err.Error(), "->") {
			t.Errorf("the message holds our own port: %v", err)
		}
		seen = append(seen, err.Error())
	}
	t.Log(seen)
}

func TestCheckMirrorEndsWithItsContext(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := checkMirror(ctx, srv.URL, hostconfig.TLS{}); err == nil {
		t.Error("no error")
	}
}

// rotation is a reconciler for one registry with one mirror, whose CA changes.
type rotation struct {
	*reconciler
	host *fakeHost
	srv  *httptest.Server
}

func newRotation(t *testing.T, chain ...tls.Certificate) *rotation {
	t.Helper()
	srv := serverWith(t, answers(200), nil, chain...)
	srv.Config.ErrorLog = discard()
	var log agenttest.Log
	host := newFakeHost(t)
	v := newView(report.NodeReport{}, log.Logger())
	r := newReconciler(Config{Log: log.Logger(), Host: host, HostsDir: "/certs.d"}, v, trustIn(t), newNeed(v), func() {}, func(map[string]string) {})
	return &rotation{reconciler: r, host: host, srv: srv}
}

// wants makes the config name bundle for the mirror.
func (r *rotation) wants(t *testing.T, bundle certs.Bundle) {
	t.Helper()
	r.want(config.Snapshot{}, []hostconfig.Registry{{Host: "docker.io", Upstream: hostconfig.Deny,
		Mirrors: []hostconfig.Mirror{{URL: r.srv.URL, Path: "p", TLS: hostconfig.TLS{CA: bundle}}}}}, nil)
	if !r.apply(t.Context()) {
		t.Fatal("it was not applied")
	}
}

func (r *rotation) look(t *testing.T) report.Mirror {
	t.Helper()
	r.sawMirrors(t.Context(), checkMirrors(t.Context(), endpoints(r.regs)))
	regs := r.view.Report().Registries
	if len(regs) != 1 || len(regs[0].Mirrors) != 1 {
		t.Fatalf("the report has not the one mirror: %+v", regs)
	}
	return regs[0].Mirrors[0]
}

func TestOldAndNewCAOverlapUntilTheNewOneIsProven(t *testing.T) {
	soon := time.Now().Add(time.Hour)
	old, next := newCA(t, "old", soon), newCA(t, "new", soon)
	var chain []tls.Certificate
	for range 2 * handshakes { // two looks see the old certificate, of which the second expects the new one
		chain = append(chain, old.issue(t, "", soon))
	}
	r := newRotation(t, append(chain, next.issue(t, "", soon))...)

	r.wants(t, old.bundle)
	if m := r.look(t); !m.Reachable || m.Overlap {
		t.Fatalf("with the old CA: %+v", m)
	}
	r.wants(t, next.bundle)
	r.host.trusts(t, "docker.io", certs.Merge(old.bundle, next.bundle))
	// The first handshake fails, so the look at the old certificate ends there.
	if m := r.look(t); m.Reachable || !m.Overlap || !strings.Contains(m.Message, "name the CA") {
		t.Errorf("the mirror still has the old certificate, and the report says %+v", m)
	}
	r.host.trusts(t, "docker.io", certs.Merge(old.bundle, next.bundle))
	for {
		m := r.look(t)
		if m.Reachable {
			if m.Overlap {
				t.Errorf("proven, and the report says %+v", m)
			}
			break
		}
		if !m.Overlap {
			t.Fatalf("the overlap ended although the new CA is not proven: %+v", m)
		}
	}
	r.host.trusts(t, "docker.io", next.bundle)
	again, err := loadTrust(r.trust.path)
	if err != nil {
		t.Fatal(err)
	}
	if b := again.proven[endpoints(r.regs)[0].key()]; !b.Equal(next.bundle) {
		t.Errorf("saved as proven is %s, want %s", b, next.bundle)
	}
}

func TestALookThatBeganBeforeTheConfigChangedProvesNothing(t *testing.T) {
	soon := time.Now().Add(time.Hour)
	old, next := newCA(t, "old", soon), newCA(t, "new", soon)
	r := newRotation(t, old.issue(t, "", soon))
	r.wants(t, old.bundle)
	r.look(t)
	late := checkMirrors(t.Context(), endpoints(r.regs))
	r.wants(t, next.bundle)
	r.sawMirrors(t.Context(), late)
	r.host.trusts(t, "docker.io", certs.Merge(old.bundle, next.bundle))
}

func TestALookWithoutVerificationProvesNothing(t *testing.T) {
	soon := time.Now().Add(time.Hour)
	good := newCA(t, "good", soon)
	r := newRotation(t, good.issue(t, "", soon))
	r.want(config.Snapshot{}, []hostconfig.Registry{{Host: "docker.io", Upstream: hostconfig.Deny,
		Mirrors: []hostconfig.Mirror{{URL: r.srv.URL, TLS: hostconfig.TLS{SkipVerify: true, CA: good.bundle}}}}}, nil)
	r.apply(t.Context())
	if m := r.look(t); !m.Reachable {
		t.Errorf("got %+v", m)
	}
	if len(r.trust.proven) != 0 {
		t.Errorf("proven: %v", r.trust.proven)
	}
}

func TestWithoutAConfigNoProvenCAIsForgotten(t *testing.T) {
	soon := time.Now().Add(time.Hour)
	r := newRotation(t, newCA(t, "any", soon).issue(t, "", soon))
	if err := r.trust.prove("key", certs.Bundle{}); err != nil {
		t.Fatal(err)
	}
	r.sawMirrors(t.Context(), nil)
	if len(r.trust.proven) != 1 {
		t.Error("it was forgotten before a config said what is used")
	}
	if n := len(r.host.calls()); n != 0 {
		t.Errorf("the hosts directory was written %d times", n)
	}
}

func TestEndpoints(t *testing.T) {
	ca := newCA(t, "any", time.Now().Add(time.Hour)).bundle
	mirror := func(url, path string) hostconfig.Mirror { return hostconfig.Mirror{URL: url, Path: path} }
	regs := []hostconfig.Registry{
		{Host: "docker.io", Upstream: hostconfig.Allow, TLS: hostconfig.TLS{CA: ca}, Mirrors: []hostconfig.Mirror{
			mirror("https://harbor.example.com", "a"), mirror("https://harbor.example.com", "b")}},
		{Host: "quay.io", Upstream: hostconfig.Allow, Mirrors: []hostconfig.Mirror{mirror("https://harbor.example.com",
			"a")}},
		{Host: "ghcr.io", Upstream: hostconfig.Allow, TLS: hostconfig.TLS{CA: ca},
			Mirrors: []hostconfig.Mirror{mirror("https://ghcr.io", "")}},
		{Host: "walled.example.com", Upstream: hostconfig.Deny, TLS: hostconfig.TLS{CA: ca}},
		{Host: "_default", Upstream: hostconfig.Allow, TLS: hostconfig.TLS{CA: ca}},
	}
	var got []string
	keys := make(map[string]bool)
	for _, e := range endpoints(regs) {
		got = append(got, fmt.Sprintf("%s: %s", e.registry, e.url))
		keys[e.key()] = true
	}
	want := []string{
		"docker.io: https://harbor.example.com/a",
		"docker.io: https://harbor.example.com/b",
		"docker.io: https://registry-1.docker.io",
		"quay.io: https://harbor.example.com/a",
		"ghcr.io: https://ghcr.io", // once, although it is its own mirror
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(keys) != len(got) {
		t.Errorf("two endpoints have one key: %v", keys)
	}
}
