package prefetch_test

import (
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

const notKept = "direct, layers not kept"

// ways are the ways into a store, with all that changes how bytes get there.
func ways(t testing.TB) map[string]func(*prefetch.Config) {
	return map[string]func(*prefetch.Config){
		"direct, layers kept": func(c *prefetch.Config) { c.KeepLayers = prefetch.KeepAlways },
		notKept:               func(c *prefetch.Config) { c.KeepLayers = prefetch.KeepNever },
		"API":                 func(c *prefetch.Config) { c.Way = prefetch.API },
		"API, staged":         func(c *prefetch.Config) { c.Way, c.Staging, c.Reserve = prefetch.API, t.TempDir(), -1 }, // whatever the disk of this machine is
	}
}

func TestPrefetchIntoMemory(t *testing.T) {
	for name, configure := range ways(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			prefetchtest.TestPrefetch(t, func(t testing.TB) prefetch.Store {
				store := prefetchtest.NewMemStore(t)
				store.Looks, store.Direct = 2, true
				return prefetchtest.Configured{Store: store, Configure: configure, Forgets: name == notKept}
			}, func(t testing.TB, store prefetch.Store, id digest.Digest) {
				configured, ok := store.(prefetchtest.Configured)
				if !ok {
					t.Fatalf("%T has no configuration", store)
				}
				mem, ok := configured.Store.(*prefetchtest.MemStore)
				if !ok {
					t.Fatalf("%T is no MemStore", configured.Store)
				}
				mem.Lose(id)
			})
		})
	}
}
