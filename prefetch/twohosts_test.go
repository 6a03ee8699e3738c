package prefetch_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

// TestAWrongChunkOfADeadHostIsFound has a host stage wrong bytes ahead of their turn and end, and the next one, which knows
// no ranges, bring the right ones. The store refuses a file that is not the blob.
func TestAWrongChunkOfADeadHostIsFound(t *testing.T) {
	_, store := directStore(t, kept)
	first, second := prefetchtest.NewRegistry(t), prefetchtest.NewRegistry(t)
	img := prefetchtest.Build(t, 1, 8*prefetchtest.Chunk)
	ref := first.Push(img, "m", "v1")
	second.Push(img, "m", "v1")
	first.Script(func(r *http.Request, n int, a *prefetchtest.Answer) {
		var from int
		_, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		switch {
		case !prefetchtest.Layers(r, n):
		case err == nil && from >= prefetchtest.Chunk:
			prefetchtest.Flip(a)
		default:
			prefetchtest.Stall(0)(a) // the chunk in front never comes
		}
	})
	second.Script(prefetchtest.On(prefetchtest.Layers, prefetchtest.IgnoreRange))
	p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(first, second))
	res, err := p.Ensure(t.Context(), prefetch.Image{Ref: ref}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := p.Check(t.Context(), prefetch.Image{Ref: ref}, res.Digest); !ok || err != nil {
		t.Errorf("Check says %v, %v", ok, err)
	}
}
