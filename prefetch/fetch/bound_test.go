package fetch_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"

	"github.com/hotplate-dev/hotplate/prefetch/fetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

// tokens matches requests for tokens.
func tokens(r *http.Request, _ int) bool { return r.URL.Path == "/token" }

// TestATokenReplyThatIsTooLongIsCut with clients in all the forms in which ConfigureHosts makes them.
func TestATokenReplyThatIsTooLongIsCut(t *testing.T) {
	long := []byte(`{"access_token":"` + strings.Repeat("x", 2<<20) + `"}`)
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(long); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	reg := prefetchtest.NewRegistry(t)
	reg.Push(prefetchtest.Build(t, 12, 10), "a", "v1")
	reg.RequireTokens(1000, true)
	login := func(_, _ string) (string, string, error) { return prefetchtest.User, prefetchtest.Password, nil }
	for name, tc := range map[string]struct {
		toml, encoding string
		body           []byte
		login          func(registry, host string) (user, secret string, err error)
	}{
		"as it is":             {body: long},
		"with a login":         {body: long, login: login},
		"inflated":             {body: packed.Bytes(), encoding: "gzip"},
		"a header in the TOML": {body: long, toml: "[header]\nX-Key = \"one\"\n"},
		"first tried with TLS": {body: long, toml: "skip_verify = true\n"},
	} {
		t.Run(name, func(t *testing.T) {
			reg.Reset()
			reg.Script(prefetchtest.On(tokens, func(a *prefetchtest.Answer) {
				prefetchtest.Status(http.StatusOK, "Content-Encoding", tc.encoding)(a)
				a.Body = tc.body
			}))
			dir := hostsDir(t, "registry.example.com", fmt.Sprintf("server = %q\n%s", reg.URL(), tc.toml), nil)
			_, _, err := repository(t, fetch.Hosts(dir, "test/1", tc.login), "registry.example.com/a:v1").Resolve(t.Context())
			if err == nil || !strings.Contains(err.Error(), "the token server's reply is longer than 1048576 bytes") {
				t.Error(err)
			}
			if n := asked(reg, "/token"); n != 1 {
				t.Errorf("the token server was asked %d times", n)
			}
		})
	}
}

// asked is how many requests there were for a path.
func asked(reg *prefetchtest.Registry, path string) (n int) {
	for _, r := range reg.Requests() {
		if r.Path == path {
			n++
		}
	}
	return n
}

// TestAManifestThatNeverEndsIsCut where it has to be read for what its head does not tell.
func TestAManifestThatNeverEndsIsCut(t *testing.T) {
	reg := prefetchtest.NewRegistry(t)
	ref := reg.Push(prefetchtest.Build(t, 13, 10), "a", "v1")
	for name, header := range map[string]string{"no digest": "Docker-Content-Digest", "no length": "None"} {
		t.Run(name, func(t *testing.T) {
			reg.Script(prefetchtest.On(prefetchtest.Manifests, func(a *prefetchtest.Answer) {
				a.Header.Del(header)
				a.Body, a.Stall, a.Chunked = make([]byte, docker.MaxManifestSize+2), int(docker.MaxManifestSize+1), true
			}))
			_, _, err := repository(t, prefetchtest.Hosts(reg), ref).Resolve(t.Context())
			if want := fmt.Sprintf("the manifest is longer than %d bytes", docker.MaxManifestSize); err == nil ||
				!strings.Contains(err.Error(), want) {
				t.Errorf("%v, want that %s", err, want)
			}
		})
	}
}
