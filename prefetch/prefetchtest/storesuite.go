package prefetchtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// TestStore shows that a store keeps the promises of prefetch.Store, at the store itself. newStore may return the same
// store each time.
func TestStore(t *testing.T, newStore func(testing.TB) prefetch.Store) {
	for name, test := range map[string]func(*storeTest, *testing.T){
		"a blob written in pieces is complete":           (*storeTest).pieces,
		"a partial blob goes on in the next session":     (*storeTest).resume,
		"a partial blob can be forgotten":                (*storeTest).reset,
		"wrong content is refused and leaves nothing":    (*storeTest).wrongContent,
		"a second writer waits for the first":            (*storeTest).secondWriter,
		"a second writer that is cancelled gives up":     (*storeTest).cancelledWriter,
		"an image is there when it is published":         (*storeTest).publish,
		"a pin is there until it is removed":             (*storeTest).pin,
		"what is not there is not there":                 (*storeTest).nothing,
		"sweeping removes what nobody wants":             (*storeTest).sweep,
		"what a session left can be released":            (*storeTest).release,
		"an artifact is kept until nobody wants it":      (*storeTest).keep,
		"unpacking what is unpacked already is no error": (*storeTest).unpackTwice,
		"snapshots of another image are not its own":     (*storeTest).shared,
		"an image that is removed is gone":               (*storeTest).remove,
		"who watches is told of changes":                 (*storeTest).watch,
	} {
		t.Run(name, func(t *testing.T) {
			img := Build(t, seedOf(name), 3*Chunk, 1000)
			test(&storeTest{Store: newStore(t), img: img, ref: "example.com/" + dashed(name) + ":v1"}, t)
		})
	}
}

// seedOf is the seed of a test's own image. Names of tests are stable, so images are. Build takes 16 bits of it.
func seedOf(name string) uint64 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // never fails
	return uint64(h.Sum32())
}

func dashed(s string) string { return string(bytes.ReplaceAll([]byte(s), []byte(" "), []byte("-"))) }

type storeTest struct {
	prefetch.Store
	img *Image
	ref string
}

func (s *storeTest) open(t *testing.T) prefetch.Session {
	t.Helper()
	session, err := s.Open(t.Context(), dashed(t.Name())[max(0, len(t.Name())-16):])
	if err != nil {
		t.Fatal(err)
	}
	return session
}

func closeSession(t *testing.T, session prefetch.Session, keep bool) {
	t.Helper()
	if err := session.Close(t.Context(), keep); err != nil {
		t.Errorf("close the session: %v", err)
	}
}

func blob(t *testing.T, session prefetch.Session, desc ocispec.Descriptor) prefetch.BlobWriter {
	t.Helper()
	w, err := session.Blob(t.Context(), desc, nil)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func write(t *testing.T, w prefetch.BlobWriter, p []byte) {
	t.Helper()
	if n, err := w.Write(p); n != len(p) || err != nil {
		t.Fatalf("wrote %d of %d bytes: %v", n, len(p), err)
	}
}

// put makes blobs complete.
func (s *storeTest) put(t *testing.T, session prefetch.Session, descs ...ocispec.Descriptor) {
	t.Helper()
	for _, d := range descs {
		w, err := session.Blob(t.Context(), d, nil)
		if errors.Is(err, prefetch.ErrPresent) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		write(t, w, s.img.Blobs[d.Digest])
		if err := w.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Errorf("close after commit: %v", err)
		}
	}
}

// complete puts the whole image and unpacks it.
func (s *storeTest) complete(t *testing.T, session prefetch.Session) {
	t.Helper()
	s.put(t, session, append([]ocispec.Descriptor{s.img.Manifest, s.img.Config}, s.img.Layers...)...)
	children := append([]ocispec.Descriptor{s.img.Config}, s.img.Layers...)
	if err := session.Link(t.Context(), s.ref, s.img.Manifest, children); err != nil {
		t.Fatal(err)
	}
	chain, err := session.Unpack(t.Context(), s.ref, s.img.Manifest, platforms.Default())
	if err != nil || chain != s.img.ChainID {
		t.Fatalf("unpacked %s, %v; want %s", chain, err, s.img.ChainID)
	}
}

func (s *storeTest) state(t *testing.T, names ...string) prefetch.State {
	t.Helper()
	st, err := s.State(t.Context(), prefetch.Query{Names: names, Target: s.img.Manifest.Digest, Platform: platforms.Default()})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// until waits for a state.
func (s *storeTest) until(t *testing.T, what string, ok func(prefetch.State) bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok(s.state(t, s.ref)) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come true: %+v", what, s.state(t, s.ref))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (s *storeTest) pieces(t *testing.T) {
	session := s.open(t)
	defer closeSession(t, session, false)
	layer := s.img.Layers[0]
	w := blob(t, session, layer)
	for piece := range slices.Chunk(s.img.Blobs[layer.Digest], 10_000) {
		write(t, w, piece)
	}
	if w.Offset() != layer.Size {
		t.Errorf("offset %d, want %d", w.Offset(), layer.Size)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Close()
	got, err := session.Read(t.Context(), layer, layer.Size)
	if err != nil || !bytes.Equal(got, s.img.Blobs[layer.Digest]) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if has, err := session.Has(t.Context(), layer); !has || err != nil {
		t.Errorf("Has says %v, %v", has, err)
	}
	if _, err := session.Blob(t.Context(), layer, nil); !errors.Is(err, prefetch.ErrPresent) {
		t.Errorf("opened again: %v, want ErrPresent", err)
	}
}

func (s *storeTest) resume(t *testing.T) {
	layer := s.img.Layers[0]
	data := s.img.Blobs[layer.Digest]
	first := s.open(t)
	w := blob(t, first, layer)
	write(t, w, data[:Chunk])
	w.Close()
	closeSession(t, first, true)

	second := s.open(t)
	defer closeSession(t, second, false)
	w = blob(t, second, layer)
	defer w.Close()
	if w.Offset() != Chunk {
		t.Fatalf("offset %d, want %d", w.Offset(), Chunk)
	}
	write(t, w, data[Chunk:])
	if err := w.Commit(t.Context()); err != nil {
		t.Error(err)
	}
}

func (s *storeTest) reset(t *testing.T) {
	session := s.open(t)
	defer closeSession(t, session, false)
	layer := s.img.Layers[0]
	w := blob(t, session, layer)
	defer w.Close()
	write(t, w, make([]byte, Chunk))
	if err := w.Reset(); err != nil || w.Offset() != 0 {
		t.Fatalf("offset %d after Reset: %v", w.Offset(), err)
	}
	write(t, w, s.img.Blobs[layer.Digest])
	if err := w.Commit(t.Context()); err != nil {
		t.Error(err)
	}
}

func (s *storeTest) wrongContent(t *testing.T) {
	session := s.open(t)
	defer closeSession(t, session, false)
	layer := s.img.Layers[0]
	w := blob(t, session, layer)
	write(t, w, make([]byte, layer.Size))
	if err := w.Commit(t.Context()); !errors.Is(err, prefetch.ErrDigest) {
		t.Fatalf("committed wrong content: %v, want ErrDigest", err)
	}
	w.Close()
	w = blob(t, session, layer)
	defer w.Close()
	if w.Offset() != 0 {
		t.Errorf("%d bytes of the wrong content are left", w.Offset())
	}
	write(t, w, s.img.Blobs[layer.Digest])
	if err := w.Commit(t.Context()); err != nil {
		t.Error(err)
	}
}

func (s *storeTest) secondWriter(t *testing.T) {
	session := s.open(t)
	defer closeSession(t, session, false)
	layer := s.img.Layers[0]
	w := blob(t, session, layer)
	waiting, result := make(chan struct{}), make(chan error)
	go func() {
		_, err := session.Blob(t.Context(), layer, func() { close(waiting) })
		result <- err
	}()
	<-waiting
	write(t, w, s.img.Blobs[layer.Digest])
	if err := w.Commit(t.Context()); err != nil {
		t.Error(err)
	}
	w.Close()
	if err := <-result; !errors.Is(err, prefetch.ErrPresent) {
		t.Errorf("the second writer got %v, want ErrPresent", err)
	}
}

func (s *storeTest) cancelledWriter(t *testing.T) {
	session := s.open(t)
	defer closeSession(t, session, false)
	w := blob(t, session, s.img.Layers[0])
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := session.Blob(ctx, s.img.Layers[0], cancel)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the second writer got %v, want that it was cancelled", err)
	}
}

func (s *storeTest) publish(t *testing.T) {
	session := s.open(t)
	s.complete(t, session)
	if st := s.state(t, s.ref); !st.Unpacked || st.Names[s.ref] != "" || len(st.Visible) > 0 {
		t.Errorf("before it is published: %+v", st)
	}
	other := "example.com/other/name:v1"
	if err := session.Publish(t.Context(), []string{s.ref, other}, s.img.Manifest); err != nil {
		t.Fatal(err)
	}
	if err := session.Publish(t.Context(), []string{s.ref}, s.img.Manifest); err != nil {
		t.Errorf("a second time: %v", err)
	}
	closeSession(t, session, false)
	s.until(t, "visible under both names", func(prefetch.State) bool {
		st := s.state(t, s.ref, other)
		return st.Visible[s.ref] == s.img.Config.Digest && st.Visible[other] == s.img.Config.Digest
	})
	st := s.state(t, s.ref)
	if st.Manifest != s.img.Manifest.Digest || st.Config != s.img.Config.Digest || st.ChainID != s.img.ChainID ||
		!st.Unpacked || st.Pinned || st.Runtime == "" {
		t.Errorf("state: %+v", st)
	}
	if size, err := s.Size(t.Context(), st); err != nil || size < 2*s.img.Size()-4096 || size > 3*s.img.Size() {
		t.Errorf("it takes %d bytes, with layers of %d: %v", size, s.img.Size(), err)
	}
}

func (s *storeTest) pin(t *testing.T) {
	session := s.open(t)
	s.complete(t, session)
	if err := session.Publish(t.Context(), []string{s.ref}, s.img.Manifest); err != nil {
		t.Fatal(err)
	}
	closeSession(t, session, false)
	id := s.img.Config.Digest
	s.until(t, "visible", func(st prefetch.State) bool { return st.Visible[s.ref] == id })
	if !s.state(t).PinSupported {
		return
	}
	for _, size := range []int64{1000, 1000, 2000} {
		if err := s.Pin(t.Context(), id, size); err != nil {
			t.Fatal(err)
		}
		s.until(t, "pinned", func(st prefetch.State) bool { return st.Pinned })
		want := prefetch.Pin{ImageID: id, Target: s.img.Manifest.Digest, Size: size}
		if pins, err := s.Pins(t.Context()); err != nil || !slices.Contains(pins, want) {
			t.Errorf("pins: %v, %v; want %v", pins, err, want)
		}
	}
	for range 2 {
		if err := s.Unpin(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	s.until(t, "unpinned", func(st prefetch.State) bool { return !st.Pinned })
	if err := s.Unpin(t.Context(), digest.FromString("nothing")); err != nil {
		t.Errorf("unpin what is not there: %v", err)
	}
}

func (s *storeTest) nothing(t *testing.T) {
	session := s.open(t)
	defer closeSession(t, session, false)
	if has, err := session.Has(t.Context(), s.img.Config); has || err != nil {
		t.Errorf("Has says %v, %v", has, err)
	}
	if st := s.state(t, s.ref); len(st.Names) > 0 || st.Manifest != "" || st.Unpacked {
		t.Errorf("state: %+v", st)
	}
	st, err := s.State(t.Context(), prefetch.Query{Names: []string{s.ref}, Platform: platforms.Default()})
	if err != nil || st.Target != "" {
		t.Errorf("state: %+v, %v", st, err)
	}
}

func (s *storeTest) sweep(t *testing.T) {
	session := s.open(t)
	w := blob(t, session, s.img.Layers[0])
	write(t, w, s.img.Blobs[s.img.Layers[0].Digest][:Chunk])
	w.Close()
	closeSession(t, session, true)
	kept := 0
	if err := s.Sweep(t.Context(), func(string) bool { kept++; return true }); err != nil {
		t.Fatal(err)
	}
	if kept == 0 {
		t.Error("nothing to sweep after a session that was kept")
	}
	for range 2 {
		if err := s.Sweep(t.Context(), func(string) bool { return false }); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sweep(t.Context(), func(key string) bool { t.Errorf("%s was left", key); return true }); err != nil {
		t.Fatal(err)
	}
}

func (s *storeTest) release(t *testing.T) {
	session := s.open(t)
	w := blob(t, session, s.img.Layers[0])
	write(t, w, s.img.Blobs[s.img.Layers[0].Digest][:Chunk])
	w.Close()
	closeSession(t, session, true)
	var key string
	if err := s.Sweep(t.Context(), func(k string) bool { key = k; return true }); err != nil {
		t.Fatal(err)
	}
	if err := s.Release(t.Context(), key+"-other"); err != nil {
		t.Fatal(err)
	}
	for _, left := range []int{1, 0} {
		n := 0
		if err := s.Sweep(t.Context(), func(string) bool { n++; return true }); err != nil || n < left || left == 0 && n > 0 {
			t.Errorf("%d sessions are left, want %d: %v", n, left, err)
		}
		if err := s.Release(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *storeTest) keep(t *testing.T) {
	s.img = BuildArtifact(t, 23, 1000)
	session := s.open(t)
	s.put(t, session, append([]ocispec.Descriptor{s.img.Manifest, s.img.Config}, s.img.Layers...)...)
	err := session.Link(t.Context(), s.ref, s.img.Manifest, append([]ocispec.Descriptor{s.img.Config}, s.img.Layers...))
	if err != nil {
		t.Fatal(err)
	}
	if st := s.state(t, s.ref); st.Artifact != ArtifactType || !st.Whole || len(st.Names) > 0 {
		t.Errorf("before it is kept: %+v", st)
	}
	if err := session.Keep(t.Context(), []string{s.ref}, s.img.Manifest, s.img.Manifest.Digest); err != nil {
		t.Fatal(err)
	}
	closeSession(t, session, false)
	if err := s.Pin(t.Context(), s.img.Manifest.Digest, 1000); err != nil {
		t.Fatal(err)
	}
	none := func(string) bool { return false }
	if err := s.Sweep(t.Context(), none); err != nil {
		t.Fatal(err)
	}
	st, err := s.State(t.Context(), prefetch.Query{Names: []string{s.ref}, Platform: platforms.Default()})
	if err != nil || st.Names[s.ref] != s.img.Manifest.Digest || !st.Pinned || st.Config != "" || len(st.Visible) > 0 {
		t.Errorf("pinned: %+v, %v", st, err)
	}
	if err := s.Unpin(t.Context(), s.img.Manifest.Digest); err != nil {
		t.Fatal(err)
	}
	if st := s.state(t, s.ref); st.Names[s.ref] == "" {
		t.Error("it is gone before a sweep")
	}
	if err := s.Sweep(t.Context(), none); err != nil {
		t.Fatal(err)
	}
	if st := s.state(t, s.ref); len(st.Names) > 0 {
		t.Errorf("after a sweep: %+v", st)
	}
}

func (s *storeTest) unpackTwice(t *testing.T) {
	session := s.open(t)
	defer closeSession(t, session, false)
	s.complete(t, session)
	s.complete(t, session)
}

// shared is an image whose snapshots are there because another has the same layers.
func (s *storeTest) shared(t *testing.T) {
	session := s.open(t)
	defer closeSession(t, session, false)
	s.complete(t, session)
	s.img = s.img.Reconfigured(t)
	s.put(t, session, s.img.Manifest, s.img.Config) // no layers
	children := append([]ocispec.Descriptor{s.img.Config}, s.img.Layers...)
	if err := session.Link(t.Context(), s.ref, s.img.Manifest, children); err != nil {
		t.Fatal(err)
	}
	if st := s.state(t, s.ref); !st.Snapshot || st.Unpacked {
		t.Errorf("before it is unpacked: %+v", st)
	}
	chain, err := session.Unpack(t.Context(), s.ref, s.img.Manifest, platforms.Default())
	if err != nil || chain != s.img.ChainID {
		t.Errorf("unpacked %s, %v; want %s", chain, err, s.img.ChainID)
	}
	if st := s.state(t, s.ref); !st.Snapshot || !st.Unpacked {
		t.Errorf("after it is unpacked: %+v", st)
	}
}

func (s *storeTest) remove(t *testing.T) {
	session := s.open(t)
	s.complete(t, session)
	other, id := "example.com/another/name:v1", s.img.Config.Digest
	if err := session.Publish(t.Context(), []string{s.ref, other}, s.img.Manifest); err != nil {
		t.Fatal(err)
	}
	closeSession(t, session, false)
	s.until(t, "visible", func(st prefetch.State) bool { return st.Visible[s.ref] == id })
	for range 2 {
		if err := s.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	s.until(t, "gone", func(st prefetch.State) bool {
		return len(s.state(t, s.ref, other).Names) == 0 && st.Config == "" && !st.Snapshot
	})
}

func (s *storeTest) watch(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	changed, result := make(chan struct{}), make(chan error, 1)
	go func() {
		result <- s.Watch(ctx, func() {
			select {
			case changed <- struct{}{}:
			case <-ctx.Done():
			}
		})
	}()
	session := s.open(t)
	s.complete(t, session)
	// Nobody tells when the watch has begun.
	for n := 0; ; n++ {
		name := fmt.Sprintf("example.com/watched:v%d", n)
		if err := session.Publish(t.Context(), []string{name}, s.img.Manifest); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
		case <-time.After(100 * time.Millisecond):
			continue
		}
		break
	}
	closeSession(t, session, false)
	if err := s.Remove(t.Context(), s.img.Config.Digest); err != nil {
		t.Fatal(err)
	}
	<-changed
	cancel()
	if err := <-result; err != nil {
		t.Errorf("the end of the watch: %v", err)
	}
}
