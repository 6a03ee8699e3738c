package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/semaphore"
)

// authTimeout bounds one exchange with a token server, maxToken each reply of it in bytes.
const (
	authTimeout = time.Minute
	maxToken    = 1 << 20
)

// authorizer mends four habits of containerd's authorizer (core/remotes/docker/authorizer.go, 2.4.2) that hurt when many
// chunks share it: every one of them would refresh an expired token anew; a token that a registry refuses without
// saying error="invalid_token" is never refreshed; a failed token request, also one that was only cancelled, is
// remembered as the answer for good; and doBearerAuth reads a token's expiry while another goroutine writes it.
type authorizer struct {
	next docker.Authorizer
	// turn lets one goroutine in; it is no mutex because waiting for a token must end with the request.
	turn *semaphore.Weighted
	// last is the last challenge, or nil; whoever has the turn may use it.
	last *challenge
	// failed is the last failure of a token request, or nil; whoever has the turn may set it.
	failed atomic.Pointer[authError]
}

func newAuthorizer(next docker.Authorizer) *authorizer {
	return &authorizer{next: next, turn: semaphore.NewWeighted(1)}
}

func (a *authorizer) Authorize(ctx context.Context, req *http.Request) error {
	return a.inTurn(ctx, func(ctx context.Context) error { return a.authorize(ctx, req) })
}

// AddResponses answers no 401 of another origin, reached by a redirect: whoever is on the way of one that leads from HTTPS
// to HTTP on the same host could name a token server of his own, and be sent the login.
func (a *authorizer) AddResponses(ctx context.Context, responses []*http.Response) error {
	if last := responses[len(responses)-1].Request; !sameOrigin(last.URL, original(last).URL) {
		return fmt.Errorf("answer the 401 of %s after a redirect: %w", last.URL.Host, errdefs.ErrNotImplemented)
	}
	return a.inTurn(ctx, func(ctx context.Context) error { return a.add(ctx, responses) })
}

// authError is an error of Authorize, whose only requests are those for tokens.
type authError struct{ error }

func (e *authError) Unwrap() error { return e.error }

// inTurn waits for the turn and bounds what is done in it. Who began to wait before a token request failed takes that
// failure for an answer: each of those who wait has a slot, and if they asked one after the other, a token server that
// hangs would keep the last of them for half an hour. Who comes later asks anew.
func (a *authorizer) inTurn(ctx context.Context, do func(ctx context.Context) error) error {
	before := a.failed.Load()
	if err := a.turn.Acquire(ctx, 1); err != nil {
		return context.Cause(ctx)
	}
	defer a.turn.Release(1)
	if failed := a.failed.Load(); failed != before {
		return failed
	}
	timed, cancel := context.WithTimeout(withBound(ctx, bound{of: "the token server's reply", most: maxToken}), authTimeout)
	defer cancel()
	err := do(timed)
	// One that its own caller has cancelled says nothing about the server.
	if failed := (*authError)(nil); ctx.Err() == nil && errors.As(err, &failed) {
		a.failed.Store(failed)
	}
	return err
}

// authorize gets a token if there is none. A failure is forgotten, so that it can be asked for again.
func (a *authorizer) authorize(ctx context.Context, req *http.Request) error {
	err := a.next.Authorize(ctx, req)
	if err != nil && a.last != nil {
		// Errors here only mean that there is nothing to forget.
		_ = a.next.AddResponses(ctx, a.last.refused()) //nolint:bodyclose // made by us, without a body
	}
	if err != nil {
		return &authError{err}
	}
	return nil
}

// add learns the challenge of the last response, and that the token that was sent is refused.
func (a *authorizer) add(ctx context.Context, responses []*http.Response) error {
	last := responses[len(responses)-1]
	a.last = newChallenge(last)
	sent := last.Request.Header.Get("Authorization")
	if sent == "" || len(responses) > 1 {
		return a.next.AddResponses(ctx, responses)
	}
	again := a.last.request()
	if err := a.authorize(ctx, again); err != nil {
		return err
	}
	if now := again.Header.Get("Authorization"); now != "" && now != sent {
		return nil // someone else has refreshed the token since this request was sent
	}
	return a.next.AddResponses(ctx, a.last.refused()) //nolint:bodyclose // made by us, without a body
}

// challenge is what containerd's authorizer looks at in a 401.
type challenge struct {
	method string
	url    *url.URL
	values []string // of WWW-Authenticate
}

func newChallenge(resp *http.Response) *challenge {
	return &challenge{
		method: resp.Request.Method, url: resp.Request.URL, values: slices.Clone(resp.Header.Values("WWW-Authenticate")),
	}
}

func (c *challenge) request() *http.Request {
	return &http.Request{Method: c.method, URL: c.url, Header: make(http.Header)}
}

// refused is the response with its bearer challenges saying that the token was refused, which makes the authorizer drop
// it.
func (c *challenge) refused() []*http.Response {
	header := make(http.Header)
	for _, v := range c.values {
		if scheme, _, _ := strings.Cut(v, " "); strings.EqualFold(scheme, "bearer") && !strings.Contains(v, "error=") {
			v += `,error="invalid_token"`
		}
		header.Add("WWW-Authenticate", v)
	}
	return []*http.Response{{StatusCode: http.StatusUnauthorized, Header: header, Request: c.request()}}
}
