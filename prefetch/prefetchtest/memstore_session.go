package prefetchtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch"
)

type memSession struct {
	store *MemStore
	key   string
	// guarded by store.mu
	closed  bool
	filling bool // AddSnapshot is at work
}

var _ prefetch.DirectSession = (*memSession)(nil)

// use locks the store and checks that the session is alive. With Fault, err may be set before and after.
func (s *memSession) use(what string, err *error) func() {
	after := s.store.fault(what, err)
	s.store.mu.Lock()
	if s.closed {
		s.store.t.Errorf("%s after the session's end", what)
	}
	return func() {
		s.store.mu.Unlock()
		after()
	}
}

func (s *memSession) Has(_ context.Context, desc ocispec.Descriptor) (_ bool, err error) {
	defer s.use("Has", &err)()
	if err != nil {
		return false, err
	}
	_, ok := s.store.blobs[desc.Digest]
	return ok, nil
}

func (s *memSession) Read(_ context.Context, desc ocispec.Descriptor, limit int64) (_ []byte, err error) {
	defer s.use("Read", &err)()
	if err != nil {
		return nil, err
	}
	data, ok := s.store.blobs[desc.Digest]
	if !ok || int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: not there, or more than %d bytes", desc.Digest, limit)
	}
	return data, nil
}

func (s *memSession) Blob(ctx context.Context, desc ocispec.Descriptor, waiting func()) (_ prefetch.BlobWriter, err error) {
	defer s.use("Blob", &err)()
	if err != nil {
		return nil, err
	}
	in, err := s.lock(ctx, desc, waiting)
	if err != nil {
		return nil, err
	}
	return &memWriter{store: s.store, desc: desc, in: in}, nil
}

// lock takes the blob's ingest when nobody has it. The caller holds store.mu, which is given up meanwhile.
func (s *memSession) lock(ctx context.Context, desc ocispec.Descriptor, waiting func()) (*ingest, error) {
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
			return in, nil
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

func (s *memSession) Link(_ context.Context, _ string, desc ocispec.Descriptor, children []ocispec.Descriptor) (err error) {
	defer s.use("Link", &err)()
	if err != nil {
		return err
	}
	if _, ok := s.store.blobs[desc.Digest]; !ok {
		s.store.t.Errorf("Link of %s, which is not complete", desc.Digest)
	}
	for _, c := range children {
		s.store.links[desc.Digest] = append(s.store.links[desc.Digest], c.Digest)
	}
	return nil
}

func (s *memSession) Unpack(_ context.Context, _ string, target ocispec.Descriptor, p platforms.MatchComparer) (
	_ digest.Digest, err error) {
	defer s.use("Unpack", &err)()
	if err != nil {
		return "", err
	}
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

func (s *memSession) Publish(_ context.Context, names []string, target ocispec.Descriptor) (err error) {
	defer s.use("Publish", &err)()
	if err != nil {
		return err
	}
	manifest, config, chain, err := s.store.follow(target.Digest, platforms.Default())
	if err == nil && !slices.Contains(s.store.links[manifest], config) {
		s.store.t.Errorf("Publish of %s, whose config is not linked", target.Digest)
	}
	if err != nil || !s.store.chains[chain] || s.store.held[config] != chain {
		s.store.t.Errorf("Publish of %s before it was unpacked: %v", target.Digest, err)
	}
	for _, n := range names {
		s.store.records[n] = target.Digest
	}
	s.store.blind = s.store.Looks
	s.store.notify()
	return nil
}

func (s *memSession) Close(_ context.Context, keep bool) (err error) {
	defer s.use("Close", &err)()
	if err != nil {
		return err
	}
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
