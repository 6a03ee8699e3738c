package fetch

import (
	"slices"
	"testing"
	"testing/synctest"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// waiters are chunks that wait for the only slot. It is taken when they begin.
type waiters struct {
	slots *slots
	given chan string // who has got the slot
}

func newWaiters(t *testing.T) *waiters {
	t.Helper()
	w := &waiters{slots: newSlots(1), given: make(chan string)}
	if err := w.slots.acquire(t.Context(), new(Source), Chunk{}); err != nil {
		t.Fatal(err)
	}
	return w
}

// add lets a chunk at an offset of a blob of so many bytes wait.
func (w *waiters) add(t *testing.T, name string, from *Source, size, offset int64) {
	t.Helper()
	go func() {
		c := Chunk{Blob: ocispec.Descriptor{Size: size}, Offset: offset, Length: 1}
		if err := w.slots.acquire(t.Context(), from, c); err != nil {
			t.Error(err)
		}
		w.given <- name
	}()
	synctest.Wait()
}

// next passes the slot on and tells who has got it.
func (w *waiters) next() string {
	w.slots.release()
	return <-w.given
}

// TestLayersOfAnImageEndTogether lets chunks of three layers of two images wait for one slot, all at once.
func TestLayersOfAnImageEndTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, one, other := newWaiters(t), new(Source), new(Source)
		w.add(t, "small, middle", one, 10, 5)
		w.add(t, "large, a tenth", one, 1000, 100)
		w.add(t, "other image, begin", other, 1000, 0)
		w.add(t, "large, two tenths", one, 1000, 200)
		w.add(t, "small, begin", one, 10, 0)
		// The other image came third, and is served third.
		want := []string{"small, begin", "large, a tenth", "other image, begin", "large, two tenths", "small, middle"}
		var order []string
		for range want {
			order = append(order, w.next())
		}
		if !slices.Equal(order, want) {
			t.Errorf("order %q, want %q", order, want)
		}
	})
}

// TestAnImageThatAlwaysHasMoreWaitersKeepsNoOtherOut: whenever one of its chunks is served, one of a lower part comes.
func TestAnImageThatAlwaysHasMoreWaitersKeepsNoOtherOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, one, other := newWaiters(t), new(Source), new(Source)
		w.add(t, "one", one, 100, 90)
		w.add(t, "one", one, 100, 80)
		w.add(t, "other", other, 100, 0)
		w.add(t, "other", other, 100, 10)
		var order []string
		for more := int64(70); more >= 0; more -= 10 {
			w.add(t, "one", one, 100, more)
			order = append(order, w.next())
		}
		if want := []string{"one", "one", "other", "other", "one", "one", "one", "one"}; !slices.Equal(order, want) {
			t.Errorf("order %q, want %q", order, want)
		}
		for range 4 {
			w.next()
		}
	})
}
