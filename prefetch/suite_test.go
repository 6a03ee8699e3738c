package prefetch_test

import (
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

func TestPrefetchIntoMemory(t *testing.T) {
	prefetchtest.TestPrefetch(t, func(t testing.TB) prefetch.Store {
		store := prefetchtest.NewMemStore(t)
		store.Looks = 2
		return store
	}, func(t testing.TB, store prefetch.Store, id digest.Digest) {
		mem, ok := store.(*prefetchtest.MemStore)
		if !ok {
			t.Fatalf("%T is no MemStore", store)
		}
		mem.Lose(id)
	})
}
