//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"slices"
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

// otherBlobs are the paths of requests for blobs that the image does not have.
func (s *site) otherBlobs(img image) (paths []string) {
	for _, r := range s.Requests() {
		_, digest, ok := strings.Cut(r.Path, "/blobs/")
		isLayer := slices.ContainsFunc(img.layers, func(l v1.Hash) bool { return l.String() == digest })
		if ok && digest != img.id && !isLayer {
			paths = append(paths, r.Path)
		}
	}
	return paths
}

// image is an image in a registry.
type image struct {
	repo, tag string
	digest    string // of its manifest or index
	id        string // the digest of its config: CRI's image ID
	layers    []v1.Hash
	largest   v1.Hash // of the layers
	size      int64   // of all blobs, each once: config and layers
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
	return s.put(t, build(t, spec), newName())
}

// newName is a name that no other image has.
func newName() image { return image{repo: "team/model", tag: fmt.Sprintf("v%d", seeds.Add(1))} }

// build makes an image that no other test has.
func build(t *testing.T, spec rig.ModelSpec) v1.Image {
	t.Helper()
	spec.Seed = seeds.Add(1)
	img, err := rig.BuildModelImage(spec)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// put puts an image into the registry behind the site under the given name, and returns the name with what the image is.
func (s *site) put(t *testing.T, img v1.Image, as image) image {
	t.Helper()
	as = describe(t, img, as)
	var err error
	if as.digest, err = rig.Push(t.Context(), as.under(s.inside()), img, s.login()); err != nil {
		t.Fatal(err)
	}
	return as
}

// pushIndex puts an index of a new image for this machine and one for another into the registry behind the site.
func (s *site) pushIndex(t *testing.T, spec rig.ModelSpec) image {
	t.Helper()
	ours := build(t, spec)
	spec.Architecture = "s390x"
	as := describe(t, ours, newName())
	var err error
	as.digest, err = rig.PushIndex(t.Context(), as.under(s.inside()), []v1.Image{build(t, spec), ours}, s.login())
	if err != nil {
		t.Fatal(err)
	}
	return as
}

// inside is where the site's repositories are in the registry behind it.
func (s *site) inside() string { return strings.TrimSuffix(s.backend.Host()+"/"+s.path, "/") }

func (s *site) login() rig.PushOptions {
	return rig.PushOptions{CA: s.backend.ca.PEM(), Username: user, Password: password}
}

// describe fills in what an image is.
func describe(t *testing.T, img v1.Image, as image) image {
	t.Helper()
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	as.id, as.layers, as.size = id.String(), nil, int64(len(raw))
	var most int64
	for _, l := range layers {
		d, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		size, err := l.Size()
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(as.layers, d) {
			as.size += size
		}
		if size > most {
			as.largest, most = d, size
		}
		as.layers = append(as.layers, d)
	}
	return as
}

// isBlob tells requests for blobs.
func isBlob(r *http.Request) bool {
	return strings.Contains(r.URL.Path, "/blobs/") && r.Method == http.MethodGet
}

// isManifest tells requests for manifests.
func isManifest(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }
