package rig_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

func startLink(t *testing.T, cfg rig.LinkConfig) *rig.Link {
	t.Helper()
	l, err := rig.StartLink(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close the link: %v", err)
		}
	})
	return l
}

func TestLinkCarriesAndCounts(t *testing.T) {
	s := upstream(t)
	l := startLink(t, rig.LinkConfig{Upstream: s.Listener.Addr().String()})
	for range 2 {
		got, _ := fetch(t, "http://"+l.Host()+"/blob", "")
		if got.Status != http.StatusOK || got.Body != string(blob()) {
			t.Fatalf("status %d, %d bytes, %q", got.Status, len(got.Body), got.Err)
		}
	}
	waitFor(t, func() bool { _, open := l.Connections(); return open == 0 })
	if all, _ := l.Connections(); all != 2 {
		t.Errorf("%d connections, want 2", all)
	}
	body := int64(2 * len(blob()))
	if got := l.Received(); got < body || got > body+2000 {
		t.Errorf("%d bytes were counted, want %d and headers", got, body)
	}
}

func TestLinkKeepsAConnectionForSeveralRequests(t *testing.T) {
	s := upstream(t)
	l := startLink(t, rig.LinkConfig{Upstream: s.Listener.Addr().String(), BytesPerSecond: 1 << 30})
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport}
	for range 3 {
		r, err := c.Get("http://" + l.Host() + "/blob")
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, r.Body)
		if err := errors.Join(err, r.Body.Close()); err != nil || n != int64(len(blob())) {
			t.Fatalf("%d bytes, %v", n, err)
		}
	}
	if all, open := l.Connections(); all != 1 || open != 1 {
		t.Errorf("%d connections, %d of them open, want one", all, open)
	}
}

func TestLinkCloseEndsOpenConnections(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer s.Close()
	defer close(release)
	l, err := rig.StartLink(rig.LinkConfig{Upstream: s.Listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", l.Host())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-began
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection still answers after Close")
	}
}

func TestLinkClosesWhereNobodyListens(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	l := startLink(t, rig.LinkConfig{Upstream: dead.Addr().String()})
	if got, _ := fetch(t, "http://"+l.Host()+"/", ""); got.Status != 0 || strings.TrimSpace(got.Err) == "" {
		t.Errorf("status %d, error %q, want a closed connection", got.Status, got.Err)
	}
}
