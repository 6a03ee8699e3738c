package prefetchtest

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

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
	// Direct opens the direct way; Closed is the reason if it is not set.
	Direct bool
	Closed string
	// Discards and DiscardsKnown are what the daemon says of itself.
	Discards, DiscardsKnown bool
	// Fault, if set, is asked before a method does its work (done is false) and after (done is true), by the method's name, and
	// may fail it: not persisted, and persisted.
	Fault func(method string, done bool) error

	t        testing.TB
	mu       sync.Mutex // guards what follows
	changed  *sync.Cond // of mu: an ingest was unlocked
	blobs    map[digest.Digest][]byte
	links    map[digest.Digest][]digest.Digest
	ingests  map[digest.Digest]*ingest
	chains   map[digest.Digest]bool
	held     map[digest.Digest]digest.Digest // the chain that a config keeps from being collected
	records  map[string]digest.Digest
	pins     map[digest.Digest]memPin
	users    map[digest.Digest]string // by image ID: a container
	kept     map[string]memKept       // by key: artifacts
	sessions map[string]int           // by key: how many are open or were kept
	watchers map[chan struct{}]bool
	space    prefetch.Space
	root     string                          // of staging, trees and snapshots
	dirs     map[digest.Digest]string        // by chain ID, of snapshots that were filled
	parents  map[digest.Digest]digest.Digest // by chain ID
	unpacked int                             // how many snapshots were begun
	blind    int                             // how many more looks CRI is behind
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
		records: make(map[string]digest.Digest), pins: make(map[digest.Digest]memPin), sessions: make(map[string]int),
		users: make(map[digest.Digest]string), kept: make(map[string]memKept), watchers: make(map[chan struct{}]bool), root: t.TempDir(),
		dirs: make(map[digest.Digest]string), parents: make(map[digest.Digest]digest.Digest),
	}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// fault asks Fault before a method, and with what it returns, after it. An error of the method comes first.
func (s *MemStore) fault(method string, err *error) func() {
	if s.Fault == nil {
		return func() {}
	}
	*err = s.Fault(method, false)
	if *err != nil {
		return func() {}
	}
	return func() {
		if *err == nil {
			*err = s.Fault(method, true)
		}
	}
}

// State implements prefetch.Store.
func (s *MemStore) State(_ context.Context, q prefetch.Query) (st prefetch.State, err error) {
	defer s.fault("State", &err)()
	if err != nil {
		return st, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blind = max(s.blind-1, 0)
	st = prefetch.State{
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
	if st.Target == "" && len(q.Names) > 0 {
		st.Target = s.targetOf(q.Names[0])
	}
	if s.lookAtArtifact(q, &st) {
		return st, nil
	}
	if st.Manifest, st.Config, st.ChainID, err = s.follow(st.Target, q.Platform); err != nil || st.Config == "" {
		return st, err
	}
	st.Snapshot = s.chains[st.ChainID]
	st.Unpacked = st.Snapshot && s.held[st.Config] == st.ChainID
	if s.blind > 0 {
		return st, nil
	}
	_, st.Pinned = s.pins[st.Config]
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
func (s *MemStore) Open(_ context.Context, key string) (_ prefetch.Session, err error) {
	defer s.fault("Open", &err)()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[key] = max(s.sessions[key], 1)
	return &memSession{store: s, key: key}, nil
}

// Sweep implements prefetch.Store.
func (s *MemStore) Sweep(_ context.Context, keep func(string) bool) (err error) {
	defer s.fault("Sweep", &err)()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.sessions, func(key string, _ int) bool { return !keep(key) })
	maps.DeleteFunc(s.kept, func(key string, k memKept) bool { return s.pins[k.manifest] == memPin{} && !keep(key) })
	maps.DeleteFunc(s.ingests, func(_ digest.Digest, in *ingest) bool { return !in.locked && !keep(in.key) })
	return nil
}

// Release implements prefetch.Store.
func (s *MemStore) Release(_ context.Context, key string) (err error) {
	defer s.fault("Release", &err)()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, key)
	maps.DeleteFunc(s.ingests, func(_ digest.Digest, in *ingest) bool { return !in.locked && in.key == key })
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

// Damage changes a complete blob, as a bad disk does.
func (s *MemStore) Damage(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[d] = bytes.Clone(s.blobs[d])
	s.blobs[d][len(s.blobs[d])/2] ^= 1
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
