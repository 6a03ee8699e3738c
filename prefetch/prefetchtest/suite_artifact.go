package prefetchtest

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// checkArtifact checks a Result against an artifact, and that Check says the same without a registry.
func checkArtifact(t *testing.T, p *prefetch.Prefetcher, want prefetch.Image, img *Image, res prefetch.Result) {
	t.Helper()
	for range 2 {
		if res.Digest != img.Manifest.Digest.String() || res.ConfigDigest != res.Digest || res.Mountable || res.ChainID != "" ||
			res.Pinned != want.Pin || len(res.Names) < 2 {
			t.Errorf("result: %+v", res)
		}
		if !strings.Contains(res.Note, "present, not mountable") || !strings.Contains(res.Note, ArtifactType) {
			t.Errorf("the note is %q", res.Note)
		}
		var ok bool
		var err error
		if res, ok, err = p.Check(t.Context(), want, res.Digest); !ok || err != nil {
			t.Fatalf("Check says %v, %v: %s", ok, err, res.Note)
		}
	}
}

func hasPin(t *testing.T, p *prefetch.Prefetcher, id digest.Digest) bool {
	t.Helper()
	pins, err := p.Pins(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(pins, func(pin prefetch.Pin) bool { return pin.ImageID == id })
}

func testArtifact(t *testing.T, store prefetch.Store) {
	reg := NewRegistry(t)
	img := BuildArtifact(t, 20, layerSize, 1000, layerSize)
	want := prefetch.Image{Ref: reg.Push(img, "models/artifact", "v1"), Aliases: []string{"example.com/weights:v1"}}
	p := NewPrefetcher(t, store, Hosts(reg))
	res, err := p.Ensure(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkArtifact(t, p, want, img, res)
	if all := img.Size() + img.Manifest.Size + img.Config.Size; res.BytesFetched != all {
		t.Errorf("%d bytes were fetched for %d", res.BytesFetched, all)
	}
	want.Pin = true
	reg.Close()
	if res, err = p.Ensure(t.Context(), want, nil); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(res.Note, "whether the tag has moved") || !hasPin(t, p, img.Manifest.Digest) {
		t.Errorf("with the registry gone: %+v", res)
	}
	checkArtifact(t, p, want, img, res)
	if err := p.Unpin(t.Context(), res.ConfigDigest); err != nil || hasPin(t, p, img.Manifest.Digest) {
		t.Errorf("still pinned: %v", err)
	}
	if res, ok, err := p.Check(t.Context(), want, ""); ok || err != nil || !strings.Contains(res.Note, "not pinned") {
		t.Errorf("not pinned any more: %v, %v: %s", ok, err, res.Note)
	}
	for range 2 {
		if err := p.Remove(t.Context(), res.ConfigDigest); err != nil {
			t.Fatal(err)
		}
	}
	if _, err = p.Ensure(t.Context(), want, nil); err == nil {
		t.Error("what was removed is there still")
	}
}

func testMovedArtifact(t *testing.T, store prefetch.Store) {
	reg := NewRegistry(t)
	p := NewPrefetcher(t, store, Hosts(reg))
	first, second := BuildArtifact(t, 21, layerSize), BuildArtifact(t, 22, layerSize)
	for _, img := range []*Image{first, second} {
		want := prefetch.Image{Ref: reg.Push(img, "models/moved-artifact", "v1"), Pin: true}
		res, err := p.Ensure(t.Context(), want, nil)
		if err != nil {
			t.Fatal(err)
		}
		checkArtifact(t, p, want, img, res)
	}
	for _, img := range []*Image{first, second} {
		if !hasPin(t, p, img.Manifest.Digest) {
			t.Errorf("%s is not pinned", img.Manifest.Digest)
		}
		if err := p.Remove(t.Context(), img.Manifest.Digest.String()); err != nil {
			t.Fatal(err)
		}
	}
}
