package fetch

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestLayersOfAnImageEndTogether lets chunks of three layers of two images wait for one slot, all at once.
func TestLayersOfAnImageEndTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1)
		one, other := new(Source), new(Source)
		if err := s.acquire(t.Context(), one, Chunk{}); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []string
		var all sync.WaitGroup
		wait := func(name string, from *Source, size, offset int64) {
			all.Go(func() {
				c := Chunk{Blob: ocispec.Descriptor{Size: size}, Offset: offset, Length: 1}
				if err := s.acquire(t.Context(), from, c); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				s.release()
			})
			synctest.Wait()
		}
		wait("small, middle", one, 10, 5)
		wait("large, a tenth", one, 1000, 100)
		wait("other image, begin", other, 1000, 0)
		wait("large, two tenths", one, 1000, 200)
		wait("small, begin", one, 10, 0)
		s.release()
		all.Wait()
		want := []string{"small, begin", "large, a tenth", "large, two tenths", "small, middle", "other image, begin"}
		if !slices.Equal(order, want) {
			t.Errorf("order %q, want %q", order, want)
		}
	})
}
