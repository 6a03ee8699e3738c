package images

import (
	"context"
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

// While an image of high priority is unpacked, one of low priority has the network.
func TestALowerPriorityFillsWhatAHigherOneLeaves(t *testing.T) {
	registry := prefetchtest.NewRegistry(t)
	high := registry.Push(prefetchtest.Build(t, 1, 100_000), "models/high", "v1")
	low := registry.Push(prefetchtest.Build(t, 2, 100_000), "models/low", "v1")
	store := slowStore{MemStore: prefetchtest.NewMemStore(t), held: new(atomic.Bool), release: make(chan struct{})}
	changed := make(chan struct{}, 1)
	w := New(new(agenttest.Log).Logger(), func() { wake(changed) })
	w.SetWanted(Wanted{Puller: prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(registry)), AtOnce: 2,
		Images: []config.Image{{Name: "low", Ref: low}, {Name: "high", Ref: high, Priority: 9}}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx)
	}()
	phases := func() (high, low report.ImagePhase) {
		all := w.Report()
		return all[0].Phase, all[1].Phase
	}
	until := func(what string, ok func() bool) {
		for !ok() {
			select {
			case <-changed:
			case <-ctx.Done():
				t.Errorf("%s never comes: %+v", what, w.Report())
				return
			}
		}
	}
	until("low", func() bool { _, l := phases(); return l == report.ImageReady })
	if h, _ := phases(); h != report.ImageUnpacking {
		t.Errorf("high is %s; want it still being unpacked", h)
	}
	close(store.release)
	until("high", func() bool { h, _ := phases(); return h == report.ImageReady })
	cancel()
	<-done
}
