package prefetch

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestNamesAreCRIs(t *testing.T) {
	target := digest.FromString("target")
	other := digest.FromString("other")
	for name, tc := range map[string]struct {
		img  Image
		want []string
	}{
		"a short name": {Image{Ref: "nginx"}, []string{"docker.io/library/nginx@" + target.String(), "docker.io/library/nginx:latest"}},
		"a host with a port": {Image{Ref: "h.example.com:5000/a/b:v1"},
			[]string{"h.example.com:5000/a/b@" + target.String(), "h.example.com:5000/a/b:v1"}},
		"a digest": {Image{Ref: "quay.io/a@" + target.String()}, []string{"quay.io/a@" + target.String()}},
		"a tag and a digest": {Image{Ref: "quay.io/a:v1@" + target.String()},
			[]string{"quay.io/a@" + target.String()}},
		"aliases, one of them twice": {Image{Ref: "quay.io/a:v1", Aliases: []string{"b", "quay.io/a:v1", "docker.io/b:latest"}},
			[]string{"quay.io/a@" + target.String(), "quay.io/a:v1", "docker.io/library/b:latest"}},
	} {
		w, err := tc.img.parse()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := w.names(target)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	w, err := Image{Ref: "quay.io/a@" + target.String()}.parse()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.names(other); err == nil {
		t.Error("a registry that answers with another digest is believed")
	}
}

func TestKeysAreStable(t *testing.T) {
	key := Image{Ref: "nginx", Platform: "linux/amd64"}.key()
	for _, same := range []Image{
		{Ref: "docker.io/library/nginx:latest", Platform: "linux/amd64", Pin: true},
		{Ref: "nginx:latest", Platform: "linux/amd64", Aliases: []string{"a"}},
	} {
		if same.key() != key {
			t.Errorf("%+v has another key", same)
		}
	}
	for _, other := range []Image{{Ref: "nginx"}, {Ref: "nginx:1", Platform: "linux/amd64"}, {Ref: "!", Platform: "linux/amd64"}} {
		if other.key() == key {
			t.Errorf("%+v has the same key", other)
		}
	}
}

// blobs is a content.Provider for containerd's own choice.
type blobs map[digest.Digest][]byte

func (b blobs) ReaderAt(_ context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	data, ok := b[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("%s: %w", desc.Digest, errdefs.ErrNotFound)
	}
	return readerAt{strings.NewReader(string(data))}, nil
}

type readerAt struct{ *strings.Reader }

func (readerAt) Close() error { return nil }

func (b blobs) add(t *testing.T, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	b[d.Digest] = data
	return d
}

// TestChooseIsContainerds lets containerd choose from the same indexes.
func TestChooseIsContainerds(t *testing.T) {
	arch := func(p string) *ocispec.Platform {
		parsed, err := platforms.Parse(p)
		if err != nil {
			t.Fatal(err)
		}
		return &parsed
	}
	all := []*ocispec.Platform{
		arch("linux/amd64"), arch("linux/arm64"), arch("linux/arm/v7"), arch("linux/arm/v6"), arch("linux/amd64/v3"),
		arch("linux/386"), {OS: "unknown", Architecture: "unknown"}, nil,
	}
	store := blobs{}
	var descs []ocispec.Descriptor
	for i, p := range all {
		image := ocispec.Image{Author: fmt.Sprint(i)}
		if p != nil {
			image.Platform = *p
		} else {
			image.Platform = *arch("linux/amd64")
		}
		config := store.add(t, ocispec.MediaTypeImageConfig, image)
		d := store.add(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config})
		d.Platform = p
		descs = append(descs, d)
	}
	for _, want := range []string{"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/arm/v6", "linux/amd64/v4", "linux/s390x"} {
		m := platforms.Only(*arch(want))
		for shift := range descs {
			manifests := append(append([]ocispec.Descriptor{}, descs[shift:]...), descs[:shift]...)
			index := store.add(t, ocispec.MediaTypeImageIndex, ocispec.Index{
				MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests,
			})
			theirs, terr := images.Manifest(t.Context(), store, index, m)
			ours, oerr := Choose(manifests, m)
			// Without a platform in the index, containerd looks into the config; we leave that to step 6.
			if terr != nil && oerr == nil && ours.Platform == nil {
				continue
			}
			if (terr == nil) != (oerr == nil) {
				t.Fatalf("%s from %d on: containerd says %v, we %v", want, shift, terr, oerr)
			}
			var got ocispec.Manifest
			if terr == nil && (json.Unmarshal(store[ours.Digest], &got) != nil || got.Config.Digest != theirs.Config.Digest) {
				t.Errorf("%s from %d on: containerd chooses config %s, we %s", want, shift, theirs.Config.Digest, got.Config.Digest)
			}
		}
	}
}

func TestManifestsThatAreNoImages(t *testing.T) {
	layer := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("layer"), Size: 1}
	config := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromString("config"), Size: 1}
	good := ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{layer}}
	if err := checkManifest(good); err != nil {
		t.Errorf("a good one: %v", err)
	}
	for want, change := range map[string]func(*ocispec.Manifest){
		"no layers":        func(m *ocispec.Manifest) { m.Layers = nil },
		"1001 layers":      func(m *ocispec.Manifest) { m.Layers = make([]ocispec.Descriptor, 1001) },
		"size 0":           func(m *ocispec.Manifest) { m.Layers[0].Size = 0 },
		"size -5":          func(m *ocispec.Manifest) { m.Config.Size = -5 },
		"sha256:../../etc": func(m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:../../etc" },
	} {
		m := good
		m.Layers = []ocispec.Descriptor{layer}
		change(&m)
		if err := checkManifest(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestChunksUnderWayAndHalfAsManyFitIntoMemory(t *testing.T) {
	for _, tc := range []struct {
		chunk, memory int64
		parallel      int
		want          int64
	}{
		{8 << 20, 256 << 20, 8, 8 << 20},
		{4 << 20, 192 << 20, 32, 4 << 20},
		{8 << 20, 64 << 20, 8, 85 << 16},
		{8 << 20, 1 << 20, 64, 10922},
		{8 << 20, 8 << 10, 8, smallest},
		{8 << 20, smallest, 64, smallest},
		{100, 256 << 20, 8, smallest},
	} {
		if got := chunkFor(tc.chunk, tc.memory, tc.parallel); got != tc.want {
			t.Errorf("chunks of %d in %d for %d requests: %d, want %d", tc.chunk, tc.memory, tc.parallel, got, tc.want)
		}
	}
}

func TestBudgetGivesBackWhatItTook(t *testing.T) {
	b := newBudget(100_000, 10_000)
	for _, n := range []int64{10_000, 1, 2_500, 2_501, 9_999} {
		for range 20 { // far more than fits, were it not given back
			buf, err := b.get(t.Context(), n)
			if err != nil || int64(len(buf)) != n {
				t.Fatalf("%d bytes: got %d, %v", n, len(buf), err)
			}
			b.put(buf)
		}
	}
	if !b.bytes.TryAcquire(100_000) {
		t.Error("not everything came back")
	}
}

func TestKeyLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k keyLocks
		unlock, err := k.lock(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		other, err := k.lock(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		other()
		ctx, cancel := context.WithCancel(t.Context())
		var waiters sync.WaitGroup
		entered := 0
		waiters.Go(func() {
			if _, err := k.lock(ctx, "a"); err == nil {
				t.Error("a cancelled waiter got the lock")
			}
		})
		waiters.Go(func() {
			unlock, err := k.lock(t.Context(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			entered++
			unlock()
		})
		synctest.Wait()
		if entered != 0 {
			t.Error("two have the lock")
		}
		cancel()
		unlock()
		waiters.Wait()
		if entered != 1 || len(k.held) != 0 {
			t.Errorf("%d entered, %d entries are left", entered, len(k.held))
		}
	})
}

func TestANilProgressIsToldNothing(t *testing.T) {
	var p *Progress
	p.start("a")
	p.phase(Fetching)
	p.layers([]ocispec.Descriptor{{Digest: "a"}})
	p.end(nil)
	if s := p.Snapshot(); s.Phase != Pending {
		t.Errorf("%+v", s)
	}
}
