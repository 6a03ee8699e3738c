package prefetch

import (
	"fmt"
	"slices"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// pace measures, for one image, where the time went.
type pace struct {
	mu     sync.Mutex
	start  time.Time
	last   time.Time     // when the last byte came from the network; guarded by mu, as is the rest
	held   time.Duration // in which the registry had asked to be left alone
	until  time.Time     // when the last such time ends
	layers []laidOut
}

// laidOut is what laying out one layer took.
type laidOut struct {
	desc   ocispec.Descriptor
	size   int64
	busy   time.Duration // decompressing and writing
	waited time.Duration // for bytes
	end    time.Time
}

func (p *pace) began() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.start = time.Now()
}

func (p *pace) came() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = time.Now()
}

func (p *pace) unpacked(desc ocispec.Descriptor, size int64, busy, waited time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.layers = append(p.layers, laidOut{desc, size, busy, waited, time.Now()})
}

// heldBack says that the registry wants to be left alone for d from now on.
func (p *pace) heldBack(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	from, until := time.Now(), time.Now().Add(d)
	if from.Before(p.until) {
		from = p.until
	}
	if until.After(from) {
		p.held += until.Sub(from)
		p.until = until
	}
}

// mostly is the share of the time from which on something counts as what held the pull back.
const mostly = 0.5

// adviceFrom is how long a pull must have taken for advice to be worth reading.
const adviceFrom = 5 * time.Second

const (
	ofNetwork = "the registry or the way to it was the limit: a mirror that is nearer would help, or fewer bytes, as with zstd"
	ofDisk    = "the disk was the limit: a faster one for containerd's root would help, or keepLayers: Never, which writes less"
)

// verdict is what held the pull back, and what would help, if it took long enough to care.
func (p *pace) verdict(end time.Time, stack []stacked) (Bound, []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	bound, advice := p.judge(end, stack)
	if advice == "" || end.Sub(p.start) < adviceFrom {
		return bound, nil
	}
	return bound, []string{advice}
}

// judge says what held the pull back, and what would help. The layer that was ready last decides: when it waited for
// bytes, the network was too slow; when it was busy itself and is compressed, no second core can help it; otherwise it
// is the disk that the bytes waited for. Of layers that containerd unpacks nothing is known but when their bytes had come.
//
// The caller holds mu.
func (p *pace) judge(end time.Time, stack []stacked) (Bound, string) {
	total := end.Sub(p.start)
	switch {
	case p.start.IsZero() || p.last.IsZero():
		return BoundNothing, ""
	case float64(p.held) > mostly*float64(total):
		return BoundRegistry, "the registry limits how often it may be asked: raise its limit, or prefetch from a mirror"
	case len(p.layers) == 0 && len(stack) > 0 && float64(end.Sub(p.last)) > mostly*float64(total):
		return BoundDisk, "containerd unpacks one layer after the other: the direct way would be faster" + largeStream(stack)
	case len(p.layers) == 0:
		return BoundNetwork, ofNetwork
	}
	slow := p.layers[0]
	for _, l := range p.layers[1:] {
		if l.end.After(slow.end) {
			slow = l
		}
	}
	kind := compression(slow.desc)
	switch {
	case slow.busy < slow.waited:
		return BoundNetwork, ofNetwork
	case kind == "" || float64(slow.busy) < mostly*float64(total):
		return BoundDisk, ofDisk
	}
	better := "repack it as zstd or uncompressed, or split it into several layers"
	if kind == "zstd" {
		better = "repack it uncompressed, or split it into several layers"
	}
	i := slices.IndexFunc(stack, func(l stacked) bool { return l.desc.Digest == slow.desc.Digest })
	return BoundStream, fmt.Sprintf("layer %d is one %s %s stream, which took a core %s to unpack: %s",
		i+1, gigabytes(slow.desc.Size), kind, slow.busy.Round(100*time.Millisecond), better)
}

// largeStream names the compressed layer that has most of an image's bytes, if one has: only one core can unpack it.
func largeStream(stack []stacked) string {
	total := int64(0)
	for _, l := range stack {
		total += l.desc.Size
	}
	for i, l := range stack {
		if kind := compression(l.desc); kind != "" && float64(l.desc.Size) > mostly*float64(total) {
			return fmt.Sprintf("; and layer %d is one %s %s stream: repack it uncompressed, or split it into several layers", i+1,
				gigabytes(l.desc.Size), kind)
		}
	}
	return ""
}
