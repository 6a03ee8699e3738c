package prefetch

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestVerdict(t *testing.T) {
	gzip := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("a"), Size: 41e9}
	zstd := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerZstd, Digest: digest.FromString("b"), Size: 41e9}
	raw := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("c"), Size: 41e9}
	stack := []stacked{{desc: raw}, {desc: gzip}, {desc: zstd}}
	for name, c := range map[string]struct {
		happens func(p *pace)
		want    Bound
		advice  string
	}{
		"nothing was fetched": {func(*pace) {}, BoundNothing, ""},
		"the last layer waited for bytes": {func(p *pace) {
			time.Sleep(10 * time.Second)
			p.came()
			p.unpacked(gzip, 41e9, 2*time.Second, 8*time.Second)
		}, BoundNetwork, "a mirror that is nearer"},
		"it did not take long": {func(p *pace) {
			time.Sleep(adviceFrom - time.Second)
			p.came()
			p.unpacked(gzip, 41e9, time.Second, 2*time.Second)
		}, BoundNetwork, ""},
		"one gzip stream": {func(p *pace) {
			p.came()
			time.Sleep(10 * time.Second)
			p.unpacked(raw, 41e9, time.Second, 9*time.Second)
			time.Sleep(time.Second)
			p.unpacked(gzip, 41e9, 9*time.Second, time.Second)
		}, BoundStream, "layer 2 is one 41.0 GB gzip stream, which took a core 9s to unpack: repack it as zstd"},
		"one zstd stream": {func(p *pace) {
			p.came()
			time.Sleep(10 * time.Second)
			p.unpacked(zstd, 41e9, 9*time.Second, time.Second)
		}, BoundStream, "layer 3 is one 41.0 GB zstd stream, which took a core 9s to unpack: repack it uncompressed"},
		"an uncompressed layer that did not wait for bytes": {func(p *pace) {
			p.came()
			time.Sleep(10 * time.Second)
			p.unpacked(raw, 41e9, 9*time.Second, time.Second)
		}, BoundDisk, "keepLayers: Never"},
		"many layers, none of them long": {func(p *pace) {
			p.came()
			for range 5 {
				time.Sleep(2 * time.Second)
				p.unpacked(gzip, 1e9, 2*time.Second, 0)
			}
		}, BoundDisk, "the disk was the limit"},
		"a registry that wants to be left alone, said by many at once": {func(p *pace) {
			for range 32 {
				p.heldBack(6 * time.Second)
			}
			time.Sleep(10 * time.Second)
			p.came()
			p.unpacked(raw, 41e9, time.Second, 9*time.Second)
		}, BoundRegistry, "raise its limit"},
		"a registry that wanted to be left alone for a moment": {func(p *pace) {
			for range 32 {
				p.heldBack(time.Second)
			}
			time.Sleep(10 * time.Second)
			p.came()
			p.unpacked(raw, 41e9, time.Second, 9*time.Second)
		}, BoundNetwork, "the way to it"},
		"containerd unpacked": {func(p *pace) {
			p.came()
			time.Sleep(10 * time.Second)
		}, BoundDisk, "direct way"},
		"containerd waited": {func(p *pace) {
			time.Sleep(10 * time.Second)
			p.came()
		}, BoundNetwork, "a mirror that is nearer"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p pace
				p.began()
				c.happens(&p)
				bound, advice := p.verdict(time.Now(), stack)
				if text := strings.Join(advice, "\n"); bound != c.want || !strings.Contains(text, c.advice) || (c.advice == "") != (text == "") {
					t.Errorf("%q, %q", bound, text)
				}
			})
		})
	}
}

// TestLargeStream: of what containerd unpacks one layer may have most of the bytes.
func TestLargeStream(t *testing.T) {
	layer := func(mediaType string, size int64) stacked {
		return stacked{desc: ocispec.Descriptor{MediaType: mediaType, Size: size}}
	}
	for want, stack := range map[string][]stacked{
		"layer 2 is one 41.0 GB gzip stream": {layer(ocispec.MediaTypeImageLayerGzip, 1e9), layer(ocispec.MediaTypeImageLayerGzip, 41e9)},
		"":                                   {layer(ocispec.MediaTypeImageLayer, 41e9), layer(ocispec.MediaTypeImageLayerGzip, 1e9)},
	} {
		if got := largeStream(stack); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestRatiosAreLearnt(t *testing.T) {
	gzip := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Size: 1000}
	var r ratios
	if got := r.unpacked(gzip); got != 2200 {
		t.Errorf("before any is known: %d", got)
	}
	r.learn(gzip, 50_000)
	if got := r.unpacked(gzip); got < 2200 || got > 2201 {
		t.Errorf("after a tiny one, which says little: %d", got)
	}
	large := gzip
	large.Size = 100 << 30
	r.learn(large, 130<<30)
	r.learn(large, 150<<30)
	if got := r.unpacked(gzip); got < 1400 || got > 1410 {
		t.Errorf("after 1.3 and 1.5: %d", got)
	}
	docker := ocispec.Descriptor{MediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip", Size: 1000}
	if got := r.unpacked(docker); got < 1400 || got > 1410 {
		t.Errorf("Docker's gzip: %d", got)
	}
	if got := r.unpacked(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Size: 1000}); got != 1000 {
		t.Errorf("a plain tar: %d", got)
	}
	if got := r.unpacked(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerZstd, Size: 1000}); got != 2200 {
		t.Errorf("zstd, of which nothing is known: %d", got)
	}
}
