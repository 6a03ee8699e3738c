package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// errRedirect says that redirects led nowhere.
var errRedirect = errors.New("stopped after 10 redirects")

// errLocation says that a redirect leads nowhere, without the Location, which may be signed.
var errLocation = errors.New("the Location of the redirect is no URL")

// maxRedirects is net/http's own bound, which a CheckRedirect replaces.
const maxRedirects = 10

// endpoint is one registry host as seen from one repository. It builds requests exactly as containerd does
// (core/remotes/docker/resolver.go, request and addNamespace, 2.4.2), so that a mirror cannot tell the difference.
type endpoint struct {
	host       docker.RegistryHost
	client     *http.Client // host.Client with the gate, the watchdog and our redirect rule
	namespace  string       // the host in the reference
	repository string
	scope      string // what a token must allow
	userAgent  string
}

// url is the address of a manifest or blob.
func (e *endpoint) url(desc ocispec.Descriptor) string {
	kind := "blobs"
	if images.IsManifestType(desc.MediaType) || images.IsIndexType(desc.MediaType) {
		kind = "manifests"
	}
	u := url.URL{
		Scheme: e.host.Scheme,
		Host:   e.host.Host,
		Path:   path.Join("/", e.host.Path, e.repository, kind, desc.Digest.String()),
	}
	if e.isMirror() {
		u.RawQuery = url.Values{"ns": {e.namespace}}.Encode()
	}
	return u.String()
}

// isMirror tells whether the host is told which registry it stands for (core/remotes/docker/registry.go, isProxy).
func (e *endpoint) isMirror() bool {
	return e.namespace != e.host.Host && (e.namespace != "docker.io" || e.host.Host != "registry-1.docker.io")
}

// get asks for desc, or for the bytes of it that rng names in the form of a Range header. A reply that is no success is
// an error. A 401 is answered once.
func (e *endpoint) get(ctx context.Context, desc ocispec.Descriptor, rng string) (*http.Response, error) {
	ctx = docker.WithScope(ctx, e.scope)
	resp, err := e.send(ctx, desc, rng)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusUnauthorized && e.host.Authorizer != nil {
		switch err := e.host.Authorizer.AddResponses(ctx, []*http.Response{resp}); {
		case err == nil:
			drain(resp.Body)
			if resp, err = e.send(ctx, desc, rng); err != nil {
				return nil, err
			}
		case !errdefs.IsNotImplemented(err):
			drain(resp.Body)
			return nil, clean(err)
		}
	}
	if resp.StatusCode/100 != 2 {
		return nil, newStatusError(resp)
	}
	return resp, nil
}

func (e *endpoint) send(ctx context.Context, desc ocispec.Descriptor, rng string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url(desc), nil)
	if err != nil {
		return nil, fmt.Errorf("build the request for %s: %w", desc.Digest, err)
	}
	for k, v := range e.host.Header {
		req.Header[k] = append(req.Header[k], v...)
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", e.userAgent)
	}
	req.Header.Set("Accept", strings.Join([]string{desc.MediaType, "*/*"}, ", "))
	// containerd takes encoded bodies and undoes the encoding; a range of an encoded body would be of no use to us.
	req.Header.Set("Accept-Encoding", "identity")
	if rng != "" {
		req.Header.Set("Range", rng)
	}
	if e.host.Authorizer != nil {
		if err := e.host.Authorizer.Authorize(ctx, req); err != nil {
			return nil, clean(err)
		}
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return nil, clean(err)
	}
	return resp, nil
}

// drain reads a little, so that the connection can be used again, and closes.
func drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, maxErrorBody) // only to save a connection
	body.Close()
}

// checkRedirect sends nothing that is meant for the registry to another host. net/http does the same for Authorization,
// but it takes other ports and subdomains for the same host, and knows nothing of headers set in hosts.toml.
func checkRedirect(host docker.RegistryHost) func(*http.Request, []*http.Request) error {
	return func(req *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return errRedirect
		}
		if sameOrigin(req.URL, via[0].URL) {
			return nil
		}
		for _, k := range []string{"Authorization", "Proxy-Authorization", "Cookie", "Cookie2", "Referer"} {
			req.Header.Del(k)
		}
		for k := range host.Header {
			if !strings.EqualFold(k, "User-Agent") {
				delete(req.Header, k)
			}
		}
		return nil
	}
}

// original is the request that redirects made into req, or req. Where we fell back to HTTP, both have been there: their
// URLs can be compared.
func original(req *http.Request) *http.Request {
	for req.Response != nil && req.Response.Request != nil {
		req = req.Response.Request
	}
	return req
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	}
	return "443"
}

// ranged gets exactly the bytes of a chunk.
type ranged struct{ at *endpoint }

func (r ranged) FetchRange(ctx context.Context, c Chunk) (io.ReadCloser, error) {
	resp, err := r.at.get(ctx, c.Blob, fmt.Sprintf("bytes=%d-%d", c.Offset, c.Offset+c.Length-1))
	if status := (*StatusError)(nil); errors.As(err, &status) && status.Code == http.StatusRequestedRangeNotSatisfiable {
		// The chunk lies in the blob, so that the host is wrong about ranges or about the blob: one stream tells.
		return nil, fmt.Errorf("%w: %w", ErrRangeIgnored, err)
	}
	if err != nil {
		return nil, err
	}
	if err := checkRange(resp, c); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return &exactly{body: resp.Body, n: c.Length}, nil
}

// whole gets the blob from its beginning without a range and throws away what is before the chunk: for registries that
// honour no ranges, and for blobs so small that one request is enough.
type whole struct{ at *endpoint }

func (w whole) FetchRange(ctx context.Context, c Chunk) (io.ReadCloser, error) {
	resp, err := w.at.get(ctx, c.Blob, "")
	if err != nil {
		return nil, err
	}
	if err := checkWhole(resp, c.Blob.Size); err != nil {
		resp.Body.Close()
		return nil, err
	}
	if n, err := io.CopyN(io.Discard, resp.Body, c.Offset); err != nil {
		resp.Body.Close()
		return nil, &brokenError{doing: fmt.Sprintf("skip to byte %d, at %d", c.Offset, n), err: noEOF(err)}
	}
	return &exactly{body: resp.Body, n: c.Length}, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
