package rig

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// ProxyConfig describes a Proxy.
type ProxyConfig struct {
	// Upstream is the URL of the registry behind it. Empty: there is none, and what the script does not answer is 404.
	Upstream string
	// UpstreamCA is the PEM bundle to trust upstream.
	UpstreamCA []byte
	// UpstreamClient is the certificate to show upstream.
	UpstreamClient *tls.Certificate
	// Addr is host:port to listen on. Empty: a free port of 127.0.0.1. A proxy that was closed can be started again on its
	// Host.
	Addr string
	// CertPEM and KeyPEM are the proxy's own. Empty: plain HTTP.
	CertPEM, KeyPEM []byte
	// ClientCA, as PEM: only clients with a certificate of this authority may connect.
	ClientCA []byte

	// network is where it listens and finds upstream. Nil: here.
	network *netns
}

// Request is what a Proxy saw of one request.
type Request struct {
	Time time.Time
	// Method, Host, Path and RawQuery as the client sent them.
	Method, Host, Path, RawQuery string
	// Range and UserAgent are the headers of these names.
	Range, UserAgent string
	// Authorized says that there was an Authorization header. It is not kept.
	Authorized bool
	// Status is 0 until an answer was begun, and stays so when the connection was dropped.
	Status int
	// Sent is the number of bytes of the body that were handed to the connection.
	Sent int64
	// Done says that nothing more is sent.
	Done bool
}

// maxRequests bounds what a Proxy remembers.
const maxRequests = 100_000

// Proxy is an HTTP server in this process in front of a registry that records requests and misbehaves on demand. It
// speaks HTTP/1.1 only, where to cut a connection means one request. Its methods may be called concurrently.
type Proxy struct {
	server    *http.Server
	transport *http.Transport
	upstream  *url.URL
	addr      string
	network   *netns
	tls       *tls.Config // nil for plain HTTP
	cert      atomic.Pointer[tls.Certificate]
	script    atomic.Pointer[func(*http.Request) Fault]
	cancel    context.CancelFunc
	running   sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil after Stop
	conns    map[net.Conn]connState
	requests []*Request
	lost     int
}

// StartProxy listens and serves until Close.
func StartProxy(cfg ProxyConfig) (*Proxy, error) {
	p := &Proxy{network: cfg.network, addr: cfg.Addr, conns: map[net.Conn]connState{}}
	if cfg.Upstream != "" {
		u, err := url.Parse(cfg.Upstream)
		if err != nil {
			return nil, fmt.Errorf("parse the proxy's upstream: %w", err)
		}
		p.upstream = u
	}
	if err := p.setUpTransport(cfg); err != nil {
		return nil, err
	}
	var err error
	if p.tls, err = p.serverTLS(cfg); err != nil {
		return nil, err
	}
	if p.network == nil {
		if p.addr, err = freeAddr(p.addr); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.server = &http.Server{
		Handler:     http.HandlerFunc(p.serve),
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, limiterKey{}, &limiter{})
		},
		ConnState: p.track,
		// Failed handshakes are what many tests are about.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	if err := p.Start(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	p.addr = p.listener.Addr().String()
	return p, nil
}

type limiterKey struct{}

func (p *Proxy) setUpTransport(cfg ProxyConfig) error {
	p.transport = &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 16, DialContext: p.network.dial}
	p.transport.TLSClientConfig = &tls.Config{}
	if len(cfg.UpstreamCA) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(cfg.UpstreamCA) {
			return errors.New("the proxy's UpstreamCA has no certificate")
		}
		p.transport.TLSClientConfig.RootCAs = pool
	}
	if cfg.UpstreamClient != nil {
		p.transport.TLSClientConfig.Certificates = []tls.Certificate{*cfg.UpstreamClient}
	}
	return nil
}

// serverTLS returns nil for plain HTTP.
func (p *Proxy) serverTLS(cfg ProxyConfig) (*tls.Config, error) {
	if len(cfg.CertPEM) == 0 {
		return nil, nil
	}
	if err := p.storeCertificate(cfg.CertPEM, cfg.KeyPEM); err != nil {
		return nil, err
	}
	c := &tls.Config{
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.cert.Load(), nil },
	}
	if len(cfg.ClientCA) > 0 {
		c.ClientCAs = x509.NewCertPool()
		if !c.ClientCAs.AppendCertsFromPEM(cfg.ClientCA) {
			return nil, errors.New("the proxy's ClientCA has no certificate")
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return c, nil
}

func (p *Proxy) storeCertificate(certPEM, keyPEM []byte) error {
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("the proxy's certificate: %w", err)
	}
	p.cert.Store(&cert)
	return nil
}

// SetCertificate replaces the certificate of a proxy that was started with one. Connections are closed as by
// CloseIdleConnections, so that the next request of every client sees the new one.
func (p *Proxy) SetCertificate(certPEM, keyPEM []byte) error {
	if p.cert.Load() == nil {
		return errors.New("the proxy was started without TLS")
	}
	if err := p.storeCertificate(certPEM, keyPEM); err != nil {
		return err
	}
	p.CloseIdleConnections()
	return nil
}

// CloseIdleConnections closes the clients' connections, those with a request on them when that is answered.
func (p *Proxy) CloseIdleConnections() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn, state := range p.conns {
		p.conns[conn] = connState{idle: state.idle, old: true}
		if state.idle {
			_ = conn.Close() // the client may have closed it already
		}
	}
}

// connState is what a Proxy knows of a connection.
type connState struct {
	idle bool
	// old connections are closed when they become idle.
	old bool
}

// track follows the connections. A connection's goroutine ends with its last state, and the first is reported before
// that goroutine starts, by the one that Close waits for as well: so Close cannot miss any.
func (p *Proxy) track(conn net.Conn, state http.ConnState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch state {
	case http.StateNew:
		p.running.Add(1)
		p.conns[conn] = connState{}
		if p.listener == nil {
			_ = conn.Close() // it came just before Stop
		}
	case http.StateActive, http.StateIdle:
		now := connState{idle: state == http.StateIdle, old: p.conns[conn].old}
		p.conns[conn] = now
		if now.idle && now.old {
			_ = conn.Close() // the client may have closed it already
		}
	case http.StateClosed, http.StateHijacked:
		delete(p.conns, conn)
		p.running.Done()
	}
}

// SetScript replaces the function that chooses the fault for each request. It is called concurrently. Nil: no faults.
func (p *Proxy) SetScript(script func(*http.Request) Fault) {
	if script == nil {
		p.script.Store(nil)
		return
	}
	p.script.Store(&script)
}

// Host is host:port, as it stands in an image reference.
func (p *Proxy) Host() string { return p.addr }

// URL is the proxy's address with its scheme and no path.
func (p *Proxy) URL() string {
	if p.cert.Load() != nil {
		return "https://" + p.addr
	}
	return "http://" + p.addr
}

// Requests returns what was asked since the start or the last Reset, in order of arrival, requests in flight included.
// A client that has an answer finds it here: it is recorded before it is sent.
func (p *Proxy) Requests() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]Request, len(p.requests))
	for i, r := range p.requests {
		list[i] = *r
	}
	return list
}

// Lost is how many requests came after the record was full, which is at 100,000.
func (p *Proxy) Lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// Reset forgets the requests so far.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests, p.lost = nil, 0
}

// Close closes all connections and waits until every goroutine has ended.
func (p *Proxy) Close() error {
	p.cancel()
	err := p.server.Close()
	p.running.Wait()
	p.transport.CloseIdleConnections()
	return err
}

// record notes a request and returns how to change the note.
func (p *Proxy) record(r *http.Request) (update func(func(*Request))) {
	note := &Request{
		Time: time.Now(), Method: r.Method, Host: r.Host, Path: r.URL.Path, RawQuery: r.URL.RawQuery,
		Range: r.Header.Get("Range"), UserAgent: r.UserAgent(), Authorized: r.Header.Get("Authorization") != "",
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.requests) < maxRequests {
		p.requests = append(p.requests, note)
	} else {
		p.lost++
	}
	return func(change func(*Request)) {
		p.mu.Lock()
		defer p.mu.Unlock()
		change(note)
	}
}

// errCut says that the connection is to be closed in the middle of an answer.
var errCut = errors.New("cut")

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	update := p.record(r)
	defer update(func(n *Request) { n.Done = true })
	var fault Fault
	if script := p.script.Load(); script != nil {
		fault = (*script)(r)
	}
	if err := p.answer(w, r, fault, update); err != nil {
		// The client has gone, upstream broke off, or the fault wants it so: in each case the answer is not whole, and
		// closing the connection is how to say that.
		panic(http.ErrAbortHandler)
	}
}

func (p *Proxy) answer(w http.ResponseWriter, r *http.Request, fault Fault, update func(func(*Request))) error {
	if fault.Drop {
		return errCut
	}
	if fault.Hold {
		// The server sees that the client has gone only once the request has been read.
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return err
		}
		if err := fault.wait(r.Context()); err != nil {
			return err
		}
	}
	resp, err := p.respond(r, fault)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for name, values := range resp.Header {
		w.Header()[name] = slices.Clone(values)
	}
	fault.edit(w.Header())
	update(func(n *Request) { n.Status = resp.StatusCode })
	w.WriteHeader(resp.StatusCode)
	flush := func() { _ = http.NewResponseController(w).Flush() } // a write will meet the same error
	if r.Method == http.MethodHead {
		return nil
	}
	body := &countingWriter{w: w, count: func(n int) { update(func(note *Request) { note.Sent += int64(n) }) }}
	content := io.Reader(resp.Body)
	if n, err := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64); err == nil {
		// The server refuses to write more than was announced, which may be less than there is.
		content = io.LimitReader(content, n)
	}
	err = fault.send(r.Context(), body, flush, content, r.Context().Value(limiterKey{}).(*limiter))
	if errors.Is(err, errCut) {
		flush()
	}
	return err
}

// respond gets the answer from upstream or makes it.
func (p *Proxy) respond(r *http.Request, fault Fault) (*http.Response, error) {
	if fault.Status == 0 && p.upstream == nil {
		made := Answer(http.StatusNotFound)
		fault.Status, fault.Body = made.Status, made.Body
	}
	if fault.Status != 0 {
		return madeResponse(fault), nil
	}
	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = p.upstream.Scheme, p.upstream.Host
	if r.TLS != nil {
		// The registry builds upload locations from Host and this.
		out.Header.Set("X-Forwarded-Proto", "https")
	}
	out.Header.Del("Connection")
	if fault.IgnoreRange {
		out.Header.Del("Range")
	}
	if r.ContentLength == 0 {
		out.Body = nil
	}
	resp, err := p.transport.RoundTrip(out)
	if err != nil {
		if r.Context().Err() != nil {
			return nil, err
		}
		bad := Answer(http.StatusBadGateway)
		bad.Body = []byte(err.Error())
		return madeResponse(bad), nil
	}
	for _, name := range []string{"Connection", "Transfer-Encoding", "Keep-Alive"} {
		resp.Header.Del(name)
	}
	return resp, nil
}

func madeResponse(f Fault) *http.Response {
	h := http.Header{}
	f.edit(h)
	if h.Get("Content-Length") == "" && f.Status >= 200 && f.Status != http.StatusNoContent {
		h.Set("Content-Length", fmt.Sprint(len(f.Body)))
	}
	return &http.Response{StatusCode: f.Status, Header: h, Body: io.NopCloser(bytes.NewReader(f.Body))}
}

// countingWriter counts bytes before they are written.
type countingWriter struct {
	w     io.Writer
	count func(n int)
}

func (c *countingWriter) Write(p []byte) (int, error) {
	c.count(len(p))
	n, err := c.w.Write(p)
	if n < len(p) {
		c.count(n - len(p))
	}
	return n, err
}
