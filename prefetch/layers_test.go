package prefetch_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

// tarOf makes a tar of files with content, and of directories, whose names end in a slash.
func tarOf(t *testing.T, size int, names ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range names {
		h := &tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeDir, Uid: os.Getuid(), Gid: os.Getgid()}
		if !strings.HasSuffix(name, "/") {
			h.Typeflag, h.Size = tar.TypeReg, int64(size)
		}
		err := w.WriteHeader(h)
		if err == nil && h.Size > 0 {
			_, err = w.Write(bytes.Repeat([]byte{'x'}, size))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func layerOf(data []byte) prefetchtest.Layer {
	return prefetchtest.Layer{MediaType: ocispec.MediaTypeImageLayer, Blob: data, DiffID: digest.FromBytes(data)}
}

// longWindow makes a layer of one zstd frame of raw blocks, which asks for a window of 16 MiB (RFC 8878, 3.1.1).
func longWindow(data []byte) prefetchtest.Layer {
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, (24 - 10) << 3}
	for chunk := range slices.Chunk(data, 64<<10) {
		frame = append(binary.LittleEndian.AppendUint32(frame, uint32(len(chunk)<<3))[:len(frame)+3], chunk...)
	}
	return prefetchtest.Layer{MediaType: ocispec.MediaTypeImageLayerZstd, Blob: append(frame, 1, 0, 0), DiffID: digest.FromBytes(data)}
}

// TestLayersThatMustBeLaidOutAgain has layers whose first try shows how they must be laid out.
func TestLayersThatMustBeLaidOutAgain(t *testing.T) {
	below := layerOf(tarOf(t, 100, "dir/", "dir/old"))
	for name, c := range map[string]struct {
		layers []prefetchtest.Layer
		file   string // of the last one's snapshot
	}{
		"a large zstd window": {[]prefetchtest.Layer{longWindow(tarOf(t, 200_000, "a", "b", "c"))}, "c"},
		"a directory that the layer does not list, replaced": {
			[]prefetchtest.Layer{below, layerOf(tarOf(t, 200_000, "dir/f", "dir"))}, "dir"},
	} {
		for _, keep := range []prefetch.KeepLayers{prefetch.KeepAlways, prefetch.KeepNever} {
			t.Run(name+", "+string(keep), func(t *testing.T) {
				mem, store := directStore(t, func(c *prefetch.Config) { c.KeepLayers = keep })
				reg := prefetchtest.NewOfflineRegistry("registry.test")
				img := prefetchtest.Assemble(t, c.layers...)
				p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
				res, err := p.Ensure(t.Context(), prefetch.Image{Ref: reg.Push(img, "m", "v1")}, nil)
				if err != nil {
					t.Fatal(err)
				}
				all := img.Size() + img.Manifest.Size + img.Config.Size
				if again := res.BytesFetched > all; again && keep == prefetch.KeepAlways {
					t.Errorf("%d bytes were fetched for %d", res.BytesFetched, all)
				}
				if info, err := os.Stat(filepath.Join(mem.Dir(img.ChainID), c.file)); err != nil || info.Size() != 200_000 {
					t.Errorf("the snapshot has %v, %v", info, err)
				}
			})
		}
	}
}

func TestTheSameLayerTwiceIsFetchedOnce(t *testing.T) {
	for name, configure := range ways(t) {
		t.Run(name, func(t *testing.T) {
			_, store := directStore(t, configure)
			reg := prefetchtest.NewOfflineRegistry("registry.test")
			twice := layerOf(tarOf(t, 200_000, "twice"))
			img := prefetchtest.Assemble(t, twice, layerOf(tarOf(t, 100, "between")), twice)
			p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
			res, err := p.Ensure(t.Context(), prefetch.Image{Ref: reg.Push(img, "m", "v1")}, nil)
			if err != nil {
				t.Fatal(err)
			}
			once := img.Size() - int64(len(twice.Blob)) + img.Manifest.Size + img.Config.Size
			if res.BytesFetched != once && name != notKept {
				t.Errorf("%d bytes were fetched, want %d", res.BytesFetched, once)
			}
		})
	}
}

// TestBlobsThatAreNoLayersStay has an image that names a blob of many chunks, and a small one, that no snapshot has.
func TestBlobsThatAreNoLayersStay(t *testing.T) {
	for name, configure := range ways(t) {
		t.Run(name, func(t *testing.T) {
			mem, store := directStore(t, configure)
			reg := prefetchtest.NewOfflineRegistry("registry.test")
			extra := func(c string, n int) prefetchtest.Layer {
				return prefetchtest.Layer{MediaType: "application/vnd.example.signature", Blob: bytes.Repeat([]byte(c), n)}
			}
			img := prefetchtest.Assemble(t, layerOf(tarOf(t, 100, "f")), extra("a", 300_000), extra("b", 100))
			p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
			if _, err := p.Ensure(t.Context(), prefetch.Image{Ref: reg.Push(img, "m", "v1")}, nil); err != nil {
				t.Fatal(err)
			}
			mem.Lose(digest.FromString("another image")) // collects what nothing names
			session, err := store.Open(t.Context(), "look")
			if err != nil {
				t.Fatal(err)
			}
			for _, desc := range img.Layers[1:] {
				if has, err := session.Has(t.Context(), desc); !has || err != nil {
					t.Errorf("%s of %d bytes: %v, %v", desc.MediaType, desc.Size, has, err)
				}
			}
			if files := leftovers(t, store); len(files) > 0 {
				t.Errorf("left: %q", files)
			}
		})
	}
}

func TestAnArtifactOfAnIndex(t *testing.T) {
	for name, configure := range ways(t) {
		t.Run(name, func(t *testing.T) {
			_, store := directStore(t, configure)
			reg := prefetchtest.NewOfflineRegistry("registry.test")
			img := prefetchtest.BuildArtifact(t, 1, 300_000).Indexed(t)
			p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
			want := prefetch.Image{Ref: reg.Push(img, "m", "v1"), Pin: true}
			res, err := p.Ensure(t.Context(), want, nil)
			if err != nil {
				t.Fatal(err)
			}
			if res.Mountable || res.Target() != img.Target.Digest.String() || res.ConfigDigest != img.Manifest.Digest.String() || !res.Pinned {
				t.Errorf("%+v", res)
			}
			pins, err := p.Pins(t.Context())
			if err != nil || len(pins) != 1 || pins[0].Size < img.Size() || pins[0].Target != img.Target.Digest {
				t.Errorf("pins: %+v, %v", pins, err)
			}
		})
	}
}

func TestWhichWayIsChosen(t *testing.T) {
	for name, c := range map[string]struct {
		make func(*prefetchtest.MemStore, *prefetch.Config)
		way  prefetch.WayName
		why  string
		kept bool
	}{
		"open":                      {func(*prefetchtest.MemStore, *prefetch.Config) {}, prefetch.Direct, "", true},
		"open, the daemon discards": {func(m *prefetchtest.MemStore, _ *prefetch.Config) { m.Discards = true }, prefetch.Direct, "", false},
		"open, it discards, but keep them": {func(m *prefetchtest.MemStore, c *prefetch.Config) {
			m.Discards, c.KeepLayers = true, prefetch.KeepAlways
		}, prefetch.Direct, "", true},
		"open, do not keep them": {func(_ *prefetchtest.MemStore, c *prefetch.Config) { c.KeepLayers = prefetch.KeepNever }, prefetch.Direct, "", false},
		"forced":                 {func(_ *prefetchtest.MemStore, c *prefetch.Config) { c.Way = prefetch.API }, prefetch.API, "the configuration says so", true},
		"closed":                 {func(m *prefetchtest.MemStore, _ *prefetch.Config) { m.Direct, m.Closed = false, "no root" }, prefetch.API, "no root", true},
		"closed and forced": {func(m *prefetchtest.MemStore, c *prefetch.Config) {
			m.Direct, m.Closed, c.Way = false, "no root", prefetch.API
		},
			prefetch.API, "no root", true},
		"closed, containerd's unpack needs the blobs": {func(m *prefetchtest.MemStore, c *prefetch.Config) { m.Direct, c.KeepLayers = false, prefetch.KeepNever },
			prefetch.API, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			var mem *prefetchtest.MemStore
			mem, store := directStore(t, func(cfg *prefetch.Config) { c.make(mem, cfg) })
			reg := prefetchtest.NewOfflineRegistry("registry.test")
			p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
			res, err := p.Ensure(t.Context(), prefetch.Image{Ref: reg.Push(prefetchtest.Build(t, 1, 1000), "m", "v1")}, nil)
			if err != nil || res.Way != c.way || res.WayReason != c.why || res.Kept != c.kept {
				t.Errorf("%+v, %v", res, err)
			}
		})
	}
}

// TestAChunkThatHasComeIsKept cancels while the store takes each chunk of a layer in turn.
func TestAChunkThatHasComeIsKept(t *testing.T) { synctest.Test(t, testCancelledChunks) }

func testCancelledChunks(t *testing.T) {
	staging := t.TempDir()
	mem, store := directStore(t, func(c *prefetch.Config) { c.Way, c.Staging, c.MaxParallel = prefetch.API, staging, 1 })
	reg := prefetchtest.NewOfflineRegistry("registry.test")
	img := prefetchtest.Build(t, 1, 3*prefetchtest.Chunk+2100)
	want := prefetch.Image{Ref: reg.Push(img, "m", "v1")}
	p := prefetchtest.NewPrefetcher(t, store, prefetchtest.Hosts(reg))
	fetched := int64(0)
	for at := int64(0); at < img.Layers[0].Size; at += prefetchtest.Chunk {
		ctx, cancel := context.WithCancel(t.Context())
		mem.WriteErr = func(d digest.Digest, offset int64) error {
			if d != img.Layers[0].Digest || offset < at {
				return nil
			}
			synctest.Wait() // nothing is in flight
			cancel()
			return context.Canceled
		}
		res, err := p.Ensure(ctx, want, nil)
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		fetched += res.BytesFetched
	}
	mem.WriteErr = nil
	res, err := p.Ensure(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := img.Size() + img.Manifest.Size + img.Config.Size
	if fetched += res.BytesFetched; fetched > all {
		t.Errorf("%d bytes were fetched for %d", fetched, all)
	}
}
