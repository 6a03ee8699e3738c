//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// tokens is a registry that wants a bearer token, as Harbor does: it gives one to who has the login, and forgets it after so
// many answers.
type tokens struct {
	url  string
	life int // answers

	mu      sync.Mutex
	valid   string
	answers int
	given   int // tokens, to whom asked for one
}

func (k *tokens) script(r *http.Request) rig.Fault {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r.URL.Path == "/token" {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			return rig.Answer(http.StatusUnauthorized)
		}
		k.given++
		k.valid = fmt.Sprintf("token-%d", k.given)
		f := rig.Answer(http.StatusOK)
		f.Body = fmt.Appendf(nil, `{"token": %q, "expires_in": 3600}`, k.valid)
		return f
	}
	if k.valid == "" || r.Header.Get("Authorization") != "Bearer "+k.valid {
		return rig.Answer(http.StatusUnauthorized, "WWW-Authenticate",
			fmt.Sprintf("Bearer realm=%q,service=\"rig\"", k.url+"/token"))
	}
	if ranged(r) {
		if k.answers++; k.answers == k.life {
			k.valid = "" // from the next request on
		}
	}
	return rig.Fault{BytesPerSecond: 8 << 20}
}

func TestTokenExpiresInTheMiddle(t *testing.T) {
	forLinesAndWays(t, func(t *testing.T, line string, way config.Way) {
		row := shows(t, line, fmt.Sprintf("hotplate pull, way %s: the registry forgets its token in the middle of a layer: one new "+
			"token for all requests", way))
		ca := rigtest.CA(t)
		cert, key, err := ca.Issue("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		mirror := newSite(t, backend{rigtest.Registry(t, rig.RegistryConfig{CertPEM: cert, KeyPEM: key}), ca}, project, nil)
		img := mirror.put(t, odd(t, rig.ModelSpec{RawSize: 24 << 20, ShardSize: 7 << 20}), newName())
		n := newNode(t, line, nil)
		n.way = way
		n.prepare(mirror)
		k := &tokens{url: mirror.URL(), life: 5}
		mirror.Reset()
		mirror.SetScript(k.script)
		if res := n.pullByHand(img); res.code != 0 {
			t.Fatalf("exit code %d\n%s%s", res.code, res.out, res.err)
		}
		if k.given != 2 {
			t.Errorf("%d tokens were asked for, want one at first and one more", k.given)
		}
		refused := 0
		for _, r := range mirror.Requests() {
			if strings.Contains(r.Path, "/blobs/") && r.Status == http.StatusUnauthorized {
				refused++
			}
		}
		if refused == 0 {
			t.Error("no request for a blob met an expired token")
		}
		row.saw("%d tokens, %d requests refused", k.given, refused)
		n.checkImage(mirror, img, img.under(mirrored), mirrored+"/"+img.repo+"@"+img.digest)
	})
}
