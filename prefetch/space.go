package prefetch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrNoSpace is returned by Ensure for an image that does not fit on the disk, or no longer does.
var ErrNoSpace = errors.New("not enough room on the disk")

// DefaultReserve is the share of a filesystem at which the kubelet begins to evict (imagefs.available<15%).
const DefaultReserve = 0.15

// assumedRatio is how much larger than its blob a compressed layer is taken to be before any has been measured. A wrong
// guess is found out while it is laid out: then the work ends before the reserve is touched.
const assumedRatio = 2.2

// assumedBytes is how many bytes of blobs that assumption weighs as much as: the layers of an image that are ready first are
// small ones, and a few small files in a tar, which is padded, shrink to a fiftieth.
const assumedBytes = 1 << 30

// ratios learns how much larger layers are than their blobs, by how they are compressed.
type ratios struct {
	mu    sync.Mutex
	blobs map[string]int64 // bytes of blobs seen, by compression; guarded by mu
	trees map[string]int64 // bytes that came out of them; guarded by mu
}

func (r *ratios) learn(desc ocispec.Descriptor, size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.blobs == nil {
		r.blobs, r.trees = make(map[string]int64), make(map[string]int64)
	}
	kind := compression(desc)
	r.blobs[kind] += desc.Size
	r.trees[kind] += size
}

// unpacked guesses how large the layer is when it is laid out, in bytes.
func (r *ratios) unpacked(desc ocispec.Descriptor) int64 {
	kind := compression(desc)
	if kind == "" {
		return desc.Size
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	ratio := (float64(r.trees[kind]) + assumedRatio*assumedBytes) / (float64(r.blobs[kind]) + assumedBytes)
	return int64(ratio * float64(desc.Size))
}

// compression is how a layer is compressed, or empty if it is not.
func compression(desc ocispec.Descriptor) string {
	kind, err := images.DiffCompression(context.Background(), desc.MediaType)
	if err != nil || kind == "unknown" { // Docker's media types do not say; gzip is what they mean
		return "gzip"
	}
	return kind
}

// room keeps several images from counting on the same free bytes, and on the same bytes that may be pinned.
type room struct {
	mu     sync.Mutex
	claims map[*run]*claim // guarded by mu
	pins   map[*run]Pin    // of images that are to be pinned; guarded by mu
}

// leave gives back what r has claimed.
func (m *room) leave(r *run) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.claims, r)
	delete(m.pins, r)
}

// claim is what an image that is under way takes.
type claim struct {
	needs []need
	left  func() (blobs, trees float64) // which shares of it have not come yet, and so are free still
}

// claimed is what others still take of a filesystem. The caller holds mu.
func (m *room) claimed(device uint64) (bytes int64) {
	for _, c := range m.claims {
		blobs, trees := c.left()
		for _, n := range c.needs {
			if n.volume.Device == device {
				bytes += int64(float64(n.blobs)*blobs + float64(n.trees)*trees)
			}
		}
	}
	return bytes
}

// need is what an image takes on one filesystem: bytes of compressed blobs, and of what is unpacked.
type need struct {
	volume       Volume
	blobs, trees int64
	what         string
}

func (n need) bytes() int64 { return n.blobs + n.trees }

// staging is the filesystem of partial blobs where that is another one than the store's: with the API way, they stand beside
// our state.
func (r *run) staging(space Space) Volume {
	if r.way.Name != API || r.p.cfg.Staging == "" {
		return Volume{}
	}
	v := r.p.volumeOf(r.p.cfg.Staging)
	if v.Device == space.Content.Device || v.Device == space.Snapshots.Device {
		return Volume{}
	}
	return v
}

// needs tells what blobs and the unpacked layers take, by filesystem, beside what of the blobs is staged already. In the API way
// the blobs are there twice for a while if they are staged; the second copy goes blob by blob and is left out, where it is on the
// same filesystem.
func (r *run) needs(space Space, kept []ocispec.Descriptor, unpacked []stacked) []need {
	var blobs, trees int64
	for _, l := range unpacked {
		trees += r.p.ratios.unpacked(l.desc)
	}
	for _, k := range kept {
		blobs += k.Size
	}
	missing := max(0, blobs-r.staged(kept))
	apart := r.staging(space)
	staged := need{apart, missing, 0, gigabytes(missing) + " of compressed layers until containerd has them"}
	if apart.Path == "" {
		blobs = missing // what is staged has its place in the store already
	}
	content := need{space.Content, blobs, 0, gigabytes(blobs) + " of compressed layers"}
	snapshots := need{space.Snapshots, 0, trees, "about " + gigabytes(trees) + " of unpacked ones"}
	if space.Content.Device == space.Snapshots.Device {
		snapshots.blobs = blobs
		if blobs > 0 {
			snapshots.what = content.what + " and " + snapshots.what
		}
		return []need{snapshots, staged}
	}
	return []need{content, snapshots, staged}
}

// staged tells how much of these blobs is on the disk, of earlier runs, and shows that as done.
func (r *run) staged(blobs []ocispec.Descriptor) (all int64) {
	path := r.stagingPath()
	if path == "" {
		return 0
	}
	dir, err := r.p.stagingDir(path)
	if err != nil {
		return 0 // whoever wants to write there says so
	}
	for _, b := range blobs {
		n, err := dir.Usage(b.Digest)
		if n = min(n, b.Size); err != nil || n == 0 {
			continue
		}
		all += n
		r.progress.layer(b.Digest, func(l *Layer) { l.Done = n })
	}
	return all
}

// claim refuses what does not fit, blobs that the store keeps and layers that are unpacked, and otherwise keeps its place until
// the run ends.
func (r *run) claim(ctx context.Context, kept []ocispec.Descriptor, unpacked []stacked) error {
	space, err := steadily(ctx, r, func() (Space, error) { return r.p.cfg.Store.Space(ctx) })
	if err != nil {
		return fmt.Errorf("look how much room there is: %w", err)
	}
	needs := r.needs(space, kept, unpacked)
	room := &r.p.room
	room.mu.Lock()
	defer room.mu.Unlock()
	for _, n := range needs {
		if err := r.p.fits(n, room.claimed(n.volume.Device)); err != nil {
			return err
		}
	}
	if room.claims == nil {
		room.claims = make(map[*run]*claim)
	}
	room.claims[r] = &claim{needs: needs, left: r.progress.left()}
	return nil
}

// ErrPinned is returned by Ensure for an image that is not to be pinned beside the others.
var ErrPinned = errors.New("too many bytes are pinned")

// mayPin tells whether the image with this ID may be pinned beside those that are, and those that are to be: pinned bytes are
// not the kubelet's to free.
func (r *run) mayPin(ctx context.Context, id digest.Digest) error {
	if !r.want.pin || r.p.cfg.MaxPinned == 0 {
		return nil
	}
	// First this, then what is pinned: one that is pinned between the two is seen at least once.
	sizes := r.p.room.pin(r, Pin{ImageID: id, Size: r.size()})
	pins, err := steadily(ctx, r, func() ([]Pin, error) { return r.p.cfg.Store.Pins(ctx) })
	if err != nil {
		return err
	}
	for _, pin := range pins {
		sizes[pin.ImageID] = pin.Size
	}
	delete(sizes, id)
	others := int64(0)
	for _, size := range sizes {
		others += size
	}
	if others+r.size() > r.p.cfg.MaxPinned {
		return fmt.Errorf("%w: it takes about %s, images that are pinned or on their way take %s, and maxPinned is %s: take an "+
			"image out of the configuration, do not pin this one, or raise maxPinned",
			ErrPinned, gigabytes(r.size()), gigabytes(others), gigabytes(r.p.cfg.MaxPinned))
	}
	return nil
}

// pin notes that r will pin an image, and returns the sizes of those that were to be pinned before, by their IDs.
func (m *room) pin(r *run, as Pin) map[digest.Digest]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	sizes := make(map[digest.Digest]int64)
	for other, pin := range m.pins {
		if other != r {
			sizes[pin.ImageID] = pin.Size
		}
	}
	if m.pins == nil {
		m.pins = make(map[*run]Pin)
	}
	m.pins[r] = as
	return sizes
}

// fits tells whether there is room for n beside what others have claimed. What is not known is taken to fit.
func (p *Prefetcher) fits(n need, claimed int64) error {
	v := n.volume
	if v.Path == "" || n.bytes() == 0 {
		return nil
	}
	if keep := p.reserve(v.Size); v.Free-claimed-n.bytes() < keep {
		others := ""
		if claimed > 0 {
			others = ", other images under way will take " + gigabytes(claimed) + " of that"
		}
		return fmt.Errorf("%w: the image needs %s (%s); %s has %s free of %s%s, and %s are to stay free: remove "+
			"something, or set a smaller reserve", ErrNoSpace, gigabytes(n.bytes()), n.what, v.Path, gigabytes(v.Free),
			gigabytes(v.Size), others, gigabytes(keep))
	}
	return p.inodes(v)
}

// inodes tells whether the filesystem has inodes to spare. How many an image takes stands nowhere before it is unpacked, and
// layers differ too much to guess from others': a gigabyte is one file of weights or a hundred thousand of software.
func (p *Prefetcher) inodes(v Volume) error {
	if keep := p.reserve(v.Inodes); v.FreeInodes < keep {
		return fmt.Errorf("%w: %s has %d inodes free of %d, and %d are to stay free: remove something with many files",
			ErrNoSpace, v.Path, v.FreeInodes, v.Inodes, keep)
	}
	return nil
}

// reserve is how much of all is to stay free.
func (p *Prefetcher) reserve(all int64) int64 { return int64(max(p.cfg.Reserve, 0) * float64(all)) }

// lookEvery is how often free space is looked at while an image comes.
const lookEvery = time.Second

// watchSpace ends the work when the free space comes down to the reserve, whoever took it. It returns when ctx ends.
func (r *run) watchSpace(ctx context.Context, end func(error)) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		space, err := r.p.cfg.Store.Space(ctx)
		if err != nil {
			continue // whoever needs the store next says so
		}
		for _, v := range []Volume{space.Content, space.Snapshots, r.staging(space)} {
			err := r.p.inodes(v)
			if keep := r.p.reserve(v.Size); v.Free < keep {
				err = fmt.Errorf("%w: while the image came, the free space at %s went down to %s of %s, and %s are to stay "+
					"free: remove something, or set a smaller reserve; what has come is kept", ErrNoSpace, v.Path,
					gigabytes(v.Free), gigabytes(v.Size), gigabytes(keep))
			}
			if v.Path != "" && err != nil {
				end(err)
				return
			}
		}
	}
}

// gigabytes writes a size for people.
func gigabytes(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%d bytes", n)
}
