package prefetchtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// Way implements prefetch.Store.
func (s *MemStore) Way(context.Context) (way prefetch.Way, err error) {
	defer s.fault("Way", &err)()
	if err != nil {
		return way, err
	}
	way = prefetch.Way{Name: prefetch.API, Reason: s.Closed, Discards: s.Discards, DiscardsKnown: s.DiscardsKnown}
	way.Staging, way.Trees = s.path("staging"), s.path("trees")
	if s.Direct {
		way.Name, way.Reason = prefetch.Direct, ""
		return way, errors.Join(os.MkdirAll(way.Staging, 0o700), os.MkdirAll(way.Trees, 0o700))
	}
	for _, dir := range []*string{&way.Staging, &way.Trees} {
		if _, err := os.Stat(*dir); err != nil {
			*dir = "" // it was never open
		}
	}
	return way, nil
}

func (s *MemStore) path(names ...string) string {
	return filepath.Join(append([]string{s.root}, names...)...)
}

// Space implements prefetch.Store.
func (s *MemStore) Space(context.Context) (space prefetch.Space, err error) {
	defer s.fault("Space", &err)()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.space, err
}

// SetSpace sets what Space returns; at first nothing is known.
func (s *MemStore) SetSpace(space prefetch.Space) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.space = space
}

// Dir is the directory of a snapshot that was filled, or empty.
func (s *MemStore) Dir(chain digest.Digest) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dirs[chain]
}

// memHold is an ingest that nobody writes.
type memHold struct {
	session *memSession
	desc    ocispec.Descriptor
	in      *ingest // nil when it was released
}

func (s *memSession) Hold(ctx context.Context, desc ocispec.Descriptor, waiting func()) (_ prefetch.Hold, err error) {
	defer s.use("Hold", &err)()
	if err != nil {
		return nil, err
	}
	s.mustBeDirect("Hold")
	in, err := s.lock(ctx, desc, waiting)
	if err != nil {
		return nil, err
	}
	return &memHold{session: s, desc: desc, in: in}, nil
}

func (s *memSession) mustBeDirect(what string) {
	if !s.store.Direct {
		s.store.t.Errorf("%s was called on a store whose way is not direct", what)
	}
}

// Adopt reads the file: what is adopted is not verified any more by a real store.
func (h *memHold) Adopt(_ context.Context, path string, diffID digest.Digest) (err error) {
	defer h.Release()
	defer h.session.use("Adopt", &err)()
	if err != nil {
		return err
	}
	s := h.session.store
	if h.in == nil {
		s.t.Errorf("Adopt of %s after it was released", h.desc.Digest)
	}
	if !strings.HasPrefix(path, s.path("staging")+"/") {
		s.t.Errorf("Adopt of %s from %s, which is not below the staging directory", h.desc.Digest, path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("adopt %s: %w", h.desc.Digest, err)
	}
	if int64(len(data)) != h.desc.Size || digest.FromBytes(data) != h.desc.Digest {
		s.t.Errorf("Adopt of %s from a file with %d other bytes", h.desc.Digest, len(data))
	}
	if diffID != "" && diffID.Validate() != nil {
		s.t.Errorf("Adopt of %s with diff ID %q", h.desc.Digest, diffID)
	}
	if _, ok := s.blobs[h.desc.Digest]; !ok {
		s.blobs[h.desc.Digest] = data
	}
	return nil
}

// Release implements prefetch.Hold.
func (h *memHold) Release() {
	s := h.session.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.in == nil {
		return
	}
	if s.ingests[h.desc.Digest] == h.in && len(h.in.data) == 0 {
		delete(s.ingests, h.desc.Digest)
	}
	h.in.locked, h.in = false, nil
	s.changed.Broadcast()
}

func (s *memSession) OpenBlob(_ context.Context, desc ocispec.Descriptor) (_ io.ReadCloser, err error) {
	defer s.use("OpenBlob", &err)()
	if err != nil {
		return nil, err
	}
	data, ok := s.store.blobs[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("open %s: not there", desc.Digest)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (s *memSession) HasSnapshot(_ context.Context, chain digest.Digest) (_ bool, err error) {
	defer s.use("HasSnapshot", &err)()
	return s.store.chains[chain], err
}

func (s *memSession) AddSnapshot(_ context.Context, layer prefetch.LayerSnapshot, fill func(string, []string) error) (err error) {
	after := s.store.fault("AddSnapshot", &err)
	defer after()
	if err != nil {
		return err
	}
	upper, lowers, there := s.prepare(layer)
	if there {
		return nil
	}
	if err = os.MkdirAll(upper, 0o755); err == nil {
		err = fill(upper, lowers)
	}
	if err != nil {
		err = fmt.Errorf("fill snapshot %s: %w", layer.Chain, err)
		os.RemoveAll(upper)
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.filling = false
	if err != nil {
		return err
	}
	s.store.chains[layer.Chain], s.store.dirs[layer.Chain], s.store.parents[layer.Chain] = true, upper, layer.Parent
	return nil
}

// prepare checks what is asked for and returns a new directory.
func (s *memSession) prepare(layer prefetch.LayerSnapshot) (upper string, lowers []string, there bool) {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.mustBeDirect("AddSnapshot")
	want := layer.DiffID
	if layer.Parent != "" {
		want = identity.ChainID([]digest.Digest{layer.Parent, layer.DiffID})
	}
	switch {
	case s.closed:
		s.store.t.Errorf("AddSnapshot of %s after the session's end", layer.Chain)
	case layer.Chain != want:
		s.store.t.Errorf("AddSnapshot of %s: %s on %q is %s", layer.Chain, layer.DiffID, layer.Parent, want)
	case layer.Parent != "" && !s.store.chains[layer.Parent]:
		s.store.t.Errorf("AddSnapshot of %s before its parent %s", layer.Chain, layer.Parent)
	}
	if s.store.chains[layer.Chain] {
		return "", nil, true
	}
	if s.filling {
		s.store.t.Errorf("AddSnapshot of %s while another is being added", layer.Chain)
	}
	s.filling = true
	for d := layer.Parent; d != ""; d = s.store.parents[d] {
		if dir := s.store.dirs[d]; dir != "" { // none if it was made by Unpack
			lowers = append(lowers, dir)
		}
	}
	s.store.unpacked++
	return s.store.path("snapshots", fmt.Sprint(s.store.unpacked), "fs"), lowers, false
}

func (s *memSession) Unpacked(_ context.Context, config ocispec.Descriptor, chain digest.Digest) (err error) {
	defer s.use("Unpacked", &err)()
	if err != nil {
		return err
	}
	var image ocispec.Image
	if !s.store.decode(config.Digest, &image) || identity.ChainID(image.RootFS.DiffIDs) != chain {
		s.store.t.Errorf("Unpacked of config %s, whose snapshot is not %s", config.Digest, chain)
	}
	if !s.store.chains[chain] {
		s.store.t.Errorf("Unpacked of config %s, whose snapshot %s is not there", config.Digest, chain)
	}
	s.store.held[config.Digest] = chain
	return nil
}
