package prefetchtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Fault changes an answer.
type Fault func(*Answer)

// On makes a script of faults: f is applied to requests that match.
func On(match func(r *http.Request, n int) bool, f Fault) Script {
	return func(r *http.Request, n int, a *Answer) {
		if match(r, n) {
			f(a)
		}
	}
}

// Blobs matches requests for the content of blobs, not of manifests.
func Blobs(r *http.Request, _ int) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/")
}

// Manifests matches requests for manifests and tags.
func Manifests(r *http.Request, _ int) bool { return strings.Contains(r.URL.Path, "/manifests/") }

// Layers matches requests for the content of layers.
func Layers(r *http.Request, n int) bool {
	return Blobs(r, n) && strings.Contains(r.Header.Get("Accept"), "layer")
}

// Blob matches requests for the content of one blob.
func Blob(digest string) func(*http.Request, int) bool {
	return func(r *http.Request, n int) bool { return Blobs(r, n) && strings.HasSuffix(r.URL.Path, "/"+digest) }
}

// First matches the first k requests of each path that match.
func First(k int, match func(*http.Request, int) bool) func(*http.Request, int) bool {
	return func(r *http.Request, n int) bool { return n <= k && match(r, n) }
}

// Once matches the first request in all that matches.
func Once(match func(*http.Request, int) bool) func(*http.Request, int) bool {
	var mu sync.Mutex
	done := false
	return func(r *http.Request, n int) bool {
		mu.Lock()
		defer mu.Unlock()
		if done || !match(r, n) {
			return false
		}
		done = true
		return true
	}
}

// Status answers with a status, and headers in pairs.
func Status(code int, headers ...string) Fault {
	return func(a *Answer) {
		*a = *newAnswer(code, nil)
		for pair := range slices.Chunk(headers, 2) {
			a.Header.Set(pair[0], pair[1])
		}
	}
}

// Redirect sends the client elsewhere.
func Redirect(to string) Fault { return Status(http.StatusTemporaryRedirect, "Location", to) }

// Cut breaks the connection after n bytes of the body.
func Cut(n int) Fault { return func(a *Answer) { a.Cut = n } }

// Stall sends n bytes of the body and then nothing more.
func Stall(n int) Fault { return func(a *Answer) { a.Stall = n } }

// Flip changes the last byte of the body.
func Flip(a *Answer) {
	if len(a.Body) > 0 {
		a.Body = slices.Clone(a.Body)
		a.Body[len(a.Body)-1] ^= 1
	}
}

// IgnoreRange answers with the whole blob, whatever was asked.
func IgnoreRange(a *Answer) {
	if a.Status == http.StatusPartialContent {
		a.Status, a.Body = http.StatusOK, a.Blob
		a.Header.Del("Content-Range")
	}
}

// ShiftRange answers with 206 and a range that begins one byte later.
func ShiftRange(a *Answer) {
	var first, last, total int
	if _, err := fmt.Sscanf(a.Header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &total); err == nil {
		a.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first+1, last, total))
		a.Body = a.Body[1:]
	}
}

// ShortRange answers with 206, the right Content-Range, and one byte less.
func ShortRange(a *Answer) {
	if a.Status == http.StatusPartialContent {
		a.Body = a.Body[:len(a.Body)-1]
	}
}

// OtherTotal answers with a Content-Range, or a whole, of another size.
func OtherTotal(a *Answer) {
	if cr := a.Header.Get("Content-Range"); cr != "" {
		span, total, _ := strings.Cut(cr, "/")
		n, _ := strconv.Atoi(total) // our own digits
		a.Header.Set("Content-Range", fmt.Sprintf("%s/%d", span, n+1))
		return
	}
	a.Body = append(slices.Clone(a.Body), 0)
}

// The login that a registry with tokens wants, and that RegistryHost has.
const (
	User     = "robot"
	Password = "not-a-secret"
)

// tokens guards a registry with bearer tokens that wear out.
type tokens struct {
	uses    int
	explain bool

	issued int
	left   map[string]int
}

// RequireTokens makes the registry want a bearer token, which it gives to User and Password and which is good for that many
// requests. With explain, it says error="invalid_token" when one is worn out, as distribution does; without, it says
// nothing, as others do.
func (r *Registry) RequireTokens(uses int, explain bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth = &tokens{uses: uses, explain: explain, left: make(map[string]int)}
}

// TokensIssued is how many tokens were given out.
func (r *Registry) TokensIssued() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.auth == nil {
		return 0
	}
	return r.auth.issued
}

// check returns the answer to a request that goes no further; nil lets it pass. The caller holds Registry.mu.
func (k *tokens) check(req *http.Request, base string) *Answer {
	if req.URL.Path == "/token" {
		return k.issue(req)
	}
	token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	if ok && k.left[token] > 0 {
		k.left[token]--
		return nil
	}
	challenge := fmt.Sprintf(`Bearer realm="%s/token",service="test",scope="repository:x:pull"`, base)
	if ok && k.explain {
		challenge += `,error="invalid_token"`
	}
	a := newAnswer(http.StatusUnauthorized, nil)
	a.Header.Set("WWW-Authenticate", challenge)
	return a
}

func (k *tokens) issue(req *http.Request) *Answer {
	user, password, _ := req.BasicAuth()
	if req.Method == http.MethodPost {
		user, password = req.PostFormValue("username"), req.PostFormValue("password")
	}
	if user != User || password != Password {
		return newAnswer(http.StatusUnauthorized, nil)
	}
	k.issued++
	token := fmt.Sprintf("token-%d", k.issued)
	k.left[token] = k.uses
	body, err := json.Marshal(map[string]any{"access_token": token, "token": token, "expires_in": 3600})
	if err != nil {
		return newAnswer(http.StatusInternalServerError, nil)
	}
	return newAnswer(http.StatusOK, body)
}

// ExtendTokens makes tokens issued from now on good for another number of requests.
func (r *Registry) ExtendTokens(uses int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth.uses = uses
}
