package prefetch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch/fetch"
)

// How CRI is waited for: it learns of a new image by an event, which takes 1 to 70 ms on an idle daemon.
const (
	visibleWithin = 30 * time.Second
	firstLook     = 10 * time.Millisecond
	longestLook   = 500 * time.Millisecond
)

// closeWithin bounds the clean-up after the caller has given up.
const closeWithin = 30 * time.Second

// run is one call of Ensure.
type run struct {
	p        *Prefetcher
	key      string
	want     wanted
	ref      string // want.ref as a string
	repo     *fetch.Repository
	session  Session // nil until open
	progress *Progress
	way      Way   // after chooseWay
	keep     bool  // layer blobs stay in the store
	plan     plan  // after makePlan
	taken    int64 // what an image takes that was there before; 0 if it is not known
	pace     pace
	leave    func() // the company of other processes; nil where there is none
	bound    Bound
	advice   []string
	note     string // for the Result; empty if nothing
}

// end gives back what the run has that others may wait for.
func (r *run) end() {
	r.p.room.leave(r)
	if r.leave != nil {
		r.leave()
	}
}

// fetched counts bytes of metadata.
func (r *run) fetched(n int64) {
	r.progress.update(func(s *Snapshot) { s.BytesFetched += n })
}

// ensure goes through the steps that doc.go numbers.
func (r *run) ensure(ctx context.Context) (Result, error) {
	target, names, err := r.target(ctx)
	if err != nil {
		return Result{}, err
	}
	st, err := r.p.state(ctx, names, target.Digest, r.want)
	if err != nil {
		return Result{}, err
	}
	if !complete(st, names) {
		if st, err = r.bring(ctx, target, names); err != nil {
			return r.result(names, st), err
		}
	} else if err := r.steady(ctx, func() error { return r.p.release(ctx, r.key) }); err != nil {
		r.p.cfg.Log.Warn("what an earlier run left stays until the next sweep", "image", r.ref, "error", err)
	}
	r.progress.update(func(s *Snapshot) { s.Digest, s.IndexDigest = st.Manifest.String(), indexOf(st) })
	if st, err = r.await(ctx, names, target.Digest, false); err != nil {
		return r.result(names, st), err
	}
	if r.want.pin && st.PinSupported && !st.Pinned {
		if err := r.weigh(ctx, st); err != nil {
			return r.result(names, st), err
		}
		if st, err = r.await(ctx, names, target.Digest, true); err != nil {
			return r.result(names, st), err
		}
	}
	return r.result(names, st), nil
}

// weigh looks whether the image, which is there, may be pinned: one that was there before takes room that nobody has looked at.
func (r *run) weigh(ctx context.Context, st State) (err error) {
	if r.plan.layers != nil {
		return nil
	}
	r.taken, err = steadily(ctx, r, func() (int64, error) { return r.p.cfg.Store.Size(ctx, st) })
	if err != nil {
		return err
	}
	return r.mayPin(ctx, st.id())
}

// target finds what the reference means and the names to point at it. A digest of which everything is there already
// needs no registry; its descriptor has no size then. A tag is asked for, but when no registry tells what it means, what
// is there stays ready: the node can run it, whether the registries are down or have lost it.
func (r *run) target(ctx context.Context) (ocispec.Descriptor, []string, error) {
	if d := r.want.digest(); d != "" {
		names, err := r.want.names(d)
		if err != nil {
			return ocispec.Descriptor{}, nil, err
		}
		st, err := r.p.state(ctx, names, d, r.want)
		if err != nil {
			return ocispec.Descriptor{}, nil, err
		}
		if complete(st, names) {
			return ocispec.Descriptor{Digest: d}, names, nil
		}
	}
	desc, host, err := r.repo.Resolve(ctx)
	if err != nil {
		return r.present(ctx, err)
	}
	r.p.cfg.Log.Debug("resolved", "image", r.ref, "digest", desc.Digest, "host", host)
	names, err := r.want.names(desc.Digest)
	return desc, names, err
}

// present is target when the registries could not be asked: what the tag's record points at, if that is all there, else
// the error why they could not.
func (r *run) present(ctx context.Context, why error) (desc ocispec.Descriptor, names []string, err error) {
	if ctx.Err() != nil {
		return desc, nil, context.Cause(ctx)
	}
	if r.want.digest() != "" {
		return desc, nil, why
	}
	st, err := r.p.state(ctx, []string{r.ref}, "", r.want)
	if err != nil {
		return desc, nil, errors.Join(why, err)
	}
	if st.Target == "" {
		return desc, nil, why
	}
	if names, err = r.want.names(st.Target); err != nil {
		return desc, nil, errors.Join(why, err)
	}
	if st, err = r.p.state(ctx, names, st.Target, r.want); err != nil {
		return desc, nil, errors.Join(why, err)
	}
	if missing(st, names, false) != "" {
		return desc, nil, why
	}
	r.note = "the registry could not be asked whether the tag has moved: " + strings.ReplaceAll(why.Error(), "\n", "; ")
	return ocispec.Descriptor{Digest: st.Target}, names, nil
}

// bring fetches, unpacks and publishes, all of it under one session.
func (r *run) bring(ctx context.Context, target ocispec.Descriptor, names []string) (st State, err error) {
	if err := r.chooseWay(ctx); err != nil {
		return st, err
	}
	r.session, err = steadily(ctx, r, func() (Session, error) { return r.p.cfg.Store.Open(ctx, r.key) })
	if err != nil {
		return st, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWithin)
		defer cancel()
		if cerr := r.session.Close(ctx, err != nil); cerr != nil {
			// The image is as it is; the lease that is left over expires or is swept.
			r.p.cfg.Log.Warn("content lease was not given back", "image", r.ref, "error", cerr)
		}
	}()
	r.progress.phase(Fetching)
	pl, err := steadily(ctx, r, func() (plan, error) { return r.makePlan(ctx, target) })
	if err != nil {
		return st, err
	}
	r.plan = pl
	r.progress.update(func(s *Snapshot) { s.Digest = pl.manifest.Digest.String(); s.IndexDigest = pl.index() })
	// With its snapshots there, an image needs no layer blobs: containerd may have been told to discard them.
	if st, err = r.state(ctx, names, target.Digest); err != nil {
		return st, err
	}
	if err := r.fill(ctx, pl, st.Snapshot); err != nil {
		return st, err
	}
	r.bound, r.advice = r.pace.verdict(time.Now(), pl.stack)
	if err := r.publish(ctx, names, pl); err != nil {
		return st, err
	}
	if err := r.p.dropStaged(r.key); err != nil {
		r.p.cfg.Log.Warn("what an earlier run left stays until the next sweep", "image", r.ref, "error", err)
	}
	return r.state(ctx, names, target.Digest)
}

// publish gives the image its names.
func (r *run) publish(ctx context.Context, names []string, pl plan) error {
	return r.steady(ctx, func() error {
		if pl.artifact {
			return r.session.Keep(ctx, names, pl.target, pl.manifest.Digest)
		}
		return r.session.Publish(ctx, names, pl.target)
	})
}

// chooseWay finds out how the layers get in.
func (r *run) chooseWay(ctx context.Context) error {
	way, err := steadily(ctx, r, func() (Way, error) { return r.p.cfg.Store.Way(ctx) })
	if err != nil {
		return err
	}
	r.settle(way)
	if r.p.cfg.Way == API {
		r.avoidDirect("the configuration says so")
	}
	if r.way.Name == Direct {
		r.leave, err = r.p.company.join(ctx, r.way.Trees)
	}
	return err
}

// settle takes the way.
func (r *run) settle(way Way) {
	// containerd's own unpack, which the API way uses, reads the blobs from the store.
	r.way, r.keep = way, way.Name == API || r.p.cfg.KeepLayers == KeepAlways ||
		r.p.cfg.KeepLayers == KeepAuto && !way.Discards
	r.progress.update(func(s *Snapshot) { s.Way, s.WayReason = way.Name, way.Reason })
}

// avoidDirect takes the API way where the direct one is open.
func (r *run) avoidDirect(why string) {
	if r.way.Name == Direct {
		r.settle(Way{Name: API, Reason: why, Discards: r.way.Discards})
	}
}

// processed tells whether containerd unpacks layers of this type by a program of its configuration, such as encrypted ones
// (core/diff/stream.go, GetProcessor, 2.4.2).
func processed(l stacked) bool {
	_, err := images.DiffCompression(context.Background(), l.desc.MediaType)
	return err != nil || strings.HasSuffix(l.desc.MediaType, "+encrypted")
}

// stagingPath is the directory for partial blobs, or empty.
func (r *run) stagingPath() string {
	switch {
	case r.way.Name == API:
		return r.p.cfg.Staging
	case r.keep:
		return r.way.Staging
	}
	return ""
}

// fill brings what is missing of the layers and unpacks them, unless that is done, while there is room for it.
func (r *run) fill(ctx context.Context, pl plan, unpacked bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel(nil)
	if !unpacked {
		watcher.Go(func() { r.watchSpace(ctx, cancel) })
		if err := r.layers(ctx, pl); err != nil {
			return err
		}
	}
	if pl.artifact {
		return nil
	}
	return r.unpack(ctx, pl)
}

// layers brings what is missing of the layers, if there is room for it.
func (r *run) layers(ctx context.Context, pl plan) error {
	r.progress.layers(pl.layers)
	if i := slices.IndexFunc(pl.stack, processed); i >= 0 {
		r.avoidDirect("only containerd may know how to unpack a layer of type " + pl.stack[i].desc.MediaType)
	}
	if err := r.mayPin(ctx, pl.id()); err != nil {
		return err
	}
	if err := r.noteWants(pl); err != nil {
		return err
	}
	r.pace.began()
	if r.way.Name != Direct {
		return r.contents(ctx, pl)
	}
	session, ok := r.session.(DirectSession)
	if !ok {
		return fmt.Errorf("the store says that its way is %s, but its sessions do not know it", Direct)
	}
	return r.direct(ctx, session, pl)
}

// size is what the image takes on the disk, as far as it is known.
func (r *run) size() int64 {
	n := r.taken
	for _, l := range r.plan.stack {
		n += r.p.ratios.unpacked(l.desc)
		if r.keep {
			n += l.desc.Size
		}
	}
	for _, e := range r.plan.extras {
		n += e.Size
	}
	return n
}

// unpack sees to it that the image has all its snapshots. Those that are there may be another image's: they become this
// one's too.
func (r *run) unpack(ctx context.Context, pl plan) error {
	r.progress.phase(Unpacking)
	if session, ok := r.session.(DirectSession); ok && r.way.Name == Direct {
		return r.steady(ctx, func() error { return session.Unpacked(ctx, pl.config, pl.chainID) })
	}
	return r.steady(ctx, func() error {
		chain, err := r.session.Unpack(ctx, r.ref, pl.target, r.want.platform)
		if err == nil && chain != pl.chainID {
			return fmt.Errorf("containerd unpacked %s, the config says %s: rebuild the image", chain, pl.chainID)
		}
		return err
	})
}

// await waits until CRI shows the image under all names, and with pinned, pins it and waits until CRI says so: whoever takes the pin
// off meanwhile does not have us wait for what never comes.
func (r *run) await(ctx context.Context, names []string, target digest.Digest, pinned bool) (State, error) {
	var waited time.Duration // beside what a daemon that was away took
	for wait := firstLook; ; wait = min(2*wait, longestLook) {
		st, err := r.state(ctx, names, target)
		if err != nil {
			return st, err
		}
		lacks := missing(st, names, pinned)
		if lacks == "" {
			return st, nil
		}
		if waited >= visibleWithin {
			return st, fmt.Errorf("%s after %s: look at containerd's log for errors of its CRI plugin", lacks, visibleWithin)
		}
		if pinned && !st.Pinned && complete(st, names) {
			if err := r.steady(ctx, func() error { return r.p.cfg.Store.Pin(ctx, st.id(), r.size()) }); err != nil {
				return st, err
			}
		}
		r.progress.waiting("containerd's CRI: " + lacks)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
			waited += wait
		case <-ctx.Done():
			t.Stop()
			return st, context.Cause(ctx)
		}
	}
}

// state asks the store, and waits for it where it is away.
func (r *run) state(ctx context.Context, names []string, target digest.Digest) (State, error) {
	return steadily(ctx, r, func() (State, error) { return r.p.state(ctx, names, target, r.want) })
}

// state asks the store.
func (p *Prefetcher) state(ctx context.Context, names []string, target digest.Digest, w wanted) (State, error) {
	return p.cfg.Store.State(ctx, Query{Names: names, Target: target, Platform: w.platform})
}

// id is what Store.Pin and Store.Remove call the image.
func (st State) id() digest.Digest {
	if st.Artifact != "" {
		return st.Manifest
	}
	return st.Config
}

// complete tells whether nothing needs to be fetched, unpacked or published.
func complete(st State, names []string) bool {
	return (st.Unpacked || st.Whole) && !slices.ContainsFunc(names, func(n string) bool { return st.Names[n] != st.Target })
}

// missing says what keeps the image from being ready, or nothing.
func missing(st State, names []string, pinned bool) string {
	switch {
	case st.Artifact != "":
		return missingOfArtifact(st, names, pinned)
	case st.Config == "":
		return "containerd has not the content of " + st.Target.String()
	case st.Snapshot && !st.Unpacked:
		return fmt.Sprintf("image ID %s does not protect its snapshot %s from garbage collection", st.Config, st.ChainID)
	case !st.Unpacked:
		return fmt.Sprintf("snapshot %s of %s does not exist", st.ChainID, st.Target)
	}
	for _, n := range names {
		switch {
		case st.Names[n] == "":
			return "containerd has no image " + n
		case st.Names[n] != st.Target:
			return fmt.Sprintf("%s points at %s, not at %s", n, st.Names[n], st.Target)
		case st.Visible[n] == "":
			return "CRI does not list " + n
		case st.Visible[n] != st.Config:
			return fmt.Sprintf("CRI takes %s for %s, not for %s", n, st.Visible[n], st.Config)
		}
	}
	if pinned && st.PinSupported && !st.Pinned {
		return "CRI does not say that " + names[0] + " is pinned"
	}
	return ""
}

// missingOfArtifact is missing for an artifact, which CRI does not know.
func missingOfArtifact(st State, names []string, pinned bool) string {
	if !st.Whole {
		return "containerd has not all blobs of " + st.Target.String()
	}
	for _, n := range names {
		switch st.Names[n] {
		case st.Target:
		case "":
			return fmt.Sprintf("nothing keeps %s under the name %s", st.Target, n)
		default:
			return fmt.Sprintf("%s points at %s, not at %s", n, st.Names[n], st.Target)
		}
	}
	if pinned && !st.Pinned {
		return names[0] + " is not pinned"
	}
	return ""
}

func (r *run) result(names []string, st State) Result {
	res := result(r.want, names, st)
	res.Size = r.size()
	if r.plan.layers != nil {
		res.Way, res.WayReason, res.Kept = r.way.Name, r.way.Reason, r.keep
		res.BoundBy, res.Advice = r.bound, r.advice
	}
	switch {
	case res.Note == "":
		res.Note = r.note
	case r.note != "":
		res.Note += "; " + r.note
	}
	return res
}

func result(w wanted, names []string, st State) Result {
	res := Result{
		Ref: w.ref.String(), Digest: st.Manifest.String(), IndexDigest: indexOf(st), ConfigDigest: st.id().String(),
		ChainID: st.ChainID.String(), Names: names, Pinned: st.Pinned, PinSupported: st.PinSupported,
		Mountable: st.Artifact == "",
	}
	if st.Artifact != "" {
		res.Note = fmt.Sprintf("present, not mountable: it is an artifact of type %q, which containerd does not mount as a root "+
			"filesystem", st.Artifact)
	}
	if w.pin && !st.PinSupported {
		res.Note = st.Runtime + " knows no pins: the kubelet may remove the image when the disk fills up"
	}
	return res
}

// indexOf is the index that the manifest was chosen from, or empty.
func indexOf(st State) string {
	if st.Target == st.Manifest {
		return ""
	}
	return st.Target.String()
}
