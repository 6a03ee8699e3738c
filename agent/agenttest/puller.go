package agenttest

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/prefetch"
)

// Size is how many bytes every image of a Puller has.
const Size = 1 << 20

// ErrBroken is what a test lets things fail with.
var ErrBroken = errors.New("it is broken")

// Puller is containerd's images in memory. A reference stands for its own image: the image of ref has the digest Of(ref),
// its own if it names one, and the ID IDOf(ref). It fails the test when two calls for one image run at once, when something
// is swept or removed that is being made, or when it is asked for digests that it never gave.
type Puller struct {
	t testing.TB
	// Takes is how long Ensure takes.
	Takes time.Duration
	// Allowed reports whether images may be sought.
	Allowed func() bool
	// Inside is called in Ensure, with its Progress, and may be nil.
	Inside func(ctx context.Context, img prefetch.Image, pr *prefetch.Progress) error
	// Counters are what Stats returns.
	Counters prefetch.Stats

	mu      sync.Mutex // guards what follows
	did     []string   // what was asked, in order
	busy    map[string]bool
	changed func() // of Watch
	State
}

// State is what is in the Puller and what it fails with. Change it in Set.
type State struct {
	// Fails holds what Ensure of a reference fails with, Broken what Check does, Sweeps what Sweep does.
	Fails          map[string]error
	Broken, Sweeps error
	// NoWatch is what Watch ends with at once.
	NoWatch error
	// Ready holds the references that are complete, Unpinned those of them that lost their pin.
	Ready, Unpinned map[string]bool
	// Pinned are the pins of ours, InUse the IDs of images that cannot be removed.
	Pinned []prefetch.Pin
	InUse  map[string]bool
	// Made are the limits that Pullers were made for.
	Made []config.Prefetch
	// Result is added to that of Ensure.
	Result prefetch.Result
	// Volume is what Disk returns, DiskLooks how often it was called.
	Volume    prefetch.Volume
	DiskLooks int
	// Told are the hosts that Throttle was called for, Throttles what Throttled returns.
	Told, Throttles map[string]time.Duration
}

// NewPuller returns one without images.
func NewPuller(t testing.TB) *Puller {
	return &Puller{t: t, Takes: time.Second, Allowed: func() bool { return true }, busy: make(map[string]bool),
		State: State{Fails: make(map[string]error), Ready: make(map[string]bool), Unpinned: make(map[string]bool),
			InUse: make(map[string]bool), Told: make(map[string]time.Duration)}}
}

// Of is the digest of the image of ref.
func Of(ref string) string {
	if _, digest, ok := strings.Cut(ref, "@"); ok {
		return digest
	}
	return "sha256:of-" + ref
}

// IDOf is its ID.
func IDOf(ref string) string { return "sha256:id-of-" + ref }

// enter polices that nothing else is done with the image meanwhile.
func (p *Puller) enter(what, ref string) (leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy[ref] {
		p.t.Errorf("%s of %s while another call works on it", what, ref)
	}
	p.busy[ref] = true
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.busy, ref)
	}
}

// Ensure makes the image of img ready after Takes.
func (p *Puller) Ensure(ctx context.Context, img prefetch.Image, pr *prefetch.Progress) (prefetch.Result, error) {
	defer p.enter("Ensure", img.Ref)()
	if !p.Allowed() {
		p.t.Errorf("%s is sought before the hosts directory is written", img.Ref)
	}
	if pr == nil {
		p.t.Error("no Progress is given")
	}
	p.note("ensure " + img.Ref)
	if p.Inside != nil {
		if err := p.Inside(ctx, img, pr); err != nil {
			return prefetch.Result{}, err
		}
	}
	select {
	case <-ctx.Done():
		p.note("cancelled " + img.Ref)
		return prefetch.Result{}, ctx.Err()
	case <-time.After(p.Takes):
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.Fails[img.Ref]; err != nil {
		return prefetch.Result{}, err
	}
	fetched := int64(0)
	if !p.Ready[img.Ref] {
		fetched = Size
	}
	p.Ready[img.Ref] = true
	delete(p.Unpinned, img.Ref)
	id := digest.Digest(IDOf(img.Ref))
	if img.Pin && !slices.ContainsFunc(p.Pinned, func(pin prefetch.Pin) bool { return pin.ImageID == id }) {
		p.Pinned = append(p.Pinned, prefetch.Pin{ImageID: id, Size: Size})
	}
	res := p.result(img)
	res.BytesFetched, res.Duration = fetched, time.Second
	if fetched > 0 {
		res.Way, res.WayReason, res.Kept = p.Result.Way, p.Result.WayReason, p.Result.Kept
		res.BoundBy, res.Advice = p.Result.BoundBy, p.Result.Advice
	}
	return res, nil
}

// result is of an image that is ready. The caller holds mu.
func (p *Puller) result(img prefetch.Image) prefetch.Result {
	return prefetch.Result{Ref: img.Ref, Digest: Of(img.Ref), ConfigDigest: IDOf(img.Ref), Mountable: true, Size: Size,
		Pinned: img.Pin && !p.Unpinned[img.Ref], PinSupported: true, Note: p.Result.Note}
}

// Check tells whether the image of img is ready.
func (p *Puller) Check(ctx context.Context, img prefetch.Image, want string) (prefetch.Result, bool, error) {
	p.note("check " + img.Ref)
	p.mu.Lock()
	defer p.mu.Unlock()
	if want != "" && want != Of(img.Ref) {
		p.t.Errorf("%s is checked for %q, want %q", img.Ref, want, Of(img.Ref))
	}
	if err := cmp.Or(ctx.Err(), p.Broken); err != nil {
		return prefetch.Result{}, false, err
	}
	switch {
	case !p.Ready[img.Ref]:
		return prefetch.Result{Ref: img.Ref, Note: "containerd has no image " + img.Ref}, false, nil
	case img.Pin && p.Unpinned[img.Ref]:
		return prefetch.Result{Ref: img.Ref, Note: "CRI does not say that " + img.Ref + " is pinned"}, false, nil
	}
	res := p.result(img)
	res.Note = ""
	return res, true, nil
}

// Sweep takes note of what is wanted.
func (p *Puller) Sweep(_ context.Context, wanted []prefetch.Image) error {
	var refs []string
	for _, w := range wanted {
		refs = append(refs, w.Ref)
	}
	p.note("sweep " + strings.Join(refs, " "))
	p.mu.Lock()
	defer p.mu.Unlock()
	for ref := range p.busy {
		if !slices.Contains(refs, ref) {
			p.t.Errorf("swept while %s, which is not wanted any more, is under way", ref)
		}
	}
	return p.Sweeps
}

// Pins are the pins of ours.
func (p *Puller) Pins(context.Context) ([]prefetch.Pin, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.Pinned), p.Broken
}

// Unpin takes a pin off.
func (p *Puller) Unpin(_ context.Context, id string) error {
	p.note("unpin " + id)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Pinned = slices.DeleteFunc(p.Pinned, func(pin prefetch.Pin) bool { return pin.ImageID.String() == id })
	return nil
}

// Remove removes an image that is not in use.
func (p *Puller) Remove(_ context.Context, id string) error {
	p.note("remove " + id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.InUse[id] {
		return errors.Join(prefetch.ErrInUse, errors.New("container c runs it"))
	}
	for ref := range p.busy {
		if IDOf(ref) == id {
			p.t.Errorf("%s is removed while it is made", ref)
		}
	}
	p.Pinned = slices.DeleteFunc(p.Pinned, func(pin prefetch.Pin) bool { return pin.ImageID.String() == id })
	return nil
}

// Watch calls changed whenever Change is called.
func (p *Puller) Watch(ctx context.Context, changed func()) error {
	p.mu.Lock()
	p.changed = changed
	err := p.NoWatch
	p.mu.Unlock()
	if err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// Stats returns Counters.
func (p *Puller) Stats() prefetch.Stats { return p.Counters }

// Disk returns Volume.
func (p *Puller) Disk(context.Context) (prefetch.Volume, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.DiskLooks++
	return p.Volume, nil
}

// Throttle takes note of a host that is to be left alone.
func (p *Puller) Throttle(host string, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Told[host] = d
}

// Throttled returns Throttles.
func (p *Puller) Throttled() map[string]time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.Throttles)
}

// Change changes the State as somebody else would, and lets Watch tell.
func (p *Puller) Change(f func(*State)) {
	p.Set(f)
	p.mu.Lock()
	changed := p.changed
	p.mu.Unlock()
	changed()
}

// Set changes the State.
func (p *Puller) Set(f func(*State)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.State)
}

func (p *Puller) note(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.did = append(p.did, what)
}

// Took returns what was asked since it was last called.
func (p *Puller) Took() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	did := p.did
	p.did = nil
	return did
}
