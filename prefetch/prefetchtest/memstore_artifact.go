package prefetchtest

import (
	"context"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// memKept is what one wanted image says of an artifact.
type memKept struct {
	target, manifest digest.Digest
	names            []string
}

// Keep implements prefetch.Session.
func (s *memSession) Keep(_ context.Context, names []string, target ocispec.Descriptor, manifest digest.Digest) (err error) {
	defer s.use("Keep", &err)()
	if err != nil {
		return err
	}
	var m ocispec.Manifest
	if !s.store.decode(manifest, &m) {
		s.store.t.Errorf("Keep of %s, whose manifest %s is not complete", target.Digest, manifest)
	}
	if images.IsConfigType(m.Config.MediaType) {
		s.store.t.Errorf("Keep of %s, which is an image", target.Digest)
	}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if _, ok := s.store.blobs[d.Digest]; !ok {
			s.store.t.Errorf("Keep of %s, whose blob %s is not complete", target.Digest, d.Digest)
		}
		if !slices.Contains(s.store.links[manifest], d.Digest) {
			s.store.t.Errorf("Keep of %s, whose blob %s is not linked", target.Digest, d.Digest)
		}
	}
	if target.Digest != manifest && !slices.Contains(s.store.links[target.Digest], manifest) {
		s.store.t.Errorf("Keep of %s, whose manifest %s is not linked", target.Digest, manifest)
	}
	s.store.kept[s.key] = memKept{target: target.Digest, manifest: manifest, names: slices.Clone(names)}
	return nil
}

// lookAtArtifact fills st if its target is an artifact. The caller holds s.mu.
func (s *MemStore) lookAtArtifact(q prefetch.Query, st *prefetch.State) bool {
	manifest := st.Target
	var index ocispec.Index
	if s.decode(manifest, &index) && len(index.Manifests) > 0 {
		chosen, err := prefetch.Choose(index.Manifests, q.Platform)
		if err != nil {
			return false
		}
		manifest = chosen.Digest
	}
	var m ocispec.Manifest
	if !s.decode(manifest, &m) || images.IsConfigType(m.Config.MediaType) {
		return false
	}
	st.Manifest, st.Whole, st.PinSupported = manifest, true, true
	if st.Artifact = m.ArtifactType; st.Artifact == "" {
		st.Artifact = m.Config.MediaType
	}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if _, ok := s.blobs[d.Digest]; !ok {
			st.Whole = false
		}
	}
	clear(st.Names)
	for _, n := range q.Names {
		if target := s.targetOf(n); target != "" {
			st.Names[n] = target
		}
	}
	_, st.Pinned = s.pins[manifest]
	return true
}

// targetOf is what an artifact's name points at, or empty. The caller holds s.mu.
func (s *MemStore) targetOf(name string) digest.Digest {
	for _, k := range s.kept {
		if slices.Contains(k.names, name) {
			return k.target
		}
	}
	return ""
}

// keptAs is the artifact with this manifest. The caller holds s.mu.
func (s *MemStore) keptAs(manifest digest.Digest) memKept {
	for _, k := range s.kept {
		if k.manifest == manifest {
			return k
		}
	}
	return memKept{}
}
