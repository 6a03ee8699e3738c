package prefetchtest

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registry is a registry in this process. What it answers can be changed by a script. It is safe for concurrent use.
type Registry struct {
	srv     *httptest.Server // nil: offline
	offline string           // host and port of a registry without a server

	mu       sync.Mutex // guards what follows
	blobs    map[digest.Digest][]byte
	types    map[digest.Digest]string // media types of manifests
	tags     map[string]digest.Digest // by repository:tag
	script   Script
	auth     *tokens
	seen     map[string]int // by method and path
	requests []Request
}

// Script may change the answer to a request before it is sent. n counts the requests with the same method and path, from
// 1. It may be called concurrently.
type Script func(r *http.Request, n int, a *Answer)

// Request is what was asked and how it was answered.
type Request struct {
	Method, Path, Query string
	Range               string
	Header              http.Header
	Status              int
}

// NewRegistry starts a registry that speaks plain HTTP.
func NewRegistry(t testing.TB) *Registry {
	t.Helper()
	r := newRegistry()
	r.srv = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

// NewTLSRegistry starts a registry that speaks TLS, with a certificate of httptest.
func NewTLSRegistry(t testing.TB) *Registry {
	t.Helper()
	r := newRegistry()
	r.srv = httptest.NewTLSServer(r)
	t.Cleanup(r.Close)
	return r
}

// NewOfflineRegistry returns a registry that is reached through RegistryHost only, without a network: for tests in a
// synctest bubble. Faults that break or stall connections do not work there.
func NewOfflineRegistry(host string) *Registry {
	r := newRegistry()
	r.offline = host
	return r
}

func newRegistry() *Registry {
	return &Registry{
		blobs: make(map[digest.Digest][]byte), types: make(map[digest.Digest]string),
		tags: make(map[string]digest.Digest), seen: make(map[string]int),
	}
}

// Close stops the registry; requests under way are broken off. It may be called more than once.
func (r *Registry) Close() {
	if r.srv == nil {
		return
	}
	r.srv.CloseClientConnections()
	r.srv.Close()
}

// Host is its host and port.
func (r *Registry) Host() string {
	return strings.TrimPrefix(r.URL()[strings.Index(r.URL(), "//"):], "//")
}

// URL is its address.
func (r *Registry) URL() string {
	if r.srv == nil {
		return "http://" + r.offline
	}
	return r.srv.URL
}

// Server is the server below, for its certificate and client.
func (r *Registry) Server() *httptest.Server { return r.srv }

// Push puts an image there under repository:tag and returns the reference to it.
func (r *Registry) Push(img *Image, repository, tag string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.Copy(r.blobs, img.Blobs)
	for _, d := range []ocispec.Descriptor{img.Target, img.Manifest} {
		r.types[d.Digest] = d.MediaType
	}
	r.tags[repository+":"+tag] = img.Target.Digest
	return r.Host() + "/" + repository + ":" + tag
}

// Script sets what changes the answers; nil is none.
func (r *Registry) Script(s Script) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.script = s
}

// Requests are those so far, in the order in which they came in.
func (r *Registry) Requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// Reset forgets the requests so far.
func (r *Registry) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests, r.seen = nil, make(map[string]int)
}

// RegistryHost is the registry as containerd's resolver wants it, with all capabilities and a transport of its own.
func (r *Registry) RegistryHost() docker.RegistryHost {
	scheme, _, _ := strings.Cut(r.URL(), "://")
	client := &http.Client{Transport: r.transport()}
	return docker.RegistryHost{
		Client: client,
		Authorizer: docker.NewDockerAuthorizer(docker.WithAuthClient(client),
			docker.WithAuthCreds(func(string) (string, string, error) { return User, Password, nil })),
		Host: r.Host(), Scheme: scheme, Path: "/v2",
		Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
	}
}

func (r *Registry) transport() http.RoundTripper {
	if r.srv == nil {
		return recorded{r}
	}
	transport := docker.DefaultHTTPTransport(nil)
	if t, ok := r.srv.Client().Transport.(*http.Transport); ok && t.TLSClientConfig != nil {
		transport.TLSClientConfig = t.TLSClientConfig.Clone()
	}
	return transport
}

// recorded is a transport without a network.
type recorded struct{ handler http.Handler }

func (r recorded) RoundTrip(req *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	r.handler.ServeHTTP(rec, req)
	resp := rec.Result()
	resp.Request = req
	return resp, nil
}

// Hosts makes the registries the hosts of every reference, in order.
func Hosts(regs ...*Registry) docker.RegistryHosts {
	return func(string) ([]docker.RegistryHost, error) {
		var hosts []docker.RegistryHost
		for _, r := range regs {
			hosts = append(hosts, r.RegistryHost())
		}
		return hosts, nil
	}
}

// ServeHTTP implements http.Handler.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	key := req.Method + " " + req.URL.Path
	r.seen[key]++
	n, script := r.seen[key], r.script
	a := r.answer(req)
	r.mu.Unlock()
	if script != nil {
		script(req, n, a)
	}
	r.mu.Lock()
	r.requests = append(r.requests, Request{
		Method: req.Method, Path: req.URL.Path, Query: req.URL.RawQuery, Range: req.Header.Get("Range"),
		Header: req.Header.Clone(), Status: a.Status,
	})
	r.mu.Unlock()
	a.send(w, req)
}

// answer is the right one. The caller holds r.mu.
func (r *Registry) answer(req *http.Request) *Answer {
	if r.auth != nil {
		if a := r.auth.check(req, r.URL()); a != nil {
			return a
		}
	}
	repository, kind, name, ok := split(req.URL.Path)
	if !ok {
		return newAnswer(http.StatusNotFound, nil)
	}
	dgst := digest.Digest(name)
	if kind == "manifests" {
		if tagged, ok := r.tags[repository+":"+name]; ok {
			dgst = tagged
		}
	}
	data, ok := r.blobs[dgst]
	mediaType, isManifest := r.types[dgst]
	if !ok || isManifest != (kind == "manifests") {
		return newAnswer(http.StatusNotFound, []byte(`{"errors":[{"code":"NAME_UNKNOWN","message":"not here"}]}`))
	}
	a := newAnswer(http.StatusOK, data)
	a.Blob = data
	a.Header.Set("Docker-Content-Digest", dgst.String())
	a.Header.Set("Content-Type", "application/octet-stream")
	if isManifest {
		a.Header.Set("Content-Type", mediaType)
	}
	a.cutRange(req.Header.Get("Range"))
	return a
}

// split takes /v2/REPOSITORY/manifests|blobs/NAME apart.
func split(path string) (repository, kind, name string, ok bool) {
	path, ok = strings.CutPrefix(path, "/v2/")
	if !ok {
		return "", "", "", false
	}
	parts := strings.Split(path, "/")
	if len(parts) < 3 {
		return "", "", "", false
	}
	n := len(parts)
	return strings.Join(parts[:n-2], "/"), parts[n-2], parts[n-1], true
}

// Answer is what is sent.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	// Blob is the whole blob that was asked for a part of.
	Blob []byte
	// Chunked leaves the Content-Length out.
	Chunked bool
	// Cut is after how many bytes of the body the connection breaks; Stall, after how many nothing more comes until
	// the client goes away. Negative: never.
	Cut, Stall int
	// Hold, if set, is waited for before anything is sent.
	Hold <-chan struct{}
}

func newAnswer(status int, body []byte) *Answer {
	return &Answer{Status: status, Header: make(http.Header), Body: body, Cut: -1, Stall: -1}
}

// cutRange makes it the answer to a range request of the form bytes=a-b.
func (a *Answer) cutRange(header string) {
	span, ok := strings.CutPrefix(header, "bytes=")
	if !ok {
		return
	}
	from, to, _ := strings.Cut(span, "-")
	first, err := strconv.Atoi(from)
	last := len(a.Blob) - 1
	if to != "" {
		if n, err := strconv.Atoi(to); err == nil {
			last = min(n, last)
		}
	}
	if err != nil || first > last {
		*a = *newAnswer(http.StatusRequestedRangeNotSatisfiable, nil)
		return
	}
	a.Status, a.Body = http.StatusPartialContent, a.Blob[first:last+1]
	a.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(a.Blob)))
}

func (a *Answer) send(w http.ResponseWriter, req *http.Request) {
	if a.Hold != nil {
		select {
		case <-a.Hold:
		case <-req.Context().Done():
			return
		}
	}
	for k, v := range a.Header {
		w.Header()[k] = v
	}
	if !a.Chunked && w.Header().Get("Content-Length") == "" {
		w.Header().Set("Content-Length", strconv.Itoa(len(a.Body)))
	}
	w.WriteHeader(a.Status)
	if req.Method == http.MethodHead {
		return
	}
	flush := func() {
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
	}
	if a.Chunked {
		flush()
	}
	switch {
	case a.Cut >= 0:
		_, _ = w.Write(a.Body[:min(a.Cut, len(a.Body))]) // the client may be gone
		flush()
		panic(http.ErrAbortHandler)
	case a.Stall >= 0 && a.Stall < len(a.Body):
		_, _ = w.Write(a.Body[:a.Stall]) // likewise
		flush()
		<-req.Context().Done()
	default:
		_, _ = w.Write(a.Body) // likewise
	}
}

// UnusedHost is a loopback address where nothing listens.
func UnusedHost(t testing.TB) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
