package prefetch_test

import (
	"testing"

	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

func TestPrefetchIntoMemory(t *testing.T) {
	prefetchtest.TestPrefetch(t, func(t testing.TB) prefetch.Store {
		store := prefetchtest.NewMemStore(t)
		store.Looks = 2
		return store
	})
}
