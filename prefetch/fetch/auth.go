package fetch

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// authTimeout bounds one exchange with a token server.
const authTimeout = time.Minute

// authorizer mends three habits of containerd's authorizer (core/remotes/docker/authorizer.go, 2.4.2) that hurt when many
// chunks share it: every one of them would refresh an expired token anew; a token that a registry refuses without
// saying error="invalid_token" is never refreshed; and a failed token request, also one that was only cancelled, is
// remembered as the answer for good.
type authorizer struct {
	next docker.Authorizer

	mu        sync.Mutex
	challenge *http.Response // the last 401 with a challenge, header and request only; guarded by mu
}

func (a *authorizer) Authorize(ctx context.Context, req *http.Request) error {
	ctx, cancel := context.WithTimeout(ctx, authTimeout)
	defer cancel()
	err := a.next.Authorize(ctx, req)
	if err != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.challenge != nil {
			// Errors here only mean that there is nothing to forget.
			_ = a.next.AddResponses(ctx, []*http.Response{refused(a.challenge)})
		}
	}
	return err
}

func (a *authorizer) AddResponses(ctx context.Context, responses []*http.Response) error {
	ctx, cancel := context.WithTimeout(ctx, authTimeout)
	defer cancel()
	a.mu.Lock()
	defer a.mu.Unlock()
	last := responses[len(responses)-1]
	a.challenge = headOf(last)
	sent := last.Request.Header.Get("Authorization")
	if sent == "" || len(responses) > 1 {
		return a.next.AddResponses(ctx, responses)
	}
	again := headOf(last).Request
	if err := a.next.Authorize(ctx, again); err == nil {
		if now := again.Header.Get("Authorization"); now != "" && now != sent {
			return nil // someone else has refreshed the token since this request was sent
		}
	}
	return a.next.AddResponses(ctx, []*http.Response{refused(last)})
}

// headOf copies what containerd's authorizer looks at.
func headOf(resp *http.Response) *http.Response {
	return &http.Response{
		StatusCode: resp.StatusCode,
		Header:     http.Header{"Www-Authenticate": slices.Clone(resp.Header.Values("WWW-Authenticate"))},
		Request:    &http.Request{Method: resp.Request.Method, URL: resp.Request.URL, Header: make(http.Header)},
	}
}

// refused is resp with its bearer challenges saying that the token was refused, which makes the authorizer drop it.
func refused(resp *http.Response) *http.Response {
	out := headOf(resp)
	for i, v := range out.Header["Www-Authenticate"] {
		if scheme, _, _ := strings.Cut(v, " "); strings.EqualFold(scheme, "bearer") && !strings.Contains(v, "error=") {
			out.Header["Www-Authenticate"][i] = fmt.Sprintf(`%s,error="invalid_token"`, v)
		}
	}
	return out
}
