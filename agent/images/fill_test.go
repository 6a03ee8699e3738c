package images

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

// slowStore holds back the first image that is unpacked until release is closed.
type slowStore struct {
	*prefetchtest.MemStore
	held    *atomic.Bool
	release chan struct{}
}

func (s slowStore) Open(ctx context.Context, key string) (prefetch.Session, error) {
	session, err := s.MemStore.Open(ctx, key)
	return slowSession{Session: session, store: s}, err
}

type slowSession struct {
	prefetch.Session
	store slowStore
}

func (s slowSession) Unpack(ctx context.Context, ref string, target ocispec.Descriptor, p platforms.MatchComparer) (
	digest.Digest, error) {
	if s.store.held.CompareAndSwap(false, true) {
		<-s.store.release
	}
	return s.Session.Unpack(ctx, ref, target, p)
}

// real is a Worker on a real Prefetcher that works until the test ends.
type real struct {
	*Worker
	t   testing.TB
	ctx context.Context
}

func runReal(t testing.TB, store prefetch.Store, registry *prefetchtest.Registry, images ...config.Image) *real {
	t.Helper()
	w := New(new(agenttest.Log).Logger(), func() {})
	w.SetWanted(Wanted{Puller: prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(registry)), AtOnce: 2, Images: Plain(images)})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return &real{Worker: w, t: t, ctx: ctx}
}

// until waits until ok reports true of the images.
func (w *real) until(what string, ok func([]report.Image) bool) {
	w.t.Helper()
	for !ok(w.Report()) {
		if w.ctx.Err() != nil {
			w.t.Fatalf("%s never comes: %+v", what, w.Report())
		}
		time.Sleep(time.Millisecond)
	}
}

// While an image of high priority is unpacked, one of low priority has the network.
func TestALowerPriorityFillsWhatAHigherOneLeaves(t *testing.T) {
	registry := prefetchtest.NewRegistry(t)
	high := registry.Push(prefetchtest.Build(t, 1, 100_000), "models/high", "v1")
	low := registry.Push(prefetchtest.Build(t, 2, 100_000), "models/low", "v1")
	store := slowStore{MemStore: prefetchtest.NewMemStore(t), held: new(atomic.Bool), release: make(chan struct{})}
	w := runReal(t, store, registry, config.Image{Name: "low", Ref: low}, config.Image{Name: "high", Ref: high, Priority: 9})
	release := sync.OnceFunc(func() { close(store.release) })
	defer release()
	w.until("low", func(all []report.Image) bool { return all[1].Phase == report.ImageReady })
	if high := w.Report()[0]; high.Phase != report.ImageUnpacking {
		t.Errorf("high is %s; want it still being unpacked", high.Phase)
	}
	release()
	w.until("high", func(all []report.Image) bool { return all[0].Phase == report.ImageReady })
}

// The agent was away while a tag moved: the image is Ready as it was, until the new one is.
func TestATagThatMovedBeforeTheStart(t *testing.T) {
	registry := prefetchtest.NewRegistry(t)
	before, now := prefetchtest.Build(t, 1, 100_000), prefetchtest.Build(t, 2, 100_000)
	ref := registry.Push(before, "models/llama", "v1")
	store := slowStore{MemStore: prefetchtest.NewMemStore(t), held: new(atomic.Bool), release: make(chan struct{})}
	store.held.Store(true) // not this time
	puller := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(registry))
	if _, err := puller.Ensure(t.Context(), prefetch.Image{Ref: ref, Pin: true}, nil); err != nil {
		t.Fatal(err)
	}
	registry.Push(now, "models/llama", "v1")
	store.held.Store(false)

	w := runReal(t, store, registry, config.Image{Name: "llama", Ref: ref})
	release := sync.OnceFunc(func() { close(store.release) })
	defer release()
	w.until("the word that it has moved", func(all []report.Image) bool {
		return strings.Contains(all[0].Message, "its tag has moved to "+now.Manifest.Digest.String()[:19])
	})
	if r := w.Report()[0]; r.Phase != report.ImageReady || r.Digest != before.Manifest.Digest.String() || !r.Pinned {
		t.Errorf("while the new one comes, the old one is %+v", r)
	}
	release()
	w.until("the new one", func(all []report.Image) bool {
		return all[0].Digest == now.Manifest.Digest.String() && all[0].Message == ""
	})
	w.until("that the old one is let go of", func([]report.Image) bool {
		pins, err := puller.Pins(t.Context())
		return err == nil && len(pins) == 1 && pins[0].ImageID == now.Config.Digest
	})
}
