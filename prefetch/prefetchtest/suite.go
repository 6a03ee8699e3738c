package prefetchtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// What the suites use: chunks so small that a few hundred kilobytes are many of them.
const (
	Chunk  = 64 << 10
	Memory = 1 << 20
)

// Configured is a store together with how a Prefetcher is to use it.
type Configured struct {
	prefetch.Store
	Configure func(*prefetch.Config)
	// Forgets is set where a layer that was not finished is fetched anew.
	Forgets bool
}

// NewPrefetcher returns a Prefetcher with small chunks and short patience.
func NewPrefetcher(t testing.TB, store prefetch.Store, hosts docker.RegistryHosts) *prefetch.Prefetcher {
	t.Helper()
	cfg := prefetch.Config{
		Hosts: hosts, Store: store, Log: Logger(t), MaxParallel: 4, Memory: Memory, ChunkSize: Chunk,
		StallTimeout: 500 * time.Millisecond, Tries: 3,
	}
	if c, ok := store.(Configured); ok {
		c.Configure(&cfg)
	}
	p, err := prefetch.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Logger writes to the test's output, as long as the test runs.
func Logger(t testing.TB) *slog.Logger {
	var done atomic.Bool
	t.Cleanup(func() { done.Store(true) })
	return slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		if !done.Load() {
			t.Log(string(bytes.TrimSpace(p)))
		}
		return len(p), nil
	}), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

var _ io.Writer = writerFunc(nil)

// faultCase is one way in which registries misbehave.
type faultCase struct {
	name    string
	scripts []Script // one for each host, in order
	sizes   []int    // of the layers; default: one of many chunks
	// wantErr are parts of the error; empty: the image becomes ready.
	wantErr []string
	// check looks at what the registries were asked.
	check func(t *testing.T, regs []*Registry)
}

// layerSize is larger than a chunk.
const layerSize = 5*Chunk + 1000

func faultCases() []faultCase {
	none := Script(nil)
	return []faultCase{
		{name: "404 on the first mirror goes to the next", scripts: []Script{
			On(Manifests, Status(http.StatusNotFound)), none}},
		{name: "404 for a blob on the first mirror goes to the next", scripts: []Script{
			On(Layers, Status(http.StatusNotFound)), none}},
		{name: "403 and 410 go to the next", scripts: []Script{
			On(Layers, Status(http.StatusForbidden)), On(Layers, Status(http.StatusGone)), none}},
		{name: "412 goes to the next", scripts: []Script{
			On(Layers, Status(http.StatusPreconditionFailed)), none}},
		{name: "404 everywhere names all hosts and what to do", scripts: []Script{
			On(Manifests, Status(http.StatusNotFound)), On(Manifests, Status(http.StatusNotFound))},
			wantErr: []string{"HOST0: 404", "HOST1: 404", "push it there"}},
		{name: "412 everywhere names host and digest", scripts: []Script{
			On(Layers, Status(http.StatusPreconditionFailed))}, wantErr: []string{"HOST0: 412", "sha256:"}},
		{name: "429 with Retry-After is waited for", scripts: []Script{
			On(First(1, Layers), Status(http.StatusTooManyRequests, "Retry-After", "1"))}},
		{name: "429 on a manifest is waited for", scripts: []Script{
			On(First(1, Manifests), Status(http.StatusTooManyRequests, "Retry-After", "1"))}},
		{name: "503 is repeated", scripts: []Script{On(First(1, Layers), Status(http.StatusServiceUnavailable))}},
		{name: "503 for ever is an error that says so", scripts: []Script{
			On(Layers, Status(http.StatusServiceUnavailable))}, wantErr: []string{"HOST0: 503", "sha256:"}},
		{name: "503 for ever on a mirror goes to the next", scripts: []Script{
			On(Layers, Status(http.StatusServiceUnavailable)), none}},
		{name: "a cut body is continued", scripts: []Script{On(Once(Layers), Cut(1000))}, check: noByteTwice},
		{name: "every body cut once is continued", scripts: []Script{On(First(3, Layers), Cut(Chunk/2))}},
		{name: "a body that is always cut at once is an error", scripts: []Script{On(Layers, Cut(0))},
			wantErr: []string{"HOST0", "unexpected EOF"}},
		{name: "a flipped byte is found and the next host asked", scripts: []Script{On(Layers, Flip), none}},
		{name: "a flipped byte everywhere names the hosts and the digest", scripts: []Script{
			On(Layers, Flip), On(Layers, Flip)}, wantErr: []string{"HOST0", "HOST1", "sha256:", "digest"}},
		{name: "a flipped byte in a manifest is found and the next host asked", scripts: []Script{
			On(func(r *http.Request, _ int) bool { return r.Method == http.MethodGet && Manifests(r, 0) }, Flip), none}},
		{name: "a registry without ranges is read in one stream", scripts: []Script{On(Layers, IgnoreRange)},
			sizes: []int{layerSize, layerSize, 100}, check: oneProbeALayer},
		{name: "a registry without ranges whose stream is cut is continued", scripts: []Script{
			func(r *http.Request, n int, a *Answer) {
				IgnoreRange(a)
				if Layers(r, n) && len(a.Body) > Chunk && n == 2 {
					a.Cut = 2 * Chunk
				}
			}}},
		{name: "a registry without ranges and without lengths is read in one stream", scripts: []Script{
			func(r *http.Request, n int, a *Answer) { IgnoreRange(a); a.Chunked = Layers(r, n) }}},
		{name: "ranges that stop being honoured in the middle are no harm", scripts: []Script{
			On(func(r *http.Request, n int) bool { return n > 2 && Layers(r, n) }, IgnoreRange)}},
		{name: "a wrong Content-Range is not trusted", scripts: []Script{On(Layers, ShiftRange)}},
		{name: "a wrong length is not trusted", scripts: []Script{On(Layers, ShortRange)}},
		{name: "another total size is an error of the host", scripts: []Script{On(Layers, OtherTotal), none}},
		{name: "another total size everywhere is an error", scripts: []Script{On(Layers, OtherTotal)},
			wantErr: []string{"HOST0", "the manifest says"}},
		{name: "416 goes to the next", scripts: []Script{
			On(Layers, Status(http.StatusRequestedRangeNotSatisfiable)), none}},
		{name: "a stalled body is continued", scripts: []Script{On(Once(Layers), Stall(1000))}},
		{name: "a body that always stalls is an error", scripts: []Script{On(Layers, Stall(0))},
			wantErr: []string{"HOST0", "no bytes arrived"}, sizes: []int{100}},
		{name: "500 once on every path is repeated", scripts: []Script{
			On(First(1, func(*http.Request, int) bool { return true }), Status(http.StatusInternalServerError))}},
	}
}

// noByteTwice checks that a chunk whose body was cut was asked for from its next byte.
func noByteTwice(t *testing.T, regs []*Registry) {
	t.Helper()
	seen := map[string]bool{}
	for _, r := range regs[0].Requests() {
		if r.Range != "" && seen[r.Path+r.Range] {
			t.Errorf("%s was asked for twice", r.Range)
		}
		seen[r.Path+r.Range] = true
	}
}

// oneProbeALayer checks that a registry without ranges was not asked for all of them first.
func oneProbeALayer(t *testing.T, regs []*Registry) {
	t.Helper()
	probes := map[string]int{}
	for _, r := range regs[0].Requests() {
		if r.Range != "" {
			probes[r.Path]++
		}
	}
	for path, n := range probes {
		if n > 1 {
			t.Errorf("%d ranges of %s were asked for", n, path)
		}
	}
}

// TestPrefetch shows that images become ready in a store, whatever registries do, and that failures leave what they
// should. newStore may return the same store each time: every case has its own image. remove removes the image with this
// ID from that store and what no other image holds, as the kubelet's garbage collection does.
func TestPrefetch(t *testing.T, newStore func(testing.TB) prefetch.Store,
	remove func(t testing.TB, store prefetch.Store, id digest.Digest)) {
	for i, c := range faultCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if len(c.sizes) == 0 {
				c.sizes = []int{layerSize}
			}
			testFault(t, c, newStore(t), fmt.Sprintf("models/case-%d", i), Build(t, uint64(100+i), c.sizes...))
		})
	}
	t.Run("an image is ready under all its names and asked for once", func(t *testing.T) { testReady(t, newStore(t)) })
	t.Run("an index is kept and one manifest of it fetched", func(t *testing.T) { testIndex(t, newStore(t)) })
	t.Run("a tag that moves is followed", func(t *testing.T) { testMovedTag(t, newStore(t)) })
	t.Run("a cancelled fetch is continued", func(t *testing.T) { testContinue(t, newStore(t)) })
	t.Run("a token that wears out is refreshed", func(t *testing.T) { testTokens(t, newStore(t), true, 300) })
	t.Run("a token that wears out without a word is refreshed", func(t *testing.T) { testTokens(t, newStore(t), false, 301) })
	t.Run("a redirect carries nothing of ours", func(t *testing.T) { testRedirect(t, newStore(t)) })
	t.Run("a host that is down is asked last", func(t *testing.T) { testDown(t, newStore(t)) })
	t.Run("pins are ours to remove", func(t *testing.T) { testPins(t, newStore(t)) })
	t.Run("an image that is there needs no registry", func(t *testing.T) { testNoAnswer(t, newStore(t)) })
	t.Run("an artifact is kept without being an image", func(t *testing.T) { testArtifact(t, newStore(t)) })
	t.Run("an artifact's tag that moves is followed", func(t *testing.T) { testMovedArtifact(t, newStore(t)) })
	t.Run("an image outlives another with the same layers", func(t *testing.T) { testSharedLayers(t, newStore(t), remove) })
}

func testFault(t *testing.T, c faultCase, store prefetch.Store, repository string, img *Image) {
	var regs []*Registry
	var ref string
	for i, s := range c.scripts {
		r := NewRegistry(t)
		r.Script(s)
		if got := r.Push(img, repository, "v1"); i == 0 {
			ref = got
		}
		regs = append(regs, r)
	}
	p := NewPrefetcher(t, store, Hosts(regs...))
	var pr prefetch.Progress
	res, err := p.Ensure(t.Context(), prefetch.Image{Ref: ref, Pin: true}, &pr)
	if len(c.wantErr) == 0 {
		if err != nil {
			t.Fatal(err)
		}
		checkReady(t, p, prefetch.Image{Ref: ref, Pin: true}, img, res)
	} else {
		checkFailed(t, p, ref, err, c.wantErr, regs, &pr)
	}
	if c.check != nil {
		c.check(t, regs)
	}
}

func checkFailed(t *testing.T, p *prefetch.Prefetcher, ref string, err error, parts []string, regs []*Registry,
	pr *prefetch.Progress) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range parts {
		for i, r := range regs {
			part = strings.ReplaceAll(part, "HOST"+string(rune('0'+i)), r.Host())
		}
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error lacks %q:\n%v", part, err)
		}
	}
	if _, ok, cerr := p.Check(t.Context(), prefetch.Image{Ref: ref}, ""); ok || cerr != nil {
		t.Errorf("after a failure Check says %v, %v", ok, cerr)
	}
	if s := pr.Snapshot(); s.Phase != prefetch.Failed || s.Error == "" || s.Ended.IsZero() {
		t.Errorf("progress after a failure: %+v", s)
	}
}

// checkReady checks a Result against the image and the store.
func checkReady(t *testing.T, p *prefetch.Prefetcher, want prefetch.Image, img *Image, res prefetch.Result) {
	t.Helper()
	if res.Digest != img.Manifest.Digest.String() || res.ConfigDigest != img.Config.Digest.String() ||
		res.ChainID != img.ChainID.String() || res.Target() != img.Target.Digest.String() {
		t.Errorf("result of another image: %+v", res)
	}
	if res.Pinned != (want.Pin && res.PinSupported) {
		t.Errorf("Pinned = %v, wanted %v, supported %v", res.Pinned, want.Pin, res.PinSupported)
	}
	got, ok, err := p.Check(t.Context(), want, res.Digest)
	if err != nil || !ok {
		t.Errorf("Check says %v, %v: %s", ok, err, got.Note)
	}
	if !slices.Equal(got.Names, res.Names) {
		t.Errorf("Check knows the names %q, Ensure %q", got.Names, res.Names)
	}
}

func testReady(t *testing.T, store prefetch.Store) {
	reg := NewRegistry(t)
	img := Build(t, 1, layerSize, layerSize, 3000)
	ref := reg.Push(img, "models/ready", "v1")
	p := NewPrefetcher(t, store, Hosts(reg))
	want := prefetch.Image{Ref: ref, Aliases: []string{"example.com/team/ready:stable", "ready"}, Pin: true}
	var pr prefetch.Progress
	res, err := p.Ensure(t.Context(), want, &pr)
	if err != nil {
		t.Fatal(err)
	}
	checkReady(t, p, want, img, res)
	names := []string{
		reg.Host() + "/models/ready@" + img.Target.Digest.String(), ref,
		"example.com/team/ready:stable", "docker.io/library/ready:latest",
	}
	if !slices.Equal(res.Names, names) {
		t.Errorf("names %q, want %q", res.Names, names)
	}
	s := pr.Snapshot()
	if s.Phase != prefetch.Ready || s.BytesDone != img.Size() || s.BytesTotal != img.Size() || len(s.Layers) != 3 {
		t.Errorf("progress: %+v", s)
	}
	if l := s.Layers[0]; l.Host != reg.Host() || l.Phase != prefetch.Ready || l.Done != l.Size {
		t.Errorf("progress of the first layer: %+v", l)
	}
	for _, r := range reg.Requests() {
		if ua := r.Header.Get("User-Agent"); !strings.HasPrefix(ua, "hotplate/") {
			t.Errorf("%s %s has the User-Agent %q", r.Method, r.Path, ua)
		}
	}
	reg.Reset()
	again, err := p.Ensure(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(reg.Requests()); n != 1 || again.BytesFetched != 0 {
		t.Errorf("the second time there were %d requests and %d bytes: %+v", n, again.BytesFetched, reg.Requests())
	}
	reg.Close() // a digest that is there needs no registry at all
	byDigest := prefetch.Image{Ref: names[0], Pin: true}
	if _, err := p.Ensure(t.Context(), byDigest, nil); err != nil {
		t.Errorf("with the registry gone: %v", err)
	}
}

func testIndex(t *testing.T, store prefetch.Store) {
	reg := NewRegistry(t)
	img := BuildIndex(t, 2, layerSize)
	ref := reg.Push(img, "models/index", "v1")
	p := NewPrefetcher(t, store, Hosts(reg))
	want := prefetch.Image{Ref: ref, Pin: true}
	res, err := p.Ensure(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkReady(t, p, want, img, res)
	if res.IndexDigest != img.Target.Digest.String() {
		t.Errorf("index %s, want %s", res.IndexDigest, img.Target.Digest)
	}
	_, err = p.Ensure(t.Context(), prefetch.Image{Ref: ref, Platform: "linux/s390x"}, nil)
	if err == nil || !strings.Contains(err.Error(), "no manifest for this platform") {
		t.Errorf("another platform: %v", err)
	}
}

func testMovedTag(t *testing.T, store prefetch.Store) {
	reg := NewRegistry(t)
	p := NewPrefetcher(t, store, Hosts(reg))
	for _, img := range []*Image{Build(t, 3, layerSize), Build(t, 4, layerSize)} {
		want := prefetch.Image{Ref: reg.Push(img, "models/moved", "v1"), Pin: true}
		res, err := p.Ensure(t.Context(), want, nil)
		if err != nil {
			t.Fatal(err)
		}
		checkReady(t, p, want, img, res)
	}
}

func testNoAnswer(t *testing.T, store prefetch.Store) {
	reg := NewRegistry(t)
	img := Build(t, 12, layerSize)
	want := prefetch.Image{Ref: reg.Push(img, "models/no-answer", "v1")}
	p := NewPrefetcher(t, store, Hosts(reg))
	if _, err := p.Ensure(t.Context(), want, nil); err != nil {
		t.Fatal(err)
	}
	want.Pin = true
	stop := errors.New("the test has seen enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	reg.Script(On(Manifests, func(a *Answer) { cancel(stop); a.Stall = 0 }))
	if _, err := p.Ensure(ctx, want, nil); !errors.Is(err, stop) {
		t.Errorf("cancelled: %v", err)
	}
	for _, c := range []struct {
		why  string
		make func()
	}{
		{"404", func() { reg.Script(On(Manifests, Status(http.StatusNotFound))) }},
		{"403", func() { reg.Script(On(Manifests, Status(http.StatusForbidden))) }},
		{"refused", func() { reg.Close() }},
	} {
		c.make()
		res, err := p.Ensure(t.Context(), want, nil)
		if err != nil {
			t.Errorf("%s: %v", c.why, err)
			continue
		}
		checkReady(t, p, want, img, res)
		if !strings.Contains(res.Note, "whether the tag has moved") || !strings.Contains(res.Note, c.why) {
			t.Errorf("%s: the note is %q", c.why, res.Note)
		}
	}
	want.Aliases = []string{"example.com/team/no-answer:v1"}
	if _, err := p.Ensure(t.Context(), want, nil); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("without one of its names: %v", err)
	}
}

func testSharedLayers(t *testing.T, store prefetch.Store, remove func(testing.TB, prefetch.Store, digest.Digest)) {
	reg := NewRegistry(t)
	p := NewPrefetcher(t, store, Hosts(reg))
	first := Build(t, 10, layerSize, 1000)
	second := first.Reconfigured(t)
	if _, err := p.Ensure(t.Context(), prefetch.Image{Ref: reg.Push(first, "models/shared", "v1")}, nil); err != nil {
		t.Fatal(err)
	}
	reg.Reset()
	want := prefetch.Image{Ref: reg.Push(second, "models/shared", "v2"), Pin: true}
	res, err := p.Ensure(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkReady(t, p, want, second, res)
	for _, r := range reg.Requests() {
		if slices.ContainsFunc(second.Layers, func(l ocispec.Descriptor) bool { return strings.HasSuffix(r.Path, l.Digest.String()) }) {
			t.Errorf("a layer was fetched again: %s", r.Path)
		}
	}
	remove(t, store, first.Config.Digest)
	if _, ok, err := p.Check(t.Context(), prefetch.Image{Ref: reg.Host() + "/models/shared:v1"}, ""); ok || err != nil {
		t.Errorf("the first is still there: %v, %v", ok, err)
	}
	checkReady(t, p, want, second, res)
}

func testContinue(t *testing.T, store prefetch.Store) {
	reg := NewRegistry(t)
	img := Build(t, 5, 20*Chunk)
	want := prefetch.Image{Ref: reg.Push(img, "models/continue", "v1"), Pin: true}
	p := NewPrefetcher(t, store, Hosts(reg))
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("the test has seen enough")
	late := func(r *http.Request, n int) bool { return Blob(img.Layers[0].Digest.String())(r, n) && n > 14 }
	reg.Script(On(late, func(a *Answer) { cancel(stop); a.Stall = 0 }))
	if _, err := p.Ensure(ctx, want, nil); !errors.Is(err, stop) {
		t.Fatalf("the first time: %v", err)
	}
	reg.Script(nil)
	reg.Reset()
	res, err := p.Ensure(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkReady(t, p, want, img, res)
	if c, ok := store.(Configured); res.BytesFetched >= img.Size() && (!ok || !c.Forgets) {
		t.Errorf("%d of %d bytes were fetched again", res.BytesFetched, img.Size())
	}
}

func testTokens(t *testing.T, store prefetch.Store, explain bool, seed uint64) {
	reg := NewRegistry(t)
	reg.RequireTokens(30, explain) // of more than 40: the second token cannot wear out before a request is repeated
	img := Build(t, seed, 40*Chunk)
	want := prefetch.Image{Ref: reg.Push(img, "models/tokens", "v1"), Pin: true}
	p := NewPrefetcher(t, store, Hosts(reg))
	res, err := p.Ensure(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkReady(t, p, want, img, res)
	// 3 requests for metadata and 41 or so for chunks: each token is good for 30.
	if n := reg.TokensIssued(); n < 2 || n > 8 {
		t.Errorf("%d tokens were asked for", n)
	}
}

func testRedirect(t *testing.T, store prefetch.Store) {
	reg, elsewhere := NewRegistry(t), NewRegistry(t)
	reg.RequireTokens(1000, true)
	img := Build(t, 6, layerSize)
	want := prefetch.Image{Ref: reg.Push(img, "models/redirect", "v1"), Pin: true}
	elsewhere.Push(img, "models/redirect", "v1")
	reg.Script(func(r *http.Request, n int, a *Answer) {
		if Blobs(r, n) && a.Status/100 == 2 {
			Redirect(elsewhere.URL() + r.URL.Path + "?X-Signature=very-secret")(a)
		}
	})
	hosts := func(string) ([]docker.RegistryHost, error) {
		h := reg.RegistryHost()
		h.Header = http.Header{"X-Registry-Key": {"key"}}
		return []docker.RegistryHost{h}, nil
	}
	p := NewPrefetcher(t, store, hosts)
	res, err := p.Ensure(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkReady(t, p, want, img, res)
	if len(elsewhere.Requests()) == 0 {
		t.Error("the redirect was not followed")
	}
	for _, r := range elsewhere.Requests() {
		for _, k := range []string{"Authorization", "X-Registry-Key", "Referer"} {
			if v := r.Header.Get(k); v != "" {
				t.Errorf("%s %q went to another host", k, v)
			}
		}
	}
	elsewhere.Script(On(Blobs, Status(http.StatusForbidden)))
	img2 := Build(t, 7, layerSize)
	want2 := prefetch.Image{Ref: reg.Push(img2, "models/redirect", "v2")}
	if _, err = p.Ensure(t.Context(), want2, nil); err == nil || strings.Contains(err.Error(), "very-secret") {
		t.Errorf("the error is to be there and to keep the signature to itself: %v", err)
	}
}

func testDown(t *testing.T, store prefetch.Store) {
	reg := NewRegistry(t)
	img := Build(t, 8, layerSize, 1000, 1000)
	want := prefetch.Image{Ref: reg.Push(img, "models/down", "v1"), Pin: true}
	dead := reg.RegistryHost()
	dead.Host = UnusedHost(t)
	p := NewPrefetcher(t, store, func(string) ([]docker.RegistryHost, error) {
		return []docker.RegistryHost{dead, reg.RegistryHost()}, nil
	})
	res, err := p.Ensure(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkReady(t, p, want, img, res)
}

func testPins(t *testing.T, store prefetch.Store) {
	reg := NewRegistry(t)
	img := Build(t, 9, 1000)
	want := prefetch.Image{Ref: reg.Push(img, "models/pins", "v1")}
	p := NewPrefetcher(t, store, Hosts(reg))
	pinned := func() bool {
		pins, err := p.Pins(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(pins, func(pin prefetch.Pin) bool { return pin.ImageID == img.Config.Digest })
	}
	res, err := p.Ensure(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.Pinned || pinned() {
		t.Error("pinned without being asked")
	}
	want.Pin = true
	if res, err = p.Ensure(t.Context(), want, nil); err != nil {
		t.Fatal(err)
	}
	if !res.PinSupported {
		if res.Note == "" {
			t.Error("no note that pins are not supported")
		}
		return
	}
	if !res.Pinned || !pinned() {
		t.Error("not pinned")
	}
	if err := p.Unpin(t.Context(), res.ConfigDigest); err != nil {
		t.Fatal(err)
	}
	if pinned() {
		t.Error("still pinned")
	}
}
