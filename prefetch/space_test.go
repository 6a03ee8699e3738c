package prefetch_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

// layerSize is that of the images below, which have one layer that is not compressed.
const layerSize = 5 * prefetchtest.Chunk

// beyondReserve makes a disk on which so much is free beside the reserve.
func beyondReserve(mem *prefetchtest.MemStore, free int64) {
	const size = 100 * layerSize
	v := prefetch.Volume{Path: "/disk", Device: 1, Size: size, Free: size*15/100 + free}
	mem.SetSpace(prefetch.Space{Content: v, Snapshots: v})
}

var errBroken = errors.New("broken")

// failing fails a method before it does anything, as often as that.
func failing(method string, times int32) func(string, bool) error {
	var n atomic.Int32
	return func(m string, done bool) error {
		if m == method && !done && n.Add(1) <= times {
			return errBroken
		}
		return nil
	}
}

// refused checks that an image was refused for want of room, and how.
func refused(t *testing.T, err error, why string) {
	t.Helper()
	if !errors.Is(err, prefetch.ErrNoSpace) || !strings.Contains(err.Error(), why) {
		t.Errorf("got %v, want it refused: %s", err, why)
	}
}

// TestUnpackingByTheStoreNeedsRoom looks at the disk while the store unpacks what has come in the API way, and afterwards.
func TestUnpackingByTheStoreNeedsRoom(t *testing.T) { synctest.Test(t, testUnpacking) }

func testUnpacking(t *testing.T) {
	mem := prefetchtest.NewMemStore(t)
	reg := prefetchtest.NewOfflineRegistry("registry.test")
	img := prefetch.Image{Ref: reg.Push(prefetchtest.Build(t, 1, layerSize), "m", "v1")}
	other := prefetch.Image{Ref: reg.Push(prefetchtest.Build(t, 2, layerSize), "m", "v2")}
	p := prefetchtest.NewPrefetcher(t, mem, prefetchtest.Hosts(reg))
	var unpacking atomic.Bool
	mem.Fault = func(method string, done bool) error {
		if method != "Unpack" || done || !unpacking.CompareAndSwap(false, true) {
			return nil
		}
		beyondReserve(mem, 2*layerSize+layerSize/2) // enough for the other one, were it not for this
		_, err := p.Ensure(t.Context(), other, nil)
		refused(t, err, "other images under way will take")
		beyondReserve(mem, -1)
		time.Sleep(2 * time.Second)
		return errBroken
	}
	beyondReserve(mem, 3*layerSize)
	_, err := p.Ensure(t.Context(), img, nil)
	refused(t, err, "while the image came")
	mem.Fault = nil
	beyondReserve(mem, layerSize/2)
	_, err = p.Ensure(t.Context(), img, nil)
	refused(t, err, "unpacked")
	beyondReserve(mem, layerSize+layerSize/2)
	if _, err := p.Ensure(t.Context(), img, nil); err != nil {
		t.Errorf("the blobs are there, and there is room for what is in them: %v", err)
	}
	beyondReserve(mem, 2*layerSize+layerSize/2)
	if _, err := p.Ensure(t.Context(), other, nil); err != nil {
		t.Errorf("the first one is ready and takes no more: %v", err)
	}
}

// TestABlobThatIsThereNeedsNoRoom has a run end between a layer's blob and its snapshot.
func TestABlobThatIsThereNeedsNoRoom(t *testing.T) {
	mem, store := directStore(t, kept)
	reg := prefetchtest.NewOfflineRegistry("registry.test")
	img := prefetch.Image{Ref: reg.Push(prefetchtest.Build(t, 1, layerSize), "m", "v1")}
	p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
	mem.Fault = failing("AddSnapshot", 1)
	if _, err := p.Ensure(t.Context(), img, nil); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	beyondReserve(mem, layerSize/2)
	_, err := p.Ensure(t.Context(), img, nil)
	refused(t, err, "unpacked")
	beyondReserve(mem, layerSize+layerSize/2)
	if _, err := p.Ensure(t.Context(), img, nil); err != nil {
		t.Error(err)
	}
}

// TestAResumedImageTakesWhatIsMissing has an image of which an earlier run has staged three chunks of five, whose last chunks do
// not come. What it takes still is those, and the same of what is in them.
func TestAResumedImageTakesWhatIsMissing(t *testing.T) {
	mem, store := directStore(t, func(c *prefetch.Config) {
		c.KeepLayers, c.StallTimeout, c.Memory, c.MaxParallel = prefetch.KeepAlways, time.Minute, prefetch.DefaultMemory, 8
	})
	reg, reg2 := prefetchtest.NewOfflineRegistry("registry.test"), prefetchtest.NewOfflineRegistry("other.test")
	built := prefetchtest.Build(t, 1, layerSize)
	img := prefetch.Image{Ref: reg.Push(built, "m", "v1")}
	reg.Script(prefetchtest.On(func(r *http.Request, n int) bool {
		var first int64
		_, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &first)
		return err == nil && first >= 3*prefetchtest.Chunk && prefetchtest.Blob(built.Layers[0].Digest.String())(r, n)
	}, prefetchtest.Stall(0)))
	p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg, reg2))
	// begin runs until three chunks have come and gone on.
	begin := func() (end func()) {
		ctx, cancel := context.WithCancel(t.Context())
		pr := new(prefetch.Progress)
		var running sync.WaitGroup
		running.Go(func() {
			if _, err := p.Ensure(ctx, img, pr); !errors.Is(err, context.Canceled) {
				t.Errorf("it is %v", err)
			}
		})
		for s := pr.Snapshot(); len(s.Layers) == 0 || s.Layers[0].Unpacked < 3*prefetchtest.Chunk; s = pr.Snapshot() {
			time.Sleep(time.Millisecond)
		}
		return func() {
			cancel()
			running.Wait()
		}
	}
	beyondReserve(mem, 10*layerSize)
	begin()()
	defer begin()()
	other := prefetch.Image{Ref: reg2.Push(prefetchtest.Build(t, 2, layerSize), "m", "v2")}
	const needed = 2*layerSize + 4*prefetchtest.Chunk
	beyondReserve(mem, needed-prefetchtest.Chunk/2)
	_, err := p.Ensure(t.Context(), other, nil)
	refused(t, err, "other images under way will take")
	beyondReserve(mem, needed+prefetchtest.Chunk/2)
	if _, err := p.Ensure(t.Context(), other, nil); err != nil {
		t.Error(err)
	}
}

// TestTwoImagesAtOnceStayBelowMaxPinned looks at the second one while the first is laid out.
func TestTwoImagesAtOnceStayBelowMaxPinned(t *testing.T) {
	mem, store := directStore(t, func(c *prefetch.Config) { c.KeepLayers, c.MaxPinned = prefetch.KeepAlways, 500_000 })
	reg := prefetchtest.NewOfflineRegistry("registry.test")
	first := prefetch.Image{Ref: reg.Push(prefetchtest.Build(t, 1, 100_000), "m", "v1"), Pin: true}
	second := prefetch.Image{Ref: reg.Push(prefetchtest.Build(t, 2, 200_000), "m", "v2"), Pin: true}
	p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
	var looked atomic.Bool
	mem.Fault = func(method string, _ bool) error {
		if method == "AddSnapshot" && looked.CompareAndSwap(false, true) {
			if _, err := p.Ensure(t.Context(), second, nil); !errors.Is(err, prefetch.ErrPinned) {
				t.Errorf("beside one that is to be pinned: %v", err)
			}
		}
		return nil
	}
	res, err := p.Ensure(t.Context(), first, nil)
	if err != nil || !res.Pinned {
		t.Fatalf("%+v, %v", res, err)
	}
	if err := p.Unpin(t.Context(), res.ConfigDigest); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Ensure(t.Context(), second, nil); err != nil {
		t.Errorf("when the first is pinned no more: %v", err)
	}
}

// TestWhatTheDiskHasLostOfALayerIsFetchedAnew changes the bytes of a compressed layer that an earlier run has verified.
func TestWhatTheDiskHasLostOfALayerIsFetchedAnew(t *testing.T) {
	var blob bytes.Buffer
	tarball := tarOf(t, 300_000, "a", "b")
	w := gzip.NewWriter(&blob)
	if _, err := w.Write(tarball); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	img := prefetchtest.Assemble(t, prefetchtest.Layer{
		MediaType: ocispec.MediaTypeImageLayerGzip, Blob: blob.Bytes(), DiffID: digest.FromBytes(tarball),
	})
	mem, store := directStore(t, func(c *prefetch.Config) {
		kept(c)
		c.ChunkSize = int64(blob.Len()/4 + 1)
	})
	reg := prefetchtest.NewOfflineRegistry("registry.test")
	want := prefetch.Image{Ref: reg.Push(img, "m", "v1")}
	p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
	mem.Fault = failing("Adopt", 1)
	if _, err := p.Ensure(t.Context(), want, nil); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	for _, file := range leftovers(t, store) {
		if filepath.Base(file) != "data" {
			continue
		}
		data, err := os.ReadFile(file)
		if err == nil {
			data[len(data)/2] ^= 1
			err = os.WriteFile(file, data, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	res, err := p.Ensure(t.Context(), want, nil)
	if err != nil {
		t.Fatalf("broken: %v, %v", prefetch.Broken(err), err)
	}
	if res.BytesFetched < int64(blob.Len()) {
		t.Errorf("%d bytes of %d were fetched", res.BytesFetched, blob.Len())
	}
}

// TestADamagedBlobOfTheStoreIsNotBlamedOnTheImage has a blob in the store whose bytes have changed.
func TestADamagedBlobOfTheStoreIsNotBlamedOnTheImage(t *testing.T) {
	mem, store := directStore(t, kept)
	reg := prefetchtest.NewOfflineRegistry("registry.test")
	img := prefetchtest.Build(t, 1, 100_000)
	want := prefetch.Image{Ref: reg.Push(img, "m", "v1")}
	p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
	mem.Fault = failing("AddSnapshot", 1)
	if _, err := p.Ensure(t.Context(), want, nil); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	mem.Damage(img.Layers[0].Digest)
	_, err := p.Ensure(t.Context(), want, nil)
	if prefetch.Broken(err) || err == nil || !strings.Contains(err.Error(), "is damaged") || !strings.Contains(err.Error(), "ctr content rm") {
		t.Errorf("got %v, want that the blob is damaged and what to do", err)
	}
}

// TestWhatIsStagedIsNotStreamedAgain has a registry without ranges, and a daemon that goes away when it has all but the last
// chunk.
func TestWhatIsStagedIsNotStreamedAgain(t *testing.T) {
	staging := t.TempDir()
	mem, store := directStore(t, func(c *prefetch.Config) { c.Way, c.Staging = prefetch.API, staging })
	reg := prefetchtest.NewOfflineRegistry("registry.test")
	img := prefetchtest.Build(t, 1, layerSize)
	reg.Script(prefetchtest.On(prefetchtest.Layers, prefetchtest.IgnoreRange))
	var went atomic.Bool
	mem.WriteErr = func(d digest.Digest, offset int64) error {
		if d == img.Layers[0].Digest && offset >= 4*prefetchtest.Chunk && went.CompareAndSwap(false, true) {
			return fmt.Errorf("connection refused: %w", prefetch.ErrAway)
		}
		return nil
	}
	p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
	if _, err := p.Ensure(t.Context(), prefetch.Image{Ref: reg.Push(img, "m", "v1")}, nil); err != nil {
		t.Fatal(err)
	}
	streams := 0
	for _, r := range reg.Requests() {
		if strings.HasSuffix(r.Path, img.Layers[0].Digest.String()) && r.Range == "" {
			streams++
		}
	}
	if streams != 1 || !went.Load() {
		t.Errorf("the layer was streamed %d times; the daemon went away: %v", streams, went.Load())
	}
}

// TestALayerThatContainerdProcessesGoesTheAPIWay has a layer whose type only a program of containerd's configuration knows.
func TestALayerThatContainerdProcessesGoesTheAPIWay(t *testing.T) {
	_, store := directStore(t, kept)
	reg := prefetchtest.NewOfflineRegistry("registry.test")
	const mediaType = ocispec.MediaTypeImageLayerGzip + "+encrypted"
	img := prefetchtest.Assemble(t, layerOf(tarOf(t, 100, "a")),
		prefetchtest.Layer{MediaType: mediaType, Blob: []byte("secret"), DiffID: digest.FromString("plain")})
	p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
	res, err := p.Ensure(t.Context(), prefetch.Image{Ref: reg.Push(img, "m", "v1")}, nil)
	if err != nil || res.Way != prefetch.API || !strings.Contains(res.WayReason, mediaType) {
		t.Errorf("%+v, %v", res, err)
	}
}
