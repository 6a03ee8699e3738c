package prefetch_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"

	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

// directStore is a memory store with the direct way, used with the configuration.
func directStore(t testing.TB, configure func(*prefetch.Config)) (*prefetchtest.MemStore, prefetch.Store) {
	mem := prefetchtest.NewMemStore(t)
	mem.Direct = true
	return mem, prefetchtest.Configured{Store: mem, Configure: configure}
}

func kept(c *prefetch.Config) { c.KeepLayers = prefetch.KeepAlways }

// leftovers lists the files below what the store gives us to stage in.
func leftovers(t *testing.T, store prefetch.Store) (files []string) {
	t.Helper()
	way, err := store.Way(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{way.Staging, way.Trees} {
		err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				files = append(files, path)
			}
			return err
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return files
}

// TestADaemonThatIsAwayIsWaitedFor lets every call of the direct way fail several times, done and not done.
func TestADaemonThatIsAwayIsWaitedFor(t *testing.T) {
	for _, method := range []string{
		"Way", "Open", "Has", "Space", "HasSnapshot", "Hold", "Adopt", "AddSnapshot", "Unpacked", "Link", "Publish", "Pin",
	} {
		for _, persisted := range []bool{false, true} {
			if method == "Hold" && persisted {
				continue // a daemon that goes away forgets its holds
			}
			t.Run(fmt.Sprintf("%s, persisted %v", method, persisted), func(t *testing.T) {
				t.Parallel()
				mem, store := directStore(t, kept)
				var fails atomic.Int32
				mem.Fault = func(m string, done bool) error {
					if m == method && done == persisted && fails.Add(1) <= 2 {
						return fmt.Errorf("connection refused: %w", prefetch.ErrAway)
					}
					return nil
				}
				reg := prefetchtest.NewOfflineRegistry("registry.test")
				img := prefetchtest.Build(t, 1, 300_000, 200_000)
				ref := reg.Push(img, "m", "v1")
				p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
				res, err := p.Ensure(t.Context(), prefetch.Image{Ref: ref, Pin: true}, nil)
				if err != nil {
					t.Fatal(err)
				}
				if all := img.Size() + img.Manifest.Size + img.Config.Size; res.BytesFetched > all {
					t.Errorf("%d bytes were fetched for %d", res.BytesFetched, all)
				}
				if fails.Load() < 2 {
					t.Errorf("%s failed %d times", method, fails.Load())
				}
				if files := leftovers(t, store); len(files) > 0 {
					t.Errorf("left: %q", files)
				}
			})
		}
	}
}

func TestOtherErrorsOfTheStoreEndIt(t *testing.T) {
	for _, method := range []string{"Way", "Space", "Open", "HasSnapshot", "Adopt", "AddSnapshot", "Unpacked", "Link", "Publish"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			mem, store := directStore(t, kept)
			broken := errors.New("broken")
			mem.Fault = func(m string, _ bool) error {
				if m == method {
					return broken
				}
				return nil
			}
			reg := prefetchtest.NewOfflineRegistry("registry.test")
			ref := reg.Push(prefetchtest.Build(t, 1, 300_000, 200_000), "m", "v1")
			p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
			if _, err := p.Ensure(t.Context(), prefetch.Image{Ref: ref}, nil); !errors.Is(err, broken) {
				t.Fatalf("got %v", err)
			}
			mem.Fault = nil
			res, err := p.Ensure(t.Context(), prefetch.Image{Ref: ref}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if res.Way != prefetch.Direct || !res.Kept {
				t.Errorf("%+v", res)
			}
			if files := leftovers(t, store); len(files) > 0 {
				t.Errorf("left: %q", files)
			}
		})
	}
}

func TestWhatDoesNotFitIsRefusedWithNumbers(t *testing.T) {
	one := prefetch.Volume{Path: "/disk", Device: 1, Size: 10e6, Free: 2e6, Inodes: 100, FreeInodes: 50}
	other := prefetch.Volume{Path: "/other", Device: 2, Size: 10e6, Free: 2e6}
	with := func(v prefetch.Volume, change func(*prefetch.Volume)) prefetch.Volume { change(&v); return v }
	for name, c := range map[string]struct {
		space   prefetch.Space
		wantErr []string
	}{
		"enough on one disk":  {prefetch.Space{Content: one, Snapshots: one}, nil},
		"enough on two disks": {prefetch.Space{Content: one, Snapshots: other}, nil},
		"not known":           {prefetch.Space{}, nil},
		"not enough beside the reserve": {
			prefetch.Space{Content: with(one, func(v *prefetch.Volume) { v.Free = 16e5 }), Snapshots: with(one, func(v *prefetch.Volume) { v.Free = 16e5 })},
			[]string{"/disk", "1.6 MB free of 10.0 MB", "1.5 MB are to stay free", "smaller reserve"}},
		"not enough for what is unpacked": {
			prefetch.Space{Content: one, Snapshots: with(other, func(v *prefetch.Volume) { v.Free = 155e4 })}, []string{"/other", "unpacked"}},
		"no inodes": {
			prefetch.Space{Content: one, Snapshots: with(one, func(v *prefetch.Volume) { v.FreeInodes = 14 })},
			[]string{"14 inodes free of 100", "15 are to stay free"}},
	} {
		t.Run(name, func(t *testing.T) {
			mem, store := directStore(t, kept)
			mem.SetSpace(c.space)
			reg := prefetchtest.NewOfflineRegistry("registry.test")
			img := prefetchtest.Build(t, 1, 100_000)
			ref := reg.Push(img, "m", "v1")
			p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
			_, err := p.Ensure(t.Context(), prefetch.Image{Ref: ref}, nil)
			if c.wantErr == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, prefetch.ErrNoSpace) {
				t.Fatalf("got %v", err)
			}
			for _, part := range c.wantErr {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is not in %v", part, err)
				}
			}
			for _, r := range reg.Requests() {
				if strings.HasSuffix(r.Path, img.Layers[0].Digest.String()) {
					t.Error("the layer was asked for")
				}
			}
		})
	}
}

func TestPinnedBytesHaveALimit(t *testing.T) {
	_, store := directStore(t, func(c *prefetch.Config) { c.KeepLayers, c.MaxPinned = prefetch.KeepAlways, 500_000 })
	reg := prefetchtest.NewOfflineRegistry("registry.test")
	first := reg.Push(prefetchtest.Build(t, 1, 100_000), "m", "v1")
	second := reg.Push(prefetchtest.Build(t, 2, 200_000), "m", "v2")
	p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
	res, err := p.Ensure(t.Context(), prefetch.Image{Ref: first, Pin: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	pins, err := p.Pins(t.Context())
	if err != nil || len(pins) != 1 || pins[0].Size != res.Size || res.Size < 190_000 {
		t.Fatalf("pins %+v, %v; the image has %d bytes", pins, err, res.Size)
	}
	if _, err := p.Ensure(t.Context(), prefetch.Image{Ref: second, Pin: true}, nil); !errors.Is(err, prefetch.ErrPinned) {
		t.Errorf("beyond the limit: %v", err)
	}
	if _, err := p.Ensure(t.Context(), prefetch.Image{Ref: second}, nil); err != nil {
		t.Errorf("without a pin: %v", err)
	}
	if _, err := p.Ensure(t.Context(), prefetch.Image{Ref: second, Pin: true}, nil); !errors.Is(err, prefetch.ErrPinned) {
		t.Errorf("beyond the limit, when it is there: %v", err)
	}
	if err := p.Unpin(t.Context(), res.ConfigDigest); err != nil {
		t.Fatal(err)
	}
	if res, err := p.Ensure(t.Context(), prefetch.Image{Ref: second, Pin: true}, nil); err != nil || res.Size < 390_000 {
		t.Errorf("when there is room for it: %+v, %v", res, err)
	}
}

// TestLayersOfTwoImagesAreFetchedOnce makes two images with common layers ready at the same time.
func TestLayersOfTwoImagesAreFetchedOnce(t *testing.T) {
	for _, keep := range []prefetch.KeepLayers{prefetch.KeepAlways, prefetch.KeepNever} {
		t.Run(string(keep), func(t *testing.T) {
			_, store := directStore(t, func(c *prefetch.Config) { c.KeepLayers = keep })
			reg := prefetchtest.NewOfflineRegistry("registry.test")
			img := prefetchtest.Build(t, 1, 300_000, 200_000, 100_000)
			refs := []string{reg.Push(img, "m", "v1"), reg.Push(img, "other", "v1")}
			p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
			var all sync.WaitGroup
			for _, ref := range refs {
				all.Go(func() {
					if _, err := p.Ensure(t.Context(), prefetch.Image{Ref: ref}, nil); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			asked := map[string]int{}
			for _, r := range reg.Requests() {
				if strings.Contains(r.Path, "/blobs/") {
					asked[r.Path[strings.LastIndex(r.Path, "/"):]+r.Range]++
				}
			}
			for _, l := range img.Layers {
				for what, n := range asked {
					if strings.Contains(what, l.Digest.String()) && n > 1 {
						t.Errorf("%s was asked for %d times", what, n)
					}
				}
			}
		})
	}
}

// TestARunThatDiedAtItsEndLeavesNothing has an image that is ready, and what a run for it left before it was.
func TestARunThatDiedAtItsEndLeavesNothing(t *testing.T) {
	mem, store := directStore(t, kept)
	reg := prefetchtest.NewOfflineRegistry("registry.test")
	want := prefetch.Image{Ref: reg.Push(prefetchtest.Build(t, 1, 300_000), "m", "v1")}
	p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
	broken := errors.New("broken")
	fail := func(methods ...string) {
		mem.Fault = func(m string, _ bool) error {
			if slices.Contains(methods, m) {
				return broken
			}
			return nil
		}
	}
	fail("Adopt")
	if _, err := p.Ensure(t.Context(), want, nil); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	// Somebody else, with directories of their own, makes it ready.
	fail()
	other := prefetchtest.NewPrefetcher(t, prefetchtest.Configured{Store: mem, Configure: func(c *prefetch.Config) {
		c.Way = prefetch.API
	}}, prefetchtest.Hosts(reg))
	fail("Close")
	if _, err := other.Ensure(t.Context(), want, nil); err != nil {
		t.Fatal(err)
	}
	if mem.Sessions() == 0 || len(leftovers(t, store)) == 0 {
		t.Fatal("nothing is left to be released")
	}
	fail("Release")
	if _, err := p.Ensure(t.Context(), want, nil); err != nil {
		t.Errorf("a ready image, whose leftovers cannot be released: %v", err)
	}
	fail()
	for range 2 {
		if _, err := p.Ensure(t.Context(), want, nil); err != nil {
			t.Fatal(err)
		}
	}
	if files := leftovers(t, store); len(files) > 0 || mem.Sessions() > 0 {
		t.Errorf("left: %d sessions and %q", mem.Sessions(), files)
	}
}

func TestSweepRemovesWhatIsNotWanted(t *testing.T) {
	mem, store := directStore(t, kept)
	reg := prefetchtest.NewOfflineRegistry("registry.test")
	ref := reg.Push(prefetchtest.Build(t, 1, 300_000), "m", "v1")
	p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
	mem.Fault = failing("Adopt", 1)
	if _, err := p.Ensure(t.Context(), prefetch.Image{Ref: ref}, nil); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	way, err := store.Way(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tree, probe := filepath.Join(way.Trees, "of-a-run-that-died"), filepath.Join(way.Trees, prefetch.ProbePrefix+"of-the-store")
	for _, dir := range []string{filepath.Join(tree, "etc"), probe} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Sweep(t.Context(), []prefetch.Image{{Ref: ref}}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(tree); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a tree that nobody works on is left: %v", err)
	}
	if _, err := os.Stat(probe); err != nil {
		t.Errorf("what the store may be using: %v", err)
	}
	if files := leftovers(t, store); len(files) < 2 {
		t.Errorf("a wanted image's chunks are gone: %q is left", files)
	}
	// With other limits there is another Prefetcher. This one has nothing under way any more.
	later := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
	if err := later.Sweep(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if files := leftovers(t, store); len(files) > 0 {
		t.Errorf("left: %q", files)
	}
}

// TestOtherLimitsInTheMiddle ends a pull in its middle and goes on with another memory, as a change of the config does.
func TestOtherLimitsInTheMiddle(t *testing.T) {
	for name, configure := range ways(t) {
		for what, second := range map[string]struct {
			chunk, memory int64
			fault         prefetchtest.Fault
		}{
			"smaller chunks":       {chunk: prefetchtest.Chunk / 4, memory: prefetchtest.Memory / 4},
			"less than a chunk":    {chunk: prefetchtest.Chunk / 8, memory: prefetchtest.Chunk / 2},
			"larger chunks":        {chunk: prefetchtest.Chunk * 2, memory: prefetchtest.Memory},
			"smaller, in a stream": {chunk: prefetchtest.Chunk / 4, memory: prefetchtest.Memory / 4, fault: prefetchtest.IgnoreRange},
		} {
			t.Run(name+", "+what, func(t *testing.T) {
				t.Parallel()
				staging := t.TempDir()
				same := func(c *prefetch.Config) {
					if configure(c); c.Staging != "" {
						c.Staging = staging
					}
				}
				mem, store := directStore(t, same)
				reg := prefetchtest.NewOfflineRegistry("registry.test")
				ref := reg.Push(prefetchtest.Build(t, 1, 8*prefetchtest.Chunk+1000), "m", "v1")
				reg.Script(prefetchtest.On(func(r *http.Request, n int) bool { return prefetchtest.Layers(r, n) && n > 6 },
					prefetchtest.Status(http.StatusNotFound)))
				if _, err := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg)).Ensure(t.Context(), prefetch.Image{Ref: ref}, nil); err == nil {
					t.Fatal("it was not ended in the middle")
				}
				reg.Script(nil)
				if second.fault != nil {
					reg.Script(prefetchtest.On(prefetchtest.Layers, second.fault))
				}
				others := prefetchtest.Configured{Store: mem, Configure: func(c *prefetch.Config) {
					same(c)
					c.ChunkSize, c.Memory = second.chunk, second.memory
				}}
				if _, err := prefetchtest.NewPrefetcher(t, others, prefetchtest.Hosts(reg)).Ensure(t.Context(), prefetch.Image{Ref: ref}, nil); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestWhatHasComeIsNotCountedTwice has one image in its middle, and another one that fits beside the rest of it.
func TestWhatHasComeIsNotCountedTwice(t *testing.T) {
	for name, configure := range map[string]func(*prefetch.Config){
		"layers kept":     kept,
		"layers not kept": func(c *prefetch.Config) { c.KeepLayers = prefetch.KeepNever },
	} {
		t.Run(name, func(t *testing.T) {
			mem, store := directStore(t, func(c *prefetch.Config) {
				configure(c)
				c.StallTimeout, c.Memory, c.MaxParallel = time.Minute, prefetch.DefaultMemory, 8
			})
			const size = layerSize // its last chunk does not come
			reg, reg2 := prefetchtest.NewOfflineRegistry("registry.test"), prefetchtest.NewOfflineRegistry("other.test")
			img, other := prefetchtest.Build(t, 1, size), prefetchtest.Build(t, 2, size)
			ref, ref2 := reg.Push(img, "m", "v1"), reg2.Push(other, "m", "v2")
			asked := make(chan struct{})
			var once sync.Once
			reg.Script(prefetchtest.On(func(r *http.Request, n int) bool {
				return prefetchtest.Blob(img.Layers[0].Digest.String())(r, n) && strings.HasPrefix(r.Header.Get("Range"), fmt.Sprintf("bytes=%d-", 4*prefetchtest.Chunk))
			}, func(a *prefetchtest.Answer) {
				once.Do(func() { close(asked) })
				prefetchtest.Stall(0)(a)
			}))
			p := prefetchtest.NewPrefetcher(t, store, func(host string) ([]docker.RegistryHost, error) {
				if host == reg2.Host() { // the requests to the other one have taken all its places
					return prefetchtest.Hosts(reg2)(host)
				}
				return prefetchtest.Hosts(reg)(host)
			})
			ctx, cancel := context.WithCancel(t.Context())
			var first sync.WaitGroup
			defer first.Wait()
			defer cancel()
			beyondReserve(mem, 3*size)
			pr := new(prefetch.Progress)
			first.Go(func() {
				if _, err := p.Ensure(ctx, prefetch.Image{Ref: ref}, pr); !errors.Is(err, context.Canceled) {
					t.Errorf("the first one is %v", err)
				}
			})
			<-asked
			for pr.Snapshot().Layers[0].Unpacked < 3*prefetchtest.Chunk {
				time.Sleep(time.Millisecond)
			}
			// Room for what is left of the first, and for the second: less than for both.
			room := int64(2 * size) // of one image: its blob, and what is in it
			if name != "layers kept" {
				room = size
			}
			beyondReserve(mem, 2*room-2*prefetchtest.Chunk)
			if _, err := p.Ensure(ctx, prefetch.Image{Ref: ref2}, nil); err != nil {
				t.Errorf("one that fits beside the rest of the first is %v", err)
			}
			third := reg2.Push(prefetchtest.Build(t, 3, size), "m", "v3")
			beyondReserve(mem, room)
			_, err := p.Ensure(ctx, prefetch.Image{Ref: third}, nil)
			if !errors.Is(err, prefetch.ErrNoSpace) || !strings.Contains(err.Error(), "other images under way will take") {
				t.Errorf("one that does not fit beside the first is %v", err)
			}
		})
	}
}

// TestStagedBlobsHaveADiskOfTheirOwn has the state directory on another filesystem than containerd's, which is small.
func TestStagedBlobsHaveADiskOfTheirOwn(t *testing.T) {
	const size = 5 * prefetchtest.Chunk
	for name, c := range map[string]struct {
		staging prefetch.Volume
		wantErr string
	}{
		"large enough":       {prefetch.Volume{Path: "/state", Device: 3, Size: 10 * size, Free: 5 * size}, ""},
		"too small":          {prefetch.Volume{Path: "/state", Device: 3, Size: 10 * size, Free: 2 * size}, "/state has"},
		"the store's itself": {prefetch.Volume{Path: "/state", Device: 1, Size: 10 * size, Free: 2 * size}, ""},
		"not known":          {prefetch.Volume{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			staging := t.TempDir()
			mem, store := directStore(t, func(c *prefetch.Config) { c.Way, c.Staging = prefetch.API, staging })
			large := prefetch.Volume{Path: "/disk", Device: 1, Size: 100 * size, Free: 50 * size}
			mem.SetSpace(prefetch.Space{Content: large, Snapshots: large})
			reg := prefetchtest.NewOfflineRegistry("registry.test")
			p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
			prefetch.SetVolumeOf(p, func(dir string) prefetch.Volume {
				if dir != staging {
					t.Errorf("it looks at %s", dir)
				}
				return c.staging
			})
			_, err := p.Ensure(t.Context(), prefetch.Image{Ref: reg.Push(prefetchtest.Build(t, 1, size), "m", "v1")}, nil)
			if c.wantErr == "" && err != nil || c.wantErr != "" && (!errors.Is(err, prefetch.ErrNoSpace) || !strings.Contains(err.Error(), c.wantErr)) {
				t.Errorf("got %v", err)
			}
		})
	}
}
