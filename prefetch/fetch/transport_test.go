package fetch

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// blobServer serves a blob of zeros by ranges over TLS, with HTTP/2 for those who ask for it, and watches the connections.
type blobServer struct {
	*httptest.Server
	hang func(n int) bool // the n-th request never gets its bytes

	mu     sync.Mutex
	n      int             // guarded by mu, as all below
	protos map[string]bool // that were spoken
	conns  int
	hung   string        // the address of the connection on which a request hangs
	after  string        // that of the next request
	closed chan struct{} // closed when the former is
}

func newBlobServer(t *testing.T, size int64, hang func(n int) bool) *blobServer {
	t.Helper()
	s := &blobServer{hang: hang, protos: make(map[string]bool), closed: make(chan struct{})}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.n++
		s.protos[r.Proto] = true
		hangs := s.hang(s.n)
		switch {
		case hangs:
			s.hung = r.RemoteAddr
		case s.hung != "" && s.after == "":
			s.after = r.RemoteAddr
		}
		s.mu.Unlock()
		if hangs {
			<-r.Context().Done()
			return
		}
		http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(zeros{}, 0, size))
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case state == http.StateNew:
			s.conns++
		case state == http.StateClosed && c.RemoteAddr().String() == s.hung:
			close(s.closed)
		}
	}
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }

// source asks s with a transport of the caller's.
func (s *blobServer) source(t *testing.T, rt http.RoundTripper) *Source {
	t.Helper()
	host := strings.TrimPrefix(s.URL, "https://")
	c, err := New(Config{
		Hosts: func(string) ([]docker.RegistryHost, error) {
			return []docker.RegistryHost{{
				Client: &http.Client{Transport: rt}, Host: host, Scheme: "https", Path: "/v2",
				Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
			}}, nil
		},
		Log: slog.New(slog.DiscardHandler), UserAgent: "test/1",
	})
	if err != nil {
		t.Fatal(err)
	}
	return sourceOf(t, c, host)
}

const smallPart = leastRescued

func fetchZeros(t *testing.T, src *Source, k int) {
	t.Helper()
	c := part(0)
	c.Offset, c.Length, c.Blob.Size = int64(k)*smallPart, smallPart, 1000*smallPart
	body, err := src.Ranged(true, nil).FetchRange(t.Context(), c)
	if err != nil {
		t.Error(err)
		return
	}
	defer body.Close()
	if data, err := io.ReadAll(body); err != nil || !bytes.Equal(data, make([]byte, smallPart)) {
		t.Errorf("chunk %d: %d bytes, %v", k, len(data), err)
	}
}

// TestChunksHaveConnectionsOfTheirOwnAndKeepThem also with a transport of someone who asks for HTTP/2.
func TestChunksHaveConnectionsOfTheirOwnAndKeepThem(t *testing.T) {
	s := newBlobServer(t, 1000*smallPart, func(int) bool { return false })
	theirs := s.Client().Transport.(*http.Transport).Clone()
	theirs.ForceAttemptHTTP2 = true
	src := s.source(t, theirs)
	const rounds = 20
	for round := range rounds {
		var all sync.WaitGroup
		for i := range startLimit {
			all.Go(func() { fetchZeros(t, src, round*startLimit+i) })
		}
		all.Wait()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.protos) != 1 || !s.protos["HTTP/1.1"] {
		t.Errorf("spoken: %v", s.protos)
	}
	if s.conns > rounds*startLimit/4 { // some are given back a moment after the next request was sent
		t.Errorf("%d connections for %d requests of which %d were at once", s.conns, rounds*startLimit, startLimit)
	}
	if !theirs.ForceAttemptHTTP2 || theirs.MaxIdleConnsPerHost != 0 {
		t.Error("a transport that is not ours was changed")
	}
}

func TestARescueClosesTheConnectionAndTakesAnother(t *testing.T) {
	var hang atomic.Bool
	s := newBlobServer(t, 1000*smallPart, func(int) bool { return hang.CompareAndSwap(true, false) })
	src := s.source(t, s.Client().Transport)
	for k := 0; src.host.peers.typical() == nil; k++ { // on a busy machine not every chunk becomes a peer
		fetchZeros(t, src, k)
	}
	hang.Store(true)
	fetchZeros(t, src, 0)
	<-s.closed
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.after == "" || s.after == s.hung {
		t.Errorf("slow on %s, went on on %s", s.hung, s.after)
	}
	if st := src.client.Stats()[src.Name()]; st.Rescues == 0 || len(st.Retries) != 0 {
		t.Errorf("%+v", st)
	}
}

// TestContainerdsTransportsAreTuned in all the forms in which ConfigureHosts gives them.
func TestContainerdsTransportsAreTuned(t *testing.T) {
	var seen []*http.Transport
	plain := docker.DefaultHTTPTransport(nil)
	c := &http.Client{Transport: plain}
	for range 2 { // as for hosts with a header of their own
		if err := tuneClient(c); err != nil {
			t.Fatal(err)
		}
	}
	if b, ok := c.Transport.(*bounded); !ok || b.next != plain {
		t.Errorf("what comes over it is not bounded, or twice: %+v", c.Transport)
	}
	seen = append(seen, plain, plain.Clone()) // the latter as hosts with a CA of their own get it
	if rt := docker.NewHTTPFallback(plain); tuned(rt, 32) != rt {
		t.Error("a fallback was changed")
	}
	seen = append(seen, tuned(docker.DefaultHTTPTransport(nil), 8).(*http.Transport),
		tuned(&bounded{next: docker.DefaultHTTPTransport(nil)}, 200).(*http.Transport))
	for i, tr := range seen {
		if tr.Protocols.String() != "{HTTP1}" || tr.MaxIdleConnsPerHost < idlePerHost || tr.ReadBufferSize != readBuffer {
			t.Errorf("%d: %s, %d idle connections, %d bytes", i, tr.Protocols, tr.MaxIdleConnsPerHost, tr.ReadBufferSize)
		}
	}
	if n := seen[3].MaxIdleConnsPerHost; n != 200 {
		t.Errorf("%d idle connections for 200 requests", n)
	}
}
