package prefetch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch/layer"
)

// The bounds of what a registry may make us read.
const (
	maxManifest = 1 << 20 // its descriptors may take a hundred times as much memory; a thousand layers take 150 KiB
	maxConfig   = 8 << 20
	maxLayers   = 1000
	maxIndexes  = 3 // an index may name an index
)

// plan is what an image consists of on this platform.
type plan struct {
	target   ocispec.Descriptor // what the names point at: an index or the manifest
	manifest ocispec.Descriptor
	config   ocispec.Descriptor
	layers   []ocispec.Descriptor // each digest once, in the manifest's order
	stack    []stacked            // what the snapshots are made of, from below
	extras   []ocispec.Descriptor // those of layers that are not in stack: content that no snapshot has
	chainID  digest.Digest
	// artifact is set for what is no image: config and layers are extras, and there is no chain.
	artifact bool
}

// stacked is one layer in its place in an image. The same blob may have several.
type stacked struct {
	desc   ocispec.Descriptor
	diffID digest.Digest
	chain  digest.Digest // of this layer and all below
	parent digest.Digest // chain of those below; empty for the first

	// How it is laid out, which may have to be found out.
	window   int64    // the largest zstd window
	lowers   []string // the directories of the parents, once they are known
	onLowers bool     // whether they are needed
	lost     int      // how often its snapshot was lost before it was committed
}

// index is the digest of the index that the manifest was chosen from, or empty.
func (p plan) index() string {
	if p.target.Digest == p.manifest.Digest {
		return ""
	}
	return p.target.Digest.String()
}

// id is what Store.Pin calls the image.
func (p plan) id() digest.Digest {
	if p.artifact {
		return p.manifest.Digest
	}
	return p.config.Digest
}

// makePlan reads index, manifest and config, from the store or else from the registry, and puts them into the store. An
// index is kept as it is, as containerd's own pull does; of what it names only one manifest is fetched.
func (r *run) makePlan(ctx context.Context, target ocispec.Descriptor) (plan, error) {
	pl := plan{target: target, manifest: target}
	for depth := 0; images.IsIndexType(pl.manifest.MediaType); depth++ {
		if depth == maxIndexes {
			return pl, fmt.Errorf("index %s names indexes more than %d deep", target.Digest, maxIndexes)
		}
		var err error
		if pl.manifest, err = r.readIndex(ctx, pl.manifest); err != nil {
			return pl, err
		}
	}
	m, err := r.readManifest(ctx, pl.manifest)
	if err != nil {
		return pl, err
	}
	pl.config = m.Config
	if pl.artifact = !images.IsConfigType(m.Config.MediaType); pl.artifact {
		r.keep = true
		return pl, pl.addLayers(append([]ocispec.Descriptor{m.Config}, m.Layers...), nil)
	}
	diffIDs, err := r.readConfig(ctx, m)
	if err != nil {
		return pl, err
	}
	pl.chainID = identity.ChainID(diffIDs)
	return pl, pl.addLayers(m.Layers, diffIDs)
}

// addLayers puts each of the manifest's layers in its place; readConfig has seen that there are as many diff IDs. Those of
// an artifact have no place.
func (p *plan) addLayers(layers []ocispec.Descriptor, diffIDs []digest.Digest) error {
	seen := map[digest.Digest]bool{}
	chains := identity.ChainIDs(slices.Clone(diffIDs)) // it works in place
	for _, l := range layers {
		if !seen[l.Digest] {
			p.layers = append(p.layers, l)
		}
		if p.artifact || !images.IsLayerType(l.MediaType) {
			if !seen[l.Digest] {
				p.extras = append(p.extras, l)
			}
			seen[l.Digest] = true
			continue
		}
		seen[l.Digest] = true
		i := len(p.stack)
		place := stacked{desc: l, diffID: diffIDs[i], chain: chains[i], window: layer.CommonWindow}
		if err := place.diffID.Validate(); err != nil {
			return fmt.Errorf("config %s: diff ID %q: %w", p.config.Digest, place.diffID, err)
		}
		if i > 0 {
			place.parent = chains[i-1]
		}
		p.stack = append(p.stack, place)
	}
	return nil
}

func (r *run) readIndex(ctx context.Context, desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	var index ocispec.Index
	if err := r.readJSON(ctx, desc, maxManifest, &index); err != nil {
		return ocispec.Descriptor{}, err
	}
	if len(index.Manifests) > maxLayers {
		return ocispec.Descriptor{}, fmt.Errorf("index %s names %d manifests, more than %d",
			desc.Digest, len(index.Manifests), maxLayers)
	}
	chosen, err := Choose(index.Manifests, r.want.platform)
	if err != nil {
		return chosen, fmt.Errorf("index %s: %w", desc.Digest, err)
	}
	return chosen, r.session.Link(ctx, r.ref, desc, index.Manifests)
}

func (r *run) readManifest(ctx context.Context, desc ocispec.Descriptor) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	if err := r.readJSON(ctx, desc, maxManifest, &m); err != nil {
		return m, err
	}
	if err := checkManifest(m); err != nil {
		return m, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	children := []ocispec.Descriptor{m.Config}
	for _, l := range m.Layers {
		if r.keep || !images.IsConfigType(m.Config.MediaType) || !images.IsLayerType(l.MediaType) {
			children = append(children, l)
		}
	}
	return m, r.session.Link(ctx, r.ref, desc, children)
}

// readConfig returns the diff IDs.
func (r *run) readConfig(ctx context.Context, m ocispec.Manifest) ([]digest.Digest, error) {
	var config ocispec.Image
	if err := r.readJSON(ctx, m.Config, maxConfig, &config); err != nil {
		return nil, err
	}
	layers := 0
	for _, l := range m.Layers {
		if images.IsLayerType(l.MediaType) {
			layers++
		}
	}
	if n := len(config.RootFS.DiffIDs); n != layers {
		return nil, fmt.Errorf("config %s has %d diff IDs, the manifest %d layers: rebuild the image", m.Config.Digest, n, layers)
	}
	return config.RootFS.DiffIDs, r.session.Link(ctx, r.ref, m.Config, nil)
}

func (r *run) readJSON(ctx context.Context, desc ocispec.Descriptor, limit int64, v any) error {
	data, err := r.small(ctx, desc, limit)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("parse %s %s: %w", desc.MediaType, desc.Digest, err)
	}
	return nil
}

// small returns a small blob that is in the store afterwards.
func (r *run) small(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	switch has, err := r.session.Has(ctx, desc); {
	case err != nil:
		return nil, err
	case has:
		return r.session.Read(ctx, desc, limit)
	}
	data, err := r.repo.Get(ctx, desc, limit)
	if err != nil {
		return nil, err
	}
	r.fetched(int64(len(data)))
	w, err := r.session.Blob(ctx, desc, func() { r.progress.waiting("another pull of " + desc.Digest.String()) })
	if errors.Is(err, ErrPresent) {
		return data, nil
	}
	if err != nil {
		return nil, err
	}
	defer w.Close()
	if w.Offset() > 0 {
		if err := w.Reset(); err != nil {
			return nil, err
		}
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	return data, w.Commit(ctx)
}

// Choose picks the manifest for the platform as containerd does (core/images/handlers.go, FilterPlatforms and
// LimitManifests, 2.4.2), so that containerd, which chooses again when it unpacks, comes to the same.
func Choose(manifests []ocispec.Descriptor, m platforms.MatchComparer) (ocispec.Descriptor, error) {
	fit := slices.Clone(manifests)
	fit = slices.DeleteFunc(fit, func(d ocispec.Descriptor) bool { return d.Platform != nil && !m.Match(*d.Platform) })
	sort.SliceStable(fit, func(i, j int) bool {
		if fit[i].Platform == nil {
			return false
		}
		return fit[j].Platform == nil || m.Less(*fit[i].Platform, *fit[j].Platform)
	})
	if len(fit) == 0 {
		var have []string
		for _, d := range manifests[:min(len(manifests), 20)] {
			have = append(have, platforms.Format(*d.Platform))
		}
		return ocispec.Descriptor{}, fmt.Errorf("no manifest for this platform; there are %q: build one, or set platform", have)
	}
	if !images.IsManifestType(fit[0].MediaType) && !images.IsIndexType(fit[0].MediaType) {
		return ocispec.Descriptor{}, fmt.Errorf("%s is no image manifest but %q", fit[0].Digest, fit[0].MediaType)
	}
	return fit[0], checkBlob(fit[0])
}

// checkManifest tells whether m describes an image that containerd can run, or an artifact.
func checkManifest(m ocispec.Manifest) error {
	switch n := len(m.Layers); {
	case n == 0 && images.IsConfigType(m.Config.MediaType):
		return errors.New("the image has no layers")
	case n > maxLayers:
		return fmt.Errorf("the image has %d layers, more than %d", n, maxLayers)
	}
	if err := checkBlob(m.Config); err != nil {
		return err
	}
	for _, l := range m.Layers {
		if err := checkBlob(l); err != nil {
			return err
		}
	}
	return nil
}

// checkBlob refuses what would end up in a URL or a path unchecked.
func checkBlob(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", d.Digest, err)
	}
	if d.Size < 1 {
		return fmt.Errorf("%s: size %d", d.Digest, d.Size)
	}
	return nil
}
