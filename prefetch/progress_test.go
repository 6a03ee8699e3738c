package prefetch

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestProgressTellsRateAndTimeLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fast := ocispec.Descriptor{Digest: digest.FromString("fast"), Size: 10_000}
		slow := ocispec.Descriptor{Digest: digest.FromString("slow"), Size: 1000}
		var p Progress
		p.start("m")
		p.layers([]ocispec.Descriptor{fast, slow})
		p.phase(Fetching)
		if s := p.Snapshot(); s.Rate != 0 || s.Left != 0 {
			t.Errorf("before the first byte: %+v", s)
		}
		p.came(fast.Digest, 0)
		p.came(slow.Digest, 0)
		for range 20 { // 250 and 25 bytes a second
			time.Sleep(time.Second)
			p.came(fast.Digest, 250)
			p.came(slow.Digest, 25)
		}
		s := p.Snapshot()
		if s.Layers[0].Rate != 250 || s.Layers[0].Left != 20*time.Second || s.Layers[1].Rate != 25 || s.Layers[1].Left != 20*time.Second {
			t.Errorf("the layers: %+v", s.Layers)
		}
		// The first sample of all was taken between those of the layers.
		if s.Rate < 275 || s.Rate > 279 || s.Left != 20*time.Second || s.BytesFetched != 20*275 || s.BytesDone != 20*275 {
			t.Errorf("the image: %+v", s)
		}
		time.Sleep(100 * time.Second) // nothing comes
		if s := p.Snapshot(); s.Layers[1].Rate > 5 || s.Rate > 25 {
			t.Errorf("after a stall: %+v", s)
		}
		p.came(fast.Digest, 1_000_000) // repeats are not more than all
		if s := p.Snapshot(); s.Layers[0].Done != fast.Size || s.Layers[0].Left != 0 {
			t.Errorf("after repeats: %+v", s.Layers[0])
		}
	})
}
