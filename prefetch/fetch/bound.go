package fetch

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

// bound is how long the body of a reply may be that is read to its end whatever comes, as containerd's authorizer and
// resolver do (core/remotes/docker/auth/fetch.go and resolver.go, 2.4.2): a hostile server would fill our memory, or keep
// us for ever.
type bound struct {
	of   string // what is bounded
	most int64
}

type boundKey struct{}

func withBound(ctx context.Context, b bound) context.Context {
	return context.WithValue(ctx, boundKey{}, b)
}

// bounded holds replies to the bound in their request's context. It is around the transport, which inflates bodies.
type bounded struct{ next http.RoundTripper }

func (t *bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if b, ok := req.Context().Value(boundKey{}).(bound); ok && err == nil {
		resp.Body = &boundedBody{ReadCloser: resp.Body, bound: b, left: b.most}
	}
	return resp, err
}

func (t *bounded) CloseIdleConnections() { closeIdle(t.next) }

type boundedBody struct {
	io.ReadCloser
	bound bound
	left  int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("%s is longer than %d bytes", b.bound.of, b.bound.most)
	}
	return n, err
}
