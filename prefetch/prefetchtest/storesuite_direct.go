package prefetchtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// TestDirectStore shows that a store whose way is direct keeps the promises of prefetch.DirectSession. newStore may return
// the same store each time.
func TestDirectStore(t *testing.T, newStore func(testing.TB) prefetch.Store) {
	for name, test := range map[string]func(*directTest, *testing.T){
		"the way has two directories":                  (*directTest).directories,
		"an adopted file is the blob":                  (*directTest).adopt,
		"a small adopted file is the blob":             (*directTest).adoptEmpty,
		"a hold keeps a writer waiting":                (*directTest).writerWaits,
		"a second hold finds what the first adopted":   (*directTest).secondHold,
		"a second hold that is cancelled gives up":     (*directTest).cancelledHold,
		"what was written partly is no hindrance":      (*directTest).partial,
		"snapshots are made one on another":            (*directTest).snapshots,
		"a snapshot that is there is not filled":       (*directTest).snapshotTwice,
		"a snapshot that cannot be filled leaves none": (*directTest).cannotFill,
		"an image that was brought in is there":        (*directTest).whole,
		"an image without its layers is there":         (*directTest).discarded,
	} {
		t.Run(name, func(t *testing.T) {
			img := Build(t, seedOf(name), 2*Chunk, 1000, 2000)
			s := &directTest{storeTest: storeTest{Store: newStore(t), img: img, ref: "example.com/" + dashed(name) + ":v1"}}
			var err error
			if s.way, err = s.Way(t.Context()); err != nil || s.way.Name != prefetch.Direct {
				t.Fatalf("the way is not direct: %+v, %v", s.way, err)
			}
			test(s, t)
		})
	}
}

// TestClosedWay shows that a store still names the directories of the direct way when that has closed, and only then.
// newStore returns one whose way is direct or not, with the same owner and the same directories each time.
func TestClosedWay(t *testing.T, newStore func(direct bool) prefetch.Store) {
	look := func(direct bool) prefetch.Way {
		t.Helper()
		way, err := newStore(direct).Way(t.Context())
		if err != nil || (way.Name == prefetch.Direct) != direct {
			t.Fatalf("direct is to be %v: %+v, %v", direct, way, err)
		}
		return way
	}
	if way := look(false); way.Staging != "" || way.Trees != "" {
		t.Errorf("before it was open: %+v", way)
	}
	open := look(true)
	if way := look(false); way.Staging != open.Staging || way.Trees != open.Trees {
		t.Errorf("when it has closed: %+v, want the directories of %+v", way, open)
	}
}

type directTest struct {
	storeTest
	way prefetch.Way
}

func (s *directTest) openDirect(t *testing.T) prefetch.DirectSession {
	t.Helper()
	session, ok := s.open(t).(prefetch.DirectSession)
	if !ok {
		t.Fatal("the session is not direct")
	}
	return session
}

// LayerSnapshots names the snapshots of the image, the first layer's first.
func (img *Image) LayerSnapshots(t testing.TB) []prefetch.LayerSnapshot {
	t.Helper()
	var config ocispec.Image
	if err := json.Unmarshal(img.Blobs[img.Config.Digest], &config); err != nil {
		t.Fatalf("parse the config: %v", err)
	}
	var out []prefetch.LayerSnapshot
	for i, d := range config.RootFS.DiffIDs {
		l := prefetch.LayerSnapshot{DiffID: d, Chain: identity.ChainID(config.RootFS.DiffIDs[:i+1])}
		if i > 0 {
			l.Parent = out[i-1].Chain
		}
		out = append(out, l)
	}
	return out
}

// Stage writes a blob of the image into the staging directory.
func (img *Image) Stage(t testing.TB, way prefetch.Way, desc ocispec.Descriptor) (path string) {
	t.Helper()
	path = filepath.Join(way.Staging, desc.Digest.Encoded())
	if err := os.WriteFile(path, img.Blobs[desc.Digest], 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	return path
}

// Adopt brings in blobs of the image by link.
func (img *Image) Adopt(t testing.TB, way prefetch.Way, session prefetch.DirectSession, descs ...ocispec.Descriptor) {
	t.Helper()
	for _, desc := range descs {
		h, err := session.Hold(t.Context(), desc, nil)
		if errors.Is(err, prefetch.ErrPresent) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Adopt(t.Context(), img.Stage(t, way, desc), img.diffID(t, desc)); err != nil {
			t.Fatal(err)
		}
	}
}

// diffID is that of a layer; what is no layer has none.
func (img *Image) diffID(t testing.TB, desc ocispec.Descriptor) digest.Digest {
	t.Helper()
	for i, l := range img.Layers {
		if l.Digest == desc.Digest {
			return img.LayerSnapshots(t)[i].DiffID
		}
	}
	return ""
}

func hold(t *testing.T, session prefetch.DirectSession, desc ocispec.Descriptor) prefetch.Hold {
	t.Helper()
	h, err := session.Hold(t.Context(), desc, nil)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (s *directTest) directories(t *testing.T) {
	for _, dir := range []string{s.way.Staging, s.way.Trees} {
		info, err := os.Stat(dir)
		if err != nil || info.Mode() != os.ModeDir|0o700 {
			t.Errorf("%s: %v, %v", dir, info, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("%s is not empty: %v, %v", dir, entries, err)
		}
	}
	if again, err := s.Way(t.Context()); err != nil || again != s.way {
		t.Errorf("asked again: %+v, %v; first %+v", again, err, s.way)
	}
}

func (s *directTest) adopt(t *testing.T)      { s.adoptBlob(t, s.img.Layers[0]) }
func (s *directTest) adoptEmpty(t *testing.T) { s.adoptBlob(t, s.img.Config) }

func (s *directTest) adoptBlob(t *testing.T, desc ocispec.Descriptor) {
	session := s.openDirect(t)
	defer closeSession(t, session, false)
	h, path := hold(t, session, desc), s.img.Stage(t, s.way, desc)
	if err := h.Adopt(t.Context(), path, s.img.diffID(t, desc)); err != nil {
		t.Fatal(err)
	}
	h.Release() // does nothing
	if has, err := session.Has(t.Context(), desc); !has || err != nil {
		t.Errorf("Has says %v, %v", has, err)
	}
	want := s.img.Blobs[desc.Digest]
	if got, err := session.Read(t.Context(), desc, desc.Size); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	r, err := session.OpenBlob(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Errorf("opened and read %d bytes, %v", len(got), err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the staged file has %d bytes, %v", len(got), err)
	}
	if _, err := session.Hold(t.Context(), desc, nil); !errors.Is(err, prefetch.ErrPresent) {
		t.Errorf("held again: %v, want ErrPresent", err)
	}
}

func (s *directTest) writerWaits(t *testing.T) {
	session := s.openDirect(t)
	defer closeSession(t, session, false)
	layer := s.img.Layers[0]
	h := hold(t, session, layer)
	waiting, result := make(chan struct{}), make(chan error)
	go func() {
		w, err := session.Blob(t.Context(), layer, func() { close(waiting) })
		if err == nil {
			if w.Offset() != 0 {
				err = errors.New("the blob is not empty")
			}
			w.Close()
		}
		result <- err
	}()
	<-waiting
	h.Release()
	if err := <-result; err != nil {
		t.Errorf("the writer after a hold that was released: %v", err)
	}
}

func (s *directTest) secondHold(t *testing.T) {
	session := s.openDirect(t)
	defer closeSession(t, session, false)
	layer := s.img.Layers[0]
	h := hold(t, session, layer)
	waiting, result := make(chan struct{}), make(chan error)
	go func() {
		_, err := session.Hold(t.Context(), layer, func() { close(waiting) })
		result <- err
	}()
	<-waiting
	if err := h.Adopt(t.Context(), s.img.Stage(t, s.way, layer), s.img.diffID(t, layer)); err != nil {
		t.Error(err)
	}
	if err := <-result; !errors.Is(err, prefetch.ErrPresent) {
		t.Errorf("the second hold got %v, want ErrPresent", err)
	}
}

func (s *directTest) cancelledHold(t *testing.T) {
	session := s.openDirect(t)
	defer closeSession(t, session, false)
	defer hold(t, session, s.img.Layers[0]).Release()
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := session.Hold(ctx, s.img.Layers[0], cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("the second hold got %v, want that it was cancelled", err)
	}
}

// partial is a blob that another pull has begun to write and left.
func (s *directTest) partial(t *testing.T) {
	session := s.openDirect(t)
	defer closeSession(t, session, false)
	layer := s.img.Layers[0]
	w := blob(t, session, layer)
	write(t, w, s.img.Blobs[layer.Digest][:Chunk])
	w.Close()
	s.img.Adopt(t, s.way, session, layer)
	if got, err := session.Read(t.Context(), layer, layer.Size); err != nil || !bytes.Equal(got, s.img.Blobs[layer.Digest]) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

// add makes a snapshot with one file in it, that is named after it, and returns the names of what was below.
func add(t *testing.T, session prefetch.DirectSession, layer prefetch.LayerSnapshot) (below []string) {
	t.Helper()
	err := session.AddSnapshot(t.Context(), layer, func(upper string, lowers []string) error {
		if entries, err := os.ReadDir(upper); err != nil || len(entries) > 0 {
			t.Errorf("the directory of %s is not empty: %v, %v", layer.Chain, entries, err)
		}
		for _, dir := range lowers {
			entries, err := os.ReadDir(dir)
			if err != nil {
				return err
			}
			for _, e := range entries {
				below = append(below, e.Name())
			}
		}
		return os.WriteFile(filepath.Join(upper, layer.Chain.Encoded()), nil, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return below
}

func (s *directTest) snapshots(t *testing.T) {
	session := s.openDirect(t)
	defer closeSession(t, session, false)
	var want []string
	for _, layer := range s.img.LayerSnapshots(t) {
		if has, err := session.HasSnapshot(t.Context(), layer.Chain); has || err != nil {
			t.Errorf("before it is made, HasSnapshot says %v, %v", has, err)
		}
		if d := cmp.Diff(want, add(t, session, layer)); d != "" {
			t.Errorf("below %s (-want +got):\n%s", layer.Chain, d)
		}
		if has, err := session.HasSnapshot(t.Context(), layer.Chain); !has || err != nil {
			t.Errorf("after it is made, HasSnapshot says %v, %v", has, err)
		}
		want = append([]string{layer.Chain.Encoded()}, want...)
	}
}

func (s *directTest) snapshotTwice(t *testing.T) {
	session := s.openDirect(t)
	defer closeSession(t, session, false)
	layer := s.img.LayerSnapshots(t)[0]
	add(t, session, layer)
	err := session.AddSnapshot(t.Context(), layer, func(string, []string) error {
		t.Error("it is filled again")
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func (s *directTest) cannotFill(t *testing.T) {
	session := s.openDirect(t)
	defer closeSession(t, session, false)
	layer := s.img.LayerSnapshots(t)[0]
	broken := errors.New("broken")
	err := session.AddSnapshot(t.Context(), layer, func(upper string, _ []string) error {
		return errors.Join(broken, os.WriteFile(filepath.Join(upper, "half"), nil, 0o644))
	})
	if !errors.Is(err, broken) {
		t.Errorf("%v, want the error of fill", err)
	}
	if has, err := session.HasSnapshot(t.Context(), layer.Chain); has || err != nil {
		t.Errorf("HasSnapshot says %v, %v", has, err)
	}
	add(t, session, layer)
}

// bringIn does all that an engine does with an image, with the blobs that are given.
func (s *directTest) bringIn(t *testing.T, session prefetch.DirectSession, blobs, children []ocispec.Descriptor) {
	t.Helper()
	s.img.Adopt(t, s.way, session, blobs...)
	if err := session.Link(t.Context(), s.ref, s.img.Manifest, children); err != nil {
		t.Fatal(err)
	}
	for _, l := range s.img.LayerSnapshots(t) {
		add(t, session, l)
	}
	if st := s.state(t); !st.Snapshot || st.Unpacked {
		t.Errorf("before the config holds the snapshots: %+v", st)
	}
	if err := session.Unpacked(t.Context(), s.img.Config, s.img.ChainID); err != nil {
		t.Fatal(err)
	}
	if err := session.Publish(t.Context(), []string{s.ref}, s.img.Manifest); err != nil {
		t.Fatal(err)
	}
	closeSession(t, session, false)
	id := s.img.Config.Digest
	s.until(t, "visible", func(st prefetch.State) bool { return st.Visible[s.ref] == id })
	if st := s.state(t, s.ref); !st.Snapshot || !st.Unpacked || st.ChainID != s.img.ChainID {
		t.Errorf("state: %+v", st)
	}
}

func (s *directTest) whole(t *testing.T) {
	children := append([]ocispec.Descriptor{s.img.Config}, s.img.Layers...)
	s.bringIn(t, s.openDirect(t), append(children, s.img.Manifest), children)
}

func (s *directTest) discarded(t *testing.T) {
	children := []ocispec.Descriptor{s.img.Config}
	s.bringIn(t, s.openDirect(t), append(children, s.img.Manifest), children)
}
