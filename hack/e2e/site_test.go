//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// project is the Harbor project that mirrors the upstream registry: its repositories are below this path.
const project = "dockerhub"

// site is a registry as nodes see it: a proxy of the test's own in front of a registry that is shared.
type site struct {
	*rig.Proxy
	backend backend
	path    string // before the repositories' names; empty for none
	ca      *rig.CA
}

// newSite starts a proxy. change, which may be nil, edits its configuration.
func newSite(t *testing.T, b backend, path string, change func(*rig.ProxyConfig)) *site {
	t.Helper()
	ca := rigtest.CA(t)
	cert, key, err := ca.Issue("127.0.0.1", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	cfg := rig.ProxyConfig{Upstream: b.URL(), UpstreamCA: b.ca.PEM(), CertPEM: cert, KeyPEM: key}
	if change != nil {
		change(&cfg)
	}
	return &site{Proxy: rigtest.Proxy(t, cfg), backend: b, path: path, ca: ca}
}

// newMirror starts a proxy in front of the shared "Harbor".
func newMirror(t *testing.T) *site {
	t.Helper()
	return newSite(t, harbor, project, nil)
}

// newUpstream starts a proxy in front of the shared registry that images name.
func newUpstream(t *testing.T) *site {
	t.Helper()
	return newSite(t, upstream, "", nil)
}

// mirror is the site in a config. Its CA is the bundle of the given name.
func (s *site) mirror(bundle string) config.Mirror {
	return config.Mirror{URL: s.URL(), Path: s.path, TLS: config.TLS{CA: []string{bundle}}, Credentials: "login"}
}

// asked are the requests for images: not those of the agent that only look whether somebody is there.
func (s *site) asked() []rig.Request {
	var out []rig.Request
	for _, r := range s.Requests() {
		if r.Path != "/v2/" {
			out = append(out, r)
		}
	}
	return out
}

// blobs counts the requests for blobs.
func (s *site) blobs() int {
	n := 0
	for _, r := range s.Requests() {
		if strings.Contains(r.Path, "/blobs/") {
			n++
		}
	}
	return n
}

// image is an image in a registry.
type image struct {
	repo, tag string
	digest    string // of its manifest
	id        string // the digest of its config: CRI's image ID
	layers    []v1.Hash
}

// under is the image's name below a registry host.
func (i image) under(host string) string { return host + "/" + i.repo + ":" + i.tag }

// seeds makes every image another.
var seeds atomic.Uint64

// small is an image of a few kilobytes.
func small() rig.ModelSpec { return rig.ModelSpec{GzipLayers: 1, GzipSize: 32 << 10} }

// model is an image with layers that are fetched in several chunks, when memory is as in chunky.
func model() rig.ModelSpec {
	return rig.ModelSpec{RawSize: 5 << 20, ShardSize: 2 << 20, GzipLayers: 2, GzipSize: 1 << 20}
}

// chunky makes chunks of a mebibyte, so that small images have many.
func chunky() config.Prefetch { return config.Prefetch{MaxParallel: 8, Memory: 16 * config.Mi} }

// push puts a new image into the registry behind the site, not through its proxy.
func (s *site) push(t *testing.T, spec rig.ModelSpec) image {
	t.Helper()
	n := seeds.Add(1)
	spec.Seed = n
	img, err := rig.BuildModelImage(spec)
	if err != nil {
		t.Fatal(err)
	}
	return s.pushAs(t, image{repo: "team/model", tag: fmt.Sprintf("v%d", n)}, img)
}

// pushAs puts an image into the registry behind the site under the given name.
func (s *site) pushAs(t *testing.T, as image, img v1.Image) image {
	t.Helper()
	config, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	as.id = config.String()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	as.layers = nil
	for _, l := range layers {
		d, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		as.layers = append(as.layers, d)
	}
	host := s.backend.Host()
	if s.path != "" {
		host += "/" + s.path
	}
	as.digest, err = rig.Push(t.Context(), as.under(host), img,
		rig.PushOptions{CA: s.backend.ca.PEM(), Username: user, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	return as
}

// isBlob tells requests for blobs.
func isBlob(r *http.Request) bool {
	return strings.Contains(r.URL.Path, "/blobs/") && r.Method == http.MethodGet
}

// isManifest tells requests for manifests.
func isManifest(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }
