package prefetchtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// MemStore is a prefetch.Store in memory. It fails the test when it is told something that must not be: an image record
// whose content is not complete, a blob that is not what its digest says, work after a session's end. It is safe for
// concurrent use; set the fields before.
type MemStore struct {
	// NoPins makes it a daemon that knows no pins.
	NoPins bool
	// Looks is how many times State must be asked before a change is visible to CRI.
	Looks int
	// WriteTime is how long every write takes.
	WriteTime time.Duration
	// WriteErr, if set, may fail a write of the blob at an offset.
	WriteErr func(d digest.Digest, offset int64) error

	t        testing.TB
	mu       sync.Mutex // guards what follows
	changed  *sync.Cond // of mu: an ingest was unlocked
	blobs    map[digest.Digest][]byte
	links    map[digest.Digest][]digest.Digest
	ingests  map[digest.Digest]*ingest
	chains   map[digest.Digest]bool
	held     map[digest.Digest]digest.Digest // the chain that a config keeps from being collected
	records  map[string]digest.Digest
	pins     map[digest.Digest]bool
	sessions map[string]int // by key: how many are open or were kept
	blind    int            // how many more looks CRI is behind
	unpacks  int
	written  int64
}

type ingest struct {
	data   []byte
	locked bool
	key    string // of the session that had it last
}

var _ prefetch.Store = (*MemStore)(nil)

// NewMemStore returns an empty store.
func NewMemStore(t testing.TB) *MemStore {
	s := &MemStore{
		t: t, blobs: make(map[digest.Digest][]byte), links: make(map[digest.Digest][]digest.Digest),
		ingests: make(map[digest.Digest]*ingest), chains: make(map[digest.Digest]bool),
		held:    make(map[digest.Digest]digest.Digest),
		records: make(map[string]digest.Digest), pins: make(map[digest.Digest]bool), sessions: make(map[string]int),
	}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// State implements prefetch.Store.
func (s *MemStore) State(_ context.Context, q prefetch.Query) (prefetch.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blind = max(s.blind-1, 0)
	st := prefetch.State{
		Target: q.Target, Names: make(map[string]digest.Digest), Visible: make(map[string]digest.Digest),
		PinSupported: !s.NoPins, Runtime: "memory",
	}
	for i, n := range q.Names {
		if d, ok := s.records[n]; ok {
			st.Names[n] = d
			if i == 0 && st.Target == "" {
				st.Target = d
			}
		}
	}
	var err error
	if st.Manifest, st.Config, st.ChainID, err = s.follow(st.Target, q.Platform); err != nil || st.Config == "" {
		return st, err
	}
	st.Snapshot = s.chains[st.ChainID]
	st.Unpacked = st.Snapshot && s.held[st.Config] == st.ChainID
	if s.blind > 0 {
		return st, nil
	}
	st.Pinned = s.pins[st.Config]
	for n, d := range st.Names {
		if _, config, _, err := s.follow(d, q.Platform); err == nil {
			st.Visible[n] = config
		}
	}
	return st, nil
}

// follow goes from a target to the chain ID. The caller holds s.mu.
func (s *MemStore) follow(target digest.Digest, p platforms.MatchComparer) (manifest, config, chain digest.Digest, err error) {
	var index ocispec.Index
	if !s.decode(target, &index) {
		return "", "", "", nil
	}
	if len(index.Manifests) > 0 {
		chosen, err := prefetch.Choose(index.Manifests, p)
		if err != nil {
			return "", "", "", err
		}
		target = chosen.Digest
	}
	var m ocispec.Manifest
	if !s.decode(target, &m) {
		return "", "", "", nil
	}
	var c ocispec.Image
	if !s.decode(m.Config.Digest, &c) {
		return target, "", "", nil
	}
	return target, m.Config.Digest, identity.ChainID(c.RootFS.DiffIDs), nil
}

func (s *MemStore) decode(d digest.Digest, v any) bool {
	data, ok := s.blobs[d]
	return ok && json.Unmarshal(data, v) == nil
}

// Open implements prefetch.Store.
func (s *MemStore) Open(_ context.Context, key string) (prefetch.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[key] = max(s.sessions[key], 1)
	return &memSession{store: s, key: key}, nil
}

// Pin implements prefetch.Store.
func (s *MemStore) Pin(_ context.Context, id digest.Digest, _ int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.NoPins {
		s.t.Error("Pin was called on a store that knows no pins")
	}
	s.pins[id], s.blind = true, s.Looks
	return nil
}

// Unpin implements prefetch.Store.
// Way implements prefetch.Store.
func (s *MemStore) Way(context.Context) (prefetch.Way, error) {
	return prefetch.Way{Name: prefetch.API, Reason: "the store is in memory"}, nil
}

// Back implements prefetch.Store.
func (s *MemStore) Back(context.Context) error { return nil }

// Space implements prefetch.Store.
func (s *MemStore) Space(context.Context) (prefetch.Space, error) { return prefetch.Space{}, nil }

// Remove implements prefetch.Store.
func (s *MemStore) Remove(context.Context, digest.Digest) error { return errors.ErrUnsupported }

// Watch implements prefetch.Store.
func (s *MemStore) Watch(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}

func (s *MemStore) Unpin(_ context.Context, id digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pins, id)
	return nil
}

// Pins implements prefetch.Store.
func (s *MemStore) Pins(context.Context) ([]prefetch.Pin, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []prefetch.Pin
	for id := range s.pins {
		out = append(out, prefetch.Pin{ImageID: id})
	}
	return out, nil
}

// Sweep implements prefetch.Store.
func (s *MemStore) Sweep(_ context.Context, keep func(string) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.sessions, func(key string, _ int) bool { return !keep(key) })
	maps.DeleteFunc(s.ingests, func(_ digest.Digest, in *ingest) bool { return !in.locked && !keep(in.key) })
	return nil
}

// Sessions is how many sessions are open or were kept.
func (s *MemStore) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// Records are the image records.
func (s *MemStore) Records() map[string]digest.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.records)
}

// Partial is how much there is of a blob that is not complete.
func (s *MemStore) Partial(d digest.Digest) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in := s.ingests[d]; in != nil {
		return int64(len(in.data))
	}
	return 0
}

// Seed makes data the partial content of a blob, as an earlier run or another program would leave it.
func (s *MemStore) Seed(d digest.Digest, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ingests[d] = &ingest{data: slices.Clone(data)}
}

// Written is how many bytes were written in all.
func (s *MemStore) Written() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written
}

// Unpacks is how many images were unpacked.
func (s *MemStore) Unpacks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unpacks
}

// Forget removes a record, and with all, the snapshots too, as a kubelet does that collects garbage.
func (s *MemStore) Forget(name string, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, name)
	if all {
		clear(s.chains)
		clear(s.held)
		clear(s.blobs)
	}
}

// Remove removes all records of the image with this ID and what is held by no other image, as a kubelet does that
// collects garbage.
func (s *MemStore) Lose(id digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
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
	maps.DeleteFunc(s.blobs, func(d digest.Digest, _ []byte) bool { return !blobs[d] })
	maps.DeleteFunc(s.links, func(d digest.Digest, _ []digest.Digest) bool { return !blobs[d] })
	maps.DeleteFunc(s.held, func(d, _ digest.Digest) bool { return !blobs[d] })
	maps.DeleteFunc(s.chains, func(d digest.Digest, _ bool) bool { return !chains[d] })
}

type memSession struct {
	store  *MemStore
	key    string
	closed bool // guarded by store.mu
}

// use locks the store and checks that the session is alive.
func (s *memSession) use(what string) func() {
	s.store.mu.Lock()
	if s.closed {
		s.store.t.Errorf("%s after the session's end", what)
	}
	return s.store.mu.Unlock
}

func (s *memSession) Has(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	defer s.use("Has")()
	_, ok := s.store.blobs[desc.Digest]
	return ok, nil
}

func (s *memSession) Read(_ context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	defer s.use("Read")()
	data, ok := s.store.blobs[desc.Digest]
	if !ok || int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: not there, or more than %d bytes", desc.Digest, limit)
	}
	return data, nil
}

func (s *memSession) Blob(ctx context.Context, desc ocispec.Descriptor, waiting func()) (prefetch.BlobWriter, error) {
	defer s.use("Blob")()
	defer context.AfterFunc(ctx, s.store.wake)()
	for told := false; ; told = true {
		if _, ok := s.store.blobs[desc.Digest]; ok {
			return nil, prefetch.ErrPresent
		}
		in := s.store.ingests[desc.Digest]
		if in == nil {
			in = &ingest{}
			s.store.ingests[desc.Digest] = in
		}
		if !in.locked {
			in.locked, in.key = true, s.key
			return &memWriter{store: s.store, desc: desc, in: in}, nil
		}
		if !told && waiting != nil {
			waiting()
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s.store.changed.Wait()
	}
}

func (s *MemStore) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
}

func (s *memSession) Link(_ context.Context, _ string, desc ocispec.Descriptor, children []ocispec.Descriptor) error {
	defer s.use("Link")()
	if _, ok := s.store.blobs[desc.Digest]; !ok {
		s.store.t.Errorf("Link of %s, which is not complete", desc.Digest)
	}
	for _, c := range children {
		s.store.links[desc.Digest] = append(s.store.links[desc.Digest], c.Digest)
	}
	return nil
}

func (s *memSession) Unpack(_ context.Context, _ string, target ocispec.Descriptor, p platforms.MatchComparer) (
	digest.Digest, error) {
	defer s.use("Unpack")()
	manifest, config, chain, err := s.store.follow(target.Digest, p)
	if err != nil {
		return "", err
	}
	var m ocispec.Manifest
	if !s.store.decode(manifest, &m) {
		s.store.t.Errorf("Unpack of %s, whose manifest is not complete", target.Digest)
	}
	for _, l := range m.Layers {
		if _, ok := s.store.blobs[l.Digest]; !ok && images.IsLayerType(l.MediaType) && !s.store.chains[chain] {
			s.store.t.Errorf("Unpack of %s, whose layer %s is not complete", target.Digest, l.Digest)
		}
		if !slices.Contains(s.store.links[manifest], l.Digest) {
			s.store.t.Errorf("Unpack of %s, whose layer %s is not linked", target.Digest, l.Digest)
		}
	}
	if !s.store.chains[chain] {
		s.store.unpacks++
	}
	s.store.chains[chain], s.store.held[config] = true, chain
	return chain, nil
}

func (s *memSession) Publish(_ context.Context, names []string, target ocispec.Descriptor) error {
	defer s.use("Publish")()
	_, config, chain, err := s.store.follow(target.Digest, platforms.Default())
	if err != nil || !s.store.chains[chain] || s.store.held[config] != chain {
		s.store.t.Errorf("Publish of %s before it was unpacked: %v", target.Digest, err)
	}
	for _, n := range names {
		s.store.records[n] = target.Digest
	}
	s.store.blind = s.store.Looks
	return nil
}

func (s *memSession) Close(_ context.Context, keep bool) error {
	defer s.use("Close")()
	s.closed = true
	for d, in := range s.store.ingests {
		if in.key == s.key && in.locked {
			s.store.t.Errorf("session closed while %s is being written", d)
		}
	}
	if !keep {
		delete(s.store.sessions, s.key)
		maps.DeleteFunc(s.store.ingests, func(_ digest.Digest, in *ingest) bool { return in.key == s.key })
	}
	return nil
}

type memWriter struct {
	store *MemStore
	desc  ocispec.Descriptor
	in    *ingest // nil after Commit or Close
}

func (w *memWriter) Offset() int64 {
	if w.in == nil {
		return 0
	}
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	return int64(len(w.in.data))
}

func (w *memWriter) Write(p []byte) (int, error) {
	time.Sleep(w.store.WriteTime)
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	if w.in == nil {
		return 0, errors.New("write after the end")
	}
	if f := w.store.WriteErr; f != nil {
		if err := f(w.desc.Digest, int64(len(w.in.data))); err != nil {
			return 0, err
		}
	}
	w.in.data = append(w.in.data, p...)
	w.store.written += int64(len(p))
	if int64(len(w.in.data)) > w.desc.Size {
		w.store.t.Errorf("%s: more bytes written than it has", w.desc.Digest)
	}
	return len(p), nil
}

func (w *memWriter) Reset() error {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.in.data = nil
	return nil
}

func (w *memWriter) Commit(context.Context) error {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	data := w.in.data
	delete(w.store.ingests, w.desc.Digest)
	w.in.locked, w.in = false, nil
	w.store.changed.Broadcast()
	if int64(len(data)) != w.desc.Size || digest.FromBytes(data) != w.desc.Digest {
		return fmt.Errorf("%w: %s", prefetch.ErrDigest, w.desc.Digest)
	}
	w.store.blobs[w.desc.Digest] = bytes.Clone(data)
	return nil
}

func (w *memWriter) Close() error {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	if w.in != nil {
		w.in.locked, w.in = false, nil
		w.store.changed.Broadcast()
	}
	return nil
}
