package prefetch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"

	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

// meter counts bytes that have come from registries.
type meter struct {
	next     http.RoundTripper
	came     *atomic.Int64
	onRead   func()
	perChunk time.Duration
}

func (m meter) RoundTrip(req *http.Request) (*http.Response, error) {
	time.Sleep(m.perChunk)
	resp, err := m.next.RoundTrip(req)
	if err == nil {
		resp.Body = meteredBody{ReadCloser: resp.Body, m: m}
	}
	return resp, err
}

type meteredBody struct {
	io.ReadCloser
	m meter
}

func (b meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.m.came.Add(int64(n))
	b.m.onRead()
	return n, err
}

// TestMemoryIsBoundedAndNeverRunsDry lets many images compete for room for three chunks, some by ranges, some in one stream,
// with a slow store. A deadlock ends the bubble with a panic.
func TestMemoryIsBoundedAndNeverRunsDry(t *testing.T) {
	for name, limits := range map[string]struct {
		parallel int
		memory   int64
	}{
		"one request, one chunk":       {1, 32 << 10},
		"one request, three chunks":    {1, 96 << 10},
		"many requests, three chunks":  {8, 96 << 10},
		"many requests, many chunks":   {8, 2 << 20},
		"memory that no chunk divides": {3, 100_001},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testMemory(t, limits.parallel, limits.memory) })
		})
	}
}

func testMemory(t *testing.T, parallel int, memory int64) {
	store := prefetchtest.NewMemStore(t)
	store.WriteTime = 3 * time.Millisecond
	var came, most atomic.Int64
	look := func() {
		for held := came.Load() - store.Written(); ; {
			m := most.Load()
			if held <= m || most.CompareAndSwap(m, held) {
				return
			}
		}
	}
	var hosts []docker.RegistryHost
	var refs []string
	metadata := int64(0)
	for i := range 6 {
		reg := prefetchtest.NewOfflineRegistry(fmt.Sprintf("registry-%d.test", i))
		if i%2 == 0 {
			reg.Script(prefetchtest.On(prefetchtest.Layers, prefetchtest.IgnoreRange))
		}
		for j := range 2 {
			img := prefetchtest.Build(t, uint64(10*i+j), 300_000, 5_000, 150_000, 90_000)
			refs = append(refs, reg.Push(img, "m", fmt.Sprintf("v%d", j)))
			metadata += img.Manifest.Size + img.Config.Size
		}
		h := reg.RegistryHost()
		h.Client.Transport = meter{h.Client.Transport, &came, look, time.Duration(i) * time.Millisecond}
		hosts = append(hosts, h)
	}
	p, err := prefetch.New(prefetch.Config{
		Hosts: func(host string) ([]docker.RegistryHost, error) {
			for _, h := range hosts {
				if h.Host == host {
					return []docker.RegistryHost{h}, nil
				}
			}
			return nil, errors.New("no such host")
		},
		Store: store, Log: prefetchtest.Logger(t), MaxParallel: parallel, Memory: memory, ChunkSize: 32 << 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for _, ref := range refs {
		all.Go(func() {
			if _, err := p.Ensure(t.Context(), prefetch.Image{Ref: ref}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	// Replies to range requests that were not honoured are read ahead by the recorder's reader, not by us; what was
	// thrown away or fetched for metadata is no layer in memory.
	if held := most.Load(); held > memory+metadata {
		t.Errorf("%d bytes were held at once, more than %d", held, memory)
	}
}

func TestCallsForTheSameImageRunOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := prefetchtest.NewMemStore(t)
		store.WriteTime = time.Second
		reg := prefetchtest.NewOfflineRegistry("registry.test")
		img := prefetchtest.Build(t, 1, 300_000)
		ref := reg.Push(img, "m", "v1")
		p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				if _, err := p.Ensure(t.Context(), prefetch.Image{Ref: ref}, nil); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if store.Written() != img.Size()+img.Manifest.Size+img.Config.Size || store.Unpacks() != 1 || store.Sessions() != 0 {
			t.Errorf("%d bytes written, %d unpacks, %d sessions", store.Written(), store.Unpacks(), store.Sessions())
		}
	})
}

func TestABlobThatSomeoneElseFetchesIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := prefetchtest.NewMemStore(t)
		reg := prefetchtest.NewOfflineRegistry("registry.test")
		img := prefetchtest.Build(t, 1, 300_000)
		ref := reg.Push(img, "m", "v1")
		other, err := store.Open(t.Context(), "other")
		if err != nil {
			t.Fatal(err)
		}
		w, err := other.Blob(t.Context(), img.Layers[0], nil)
		if err != nil {
			t.Fatal(err)
		}
		var pr prefetch.Progress
		done := make(chan error, 1)
		go func() {
			_, err := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg)).Ensure(t.Context(), prefetch.Image{Ref: ref}, &pr)
			done <- err
		}()
		synctest.Wait()
		if l := pr.Snapshot().Layers[0]; !strings.Contains(l.WaitingFor, "another pull") {
			t.Errorf("the layer waits for %q", l.WaitingFor)
		}
		if _, err := w.Write(img.Blobs[img.Layers[0].Digest]); err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for _, r := range reg.Requests() {
			if strings.HasSuffix(r.Path, img.Layers[0].Digest.String()) {
				t.Errorf("the layer was asked for: %+v", r)
			}
		}
	})
}

func TestBytesOfAnEarlierRunThatAreWrongAreForgotten(t *testing.T) {
	store := prefetchtest.NewMemStore(t)
	reg := prefetchtest.NewOfflineRegistry("registry.test")
	img := prefetchtest.Build(t, 1, 300_000)
	ref := reg.Push(img, "m", "v1")
	store.Seed(img.Layers[0].Digest, make([]byte, 100_000))
	p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
	res, err := p.Ensure(t.Context(), prefetch.Image{Ref: ref}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if rest := img.Layers[0].Size - 100_000; res.BytesFetched < rest+img.Layers[0].Size {
		t.Errorf("%d bytes were fetched", res.BytesFetched)
	}
}

func TestMoreBytesThanTheBlobHasAreForgotten(t *testing.T) {
	store := prefetchtest.NewMemStore(t)
	reg := prefetchtest.NewOfflineRegistry("registry.test")
	img := prefetchtest.Build(t, 1, 1000)
	ref := reg.Push(img, "m", "v1")
	store.Seed(img.Layers[0].Digest, make([]byte, 100_000))
	p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
	if _, err := p.Ensure(t.Context(), prefetch.Image{Ref: ref}, nil); err != nil {
		t.Error(err)
	}
}

func TestAnErrorOfTheStoreIsNotBlamedOnARegistry(t *testing.T) {
	store := prefetchtest.NewMemStore(t)
	full := errors.New("no space left on device")
	store.WriteErr = func(_ digest.Digest, offset int64) error {
		if offset > 100_000 {
			return full
		}
		return nil
	}
	first, second := prefetchtest.NewOfflineRegistry("one.test"), prefetchtest.NewOfflineRegistry("two.test")
	img := prefetchtest.Build(t, 1, 300_000)
	ref := first.Push(img, "m", "v1")
	second.Push(img, "m", "v1")
	p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(first, second))
	_, err := p.Ensure(t.Context(), prefetch.Image{Ref: ref}, nil)
	if !errors.Is(err, full) || strings.Contains(err.Error(), "two.test") || len(second.Requests()) > 0 {
		t.Errorf("%v; the second host had %d requests", err, len(second.Requests()))
	}
	if store.Partial(img.Layers[0].Digest) < 100_000 || store.Sessions() != 1 || len(store.Records()) != 0 {
		t.Errorf("%d bytes, %d sessions and the records %v are left",
			store.Partial(img.Layers[0].Digest), store.Sessions(), store.Records())
	}
	if err := p.Sweep(t.Context(), []prefetch.Image{{Ref: ref}}); err != nil || store.Sessions() != 1 {
		t.Errorf("a wanted image was swept: %v", err)
	}
	if err := p.Sweep(t.Context(), nil); err != nil || store.Sessions() != 0 {
		t.Errorf("an unwanted image was not swept: %v", err)
	}
}

func TestCRIThatNeverShowsTheImageIsAnErrorInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := prefetchtest.NewMemStore(t)
		store.Looks = 1_000_000
		reg := prefetchtest.NewOfflineRegistry("registry.test")
		ref := reg.Push(prefetchtest.Build(t, 1, 1000), "m", "v1")
		p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
		var pr prefetch.Progress
		_, err := p.Ensure(t.Context(), prefetch.Image{Ref: ref}, &pr)
		if err == nil || !strings.Contains(err.Error(), "CRI does not list registry.test/m@sha256:") {
			t.Errorf("%v", err)
		}
		if s := pr.Snapshot(); s.Phase != prefetch.Failed {
			t.Errorf("%+v", s)
		}
	})
}

func TestADaemonWithoutPinsIsNoted(t *testing.T) {
	store := prefetchtest.NewMemStore(t)
	store.NoPins = true
	reg := prefetchtest.NewOfflineRegistry("registry.test")
	ref := reg.Push(prefetchtest.Build(t, 1, 1000), "m", "v1")
	p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
	want := prefetch.Image{Ref: ref, Pin: true}
	res, err := p.Ensure(t.Context(), want, nil)
	if err != nil || res.Pinned || res.PinSupported || !strings.Contains(res.Note, "knows no pins") {
		t.Errorf("%+v, %v", res, err)
	}
	if res, ok, err := p.Check(t.Context(), want, ""); !ok || err != nil || res.Note == "" {
		t.Errorf("Check: %+v, %v, %v", res, ok, err)
	}
}

func TestCheckSaysWhatIsMissing(t *testing.T) {
	store := prefetchtest.NewMemStore(t)
	reg := prefetchtest.NewOfflineRegistry("registry.test")
	img := prefetchtest.Build(t, 1, 1000)
	ref := reg.Push(img, "m", "v1")
	p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
	want := prefetch.Image{Ref: ref, Aliases: []string{"alias.test/m:v1"}, Pin: true}
	look := func(digest, note string) {
		t.Helper()
		res, ok, err := p.Check(t.Context(), want, digest)
		if err != nil || ok != (note == "") || !strings.Contains(res.Note, note) {
			t.Errorf("Check: %v, %v, note %q; want %q", ok, err, res.Note, note)
		}
	}
	look("", "containerd has no image registry.test/m:v1")
	res, err := p.Ensure(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	look("", "")
	look(res.Digest, "")
	look(digest.FromString("other").String(), "points at "+res.Digest)
	store.Forget("alias.test/m:v1", false)
	look("", "containerd has no image alias.test/m:v1")
	if _, err := p.Ensure(t.Context(), want, nil); err != nil {
		t.Fatal(err)
	}
	if store.Unpacks() != 1 {
		t.Errorf("a missing alias led to %d unpacks", store.Unpacks())
	}
	look("", "")
	if err := p.Unpin(t.Context(), res.ConfigDigest); err != nil {
		t.Fatal(err)
	}
	look("", "is pinned")
	store.Forget("", true)
	look("", "has not the content")
	if _, err := p.Ensure(t.Context(), want, nil); err != nil {
		t.Fatal(err)
	}
	look("", "")
}

func TestAPinThatIsTakenOffAtOnceIsPutOnAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg, store := prefetchtest.NewOfflineRegistry("registry.test"), prefetchtest.NewMemStore(t)
		p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
		taken := 0
		store.Fault = func(method string, done bool) error {
			if method != "Pin" || !done || taken == 3 {
				return nil
			}
			taken++
			for _, pin := range pinsOf(t, store) {
				if err := store.Unpin(t.Context(), pin.ImageID); err != nil {
					return err
				}
			}
			return nil
		}
		began := time.Now()
		if _, err := p.Ensure(t.Context(), prefetch.Image{Ref: reg.Push(prefetchtest.Build(t, 1, 300_000), "m", "v1"), Pin: true}, nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); taken != 3 || took > 5*time.Second {
			t.Errorf("taken off %d times, and ready after %s", taken, took)
		}
	})
}

func pinsOf(t *testing.T, store prefetch.Store) []prefetch.Pin {
	t.Helper()
	pins, err := store.Pins(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return pins
}

func TestWhatCannotBeAnImageIsRefusedBeforeAnythingIsAsked(t *testing.T) {
	p := prefetchtest.NewPrefetcher(t, prefetchtest.NewMemStore(t), func(string) ([]docker.RegistryHost, error) {
		t.Error("hosts were asked for")
		return nil, errors.New("no")
	})
	_, err := p.Ensure(t.Context(), prefetch.Image{
		Ref: "UPPER/case", Aliases: []string{"a b", "ok"}, Platform: "//",
	}, nil)
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range []string{"UPPER/case", `"a b"`, `"//"`} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error lacks %q: %v", part, err)
		}
	}
	if err := p.Unpin(t.Context(), "nonsense"); err == nil {
		t.Error("nonsense was unpinned")
	}
}

func TestAnAliasWithAnotherDigestIsRefused(t *testing.T) {
	reg := prefetchtest.NewOfflineRegistry("registry.test")
	ref := reg.Push(prefetchtest.Build(t, 1, 1000), "m", "v1")
	p := prefetchtest.NewPrefetcher(t, prefetchtest.NewMemStore(t), prefetchtest.Hosts(reg))
	alias := "alias.test/m@" + digest.FromString("other").String()
	_, err := p.Ensure(t.Context(), prefetch.Image{Ref: ref, Aliases: []string{alias}}, nil)
	if err == nil || !strings.Contains(err.Error(), alias) {
		t.Errorf("%v", err)
	}
}

func TestEnsureEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := prefetchtest.NewMemStore(t)
		store.WriteTime = time.Hour
		reg := prefetchtest.NewOfflineRegistry("registry.test")
		ref := reg.Push(prefetchtest.Build(t, 1, 300_000, 300_000), "m", "v1")
		p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Hour)
		defer cancel()
		if _, err := p.Ensure(ctx, prefetch.Image{Ref: ref}, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if store.Sessions() != 1 {
			t.Errorf("%d sessions are left, want the one that keeps what was fetched", store.Sessions())
		}
	})
}

func TestNewRefusesLimitsThatCannotWork(t *testing.T) {
	good := prefetch.Config{
		Hosts: prefetchtest.Hosts(), Store: prefetchtest.NewMemStore(t), Log: prefetchtest.Logger(t),
	}
	if _, err := prefetch.New(good); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for name, change := range map[string]func(*prefetch.Config){
		"no hosts": func(c *prefetch.Config) { c.Hosts = nil }, "no store": func(c *prefetch.Config) { c.Store = nil },
		"no log": func(c *prefetch.Config) { c.Log = nil }, "no memory": func(c *prefetch.Config) { c.Memory = 1 },
		"negative": func(c *prefetch.Config) { c.MaxParallel = -1 }, "no chunk": func(c *prefetch.Config) { c.ChunkSize = -1 },
	} {
		cfg := good
		change(&cfg)
		if _, err := prefetch.New(cfg); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// downUntil refuses connections until a time.
type downUntil struct {
	next http.RoundTripper
	at   time.Time
}

func (d downUntil) RoundTrip(req *http.Request) (*http.Response, error) {
	if time.Now().Before(d.at) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	return d.next.RoundTrip(req)
}

func TestARegistryThatIsDownAndComesBack(t *testing.T) {
	for name, tc := range map[string]struct {
		down time.Duration
		ok   bool
	}{"after a short while": {15 * time.Second, true}, "after an hour": {time.Hour, false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := prefetchtest.NewOfflineRegistry("registry.test")
				want := prefetch.Image{Ref: reg.Push(prefetchtest.Build(t, 1, 300_000), "m", "v1")}
				host := reg.RegistryHost()
				host.Client.Transport = downUntil{host.Client.Transport, time.Now().Add(tc.down)}
				p, err := prefetch.New(prefetch.Config{
					Hosts: func(string) ([]docker.RegistryHost, error) { return []docker.RegistryHost{host}, nil },
					Store: prefetchtest.NewMemStore(t), Log: prefetchtest.Logger(t),
				})
				if err != nil {
					t.Fatal(err)
				}
				if _, err = p.Ensure(t.Context(), want, nil); (err == nil) != tc.ok {
					t.Errorf("%v", err)
				}
				if tc.ok {
					return
				}
				for _, part := range []string{"registry.test", "connection refused", "reachable from this node"} {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("the error lacks %q: %v", part, err)
					}
				}
				time.Sleep(tc.down)
				if _, err := p.Ensure(t.Context(), want, nil); err != nil {
					t.Errorf("when it is back: %v", err)
				}
			})
		})
	}
}
