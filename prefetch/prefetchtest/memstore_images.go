package prefetchtest

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// memPin is the pin of an image.
type memPin struct {
	foreign bool
	size    int64
}

// Pin implements prefetch.Store.
func (s *MemStore) Pin(_ context.Context, id digest.Digest, size int64) (err error) {
	defer s.fault("Pin", &err)()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.NoPins && s.keptAs(id).target == "" {
		s.t.Error("Pin was called on a store that knows no pins")
	}
	if s.recordOf(id) == "" && s.keptAs(id).target == "" {
		return fmt.Errorf("pin image %s: it has no record", id)
	}
	had, known := s.pins[id]
	if known && (had.foreign || had.size == size) {
		return nil // as it is already
	}
	s.pins[id] = memPin{size: size}
	s.blind = s.Looks
	s.notify()
	return nil
}

// Size implements prefetch.Store: the blobs, twice for layers, which are laid out as well.
func (s *MemStore) Size(_ context.Context, st prefetch.State) (size int64, err error) {
	defer s.fault("Size", &err)()
	s.mu.Lock()
	defer s.mu.Unlock()
	var m ocispec.Manifest
	s.decode(st.Manifest, &m)
	for _, l := range m.Layers {
		size += int64(len(s.blobs[l.Digest]))
		if st.Artifact == "" {
			size += l.Size
		}
	}
	return size, err
}

// PinAsAnother pins an image as somebody else does.
func (s *MemStore) PinAsAnother(id digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pins[id] = memPin{foreign: true}
	s.notify()
}

// Unpin implements prefetch.Store.
func (s *MemStore) Unpin(_ context.Context, id digest.Digest) (err error) {
	defer s.fault("Unpin", &err)()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.pins[id].foreign {
		delete(s.pins, id)
	}
	s.notify()
	return nil
}

// Pins implements prefetch.Store.
func (s *MemStore) Pins(context.Context) (out []prefetch.Pin, err error) {
	defer s.fault("Pins", &err)()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, p := range s.pins {
		if !p.foreign {
			target := s.recordOf(id)
			if target == "" {
				target = s.keptAs(id).target
			}
			out = append(out, prefetch.Pin{ImageID: id, Target: target, Size: p.size})
		}
	}
	return out, nil
}

// recordOf is what a record of the image with this ID points at. The caller holds s.mu.
func (s *MemStore) recordOf(id digest.Digest) digest.Digest {
	for _, target := range s.records {
		if _, config, _, err := s.follow(target, platforms.Default()); err == nil && config == id {
			return target
		}
	}
	return ""
}

// Use makes a container use the image with this ID, or with an empty name, none any more.
func (s *MemStore) Use(id digest.Digest, container string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[id] = container
}

// Remove implements prefetch.Store.
func (s *MemStore) Remove(_ context.Context, id digest.Digest) (err error) {
	defer s.fault("Remove", &err)()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.users[id] != "":
		return fmt.Errorf("remove image %s: %w: %s uses it", id, prefetch.ErrInUse, s.users[id])
	case s.pins[id].foreign:
		return fmt.Errorf("remove image %s: %w: someone else has pinned it", id, prefetch.ErrInUse)
	}
	s.lose(id)
	return nil
}

// Watch implements prefetch.Store.
func (s *MemStore) Watch(ctx context.Context, changed func()) (err error) {
	defer s.fault("Watch", &err)()
	if err != nil {
		return err
	}
	pending := make(chan struct{}, 1)
	s.mu.Lock()
	s.watchers[pending] = true
	s.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			s.mu.Lock()
			delete(s.watchers, pending)
			s.mu.Unlock()
			return nil
		case _, ok := <-pending:
			if !ok {
				return errors.New("watch: the stream broke")
			}
			changed()
		}
	}
}

// BreakWatches ends all calls of Watch with an error.
func (s *MemStore) BreakWatches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		close(w)
	}
	clear(s.watchers)
}

// notify tells all who watch. The caller holds s.mu.
func (s *MemStore) notify() {
	for w := range s.watchers {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// Forget removes a record, and with all, the snapshots too, as a kubelet does that collects garbage.
func (s *MemStore) Forget(name string, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, name)
	s.notify()
	if all {
		clear(s.chains)
		clear(s.held)
		clear(s.blobs)
	}
}

// Lose removes all records of the image with this ID and what is held by no other image, as a kubelet does that
// collects garbage.
func (s *MemStore) Lose(id digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose(id)
}

func (s *MemStore) lose(id digest.Digest) {
	delete(s.pins, id)
	s.notify()
	maps.DeleteFunc(s.kept, func(_ string, k memKept) bool { return k.manifest == id })
	maps.DeleteFunc(s.records, func(_ string, target digest.Digest) bool {
		_, config, _, err := s.follow(target, platforms.Default())
		return err == nil && config == id
	})
	if len(s.sessions) > 0 {
		return // a lease holds what it holds
	}
	blobs, chains := make(map[digest.Digest]bool), make(map[digest.Digest]bool)
	var mark func(digest.Digest)
	mark = func(d digest.Digest) {
		if blobs[d] {
			return
		}
		blobs[d], chains[s.held[d]] = true, true
		for _, child := range s.links[d] {
			mark(child)
		}
	}
	for _, target := range s.records {
		mark(target)
	}
	for _, k := range s.kept {
		mark(k.target)
	}
	maps.DeleteFunc(s.blobs, func(d digest.Digest, _ []byte) bool { return !blobs[d] })
	maps.DeleteFunc(s.links, func(d digest.Digest, _ []digest.Digest) bool { return !blobs[d] })
	maps.DeleteFunc(s.held, func(d, _ digest.Digest) bool { return !blobs[d] })
	for d := range maps.Clone(chains) {
		for ; d != ""; d = s.parents[d] {
			chains[d] = true
		}
	}
	maps.DeleteFunc(s.chains, func(d digest.Digest, _ bool) bool { return !chains[d] })
}
