package prefetchtest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is an image with all its blobs.
type Image struct {
	Target   ocispec.Descriptor // the index if there is one, else the manifest
	Manifest ocispec.Descriptor
	Config   ocispec.Descriptor
	Layers   []ocispec.Descriptor
	ChainID  digest.Digest
	Blobs    map[digest.Digest][]byte
}

// Build makes an image for this machine's platform with one layer of random content for each size, in bytes; every other
// layer is compressed. The same seed gives the same image.
func Build(t testing.TB, seed uint64, sizes ...int) *Image {
	t.Helper()
	return build(t, runtime.GOARCH, seed, sizes...)
}

// BuildIndex is Build with an index around it that also names an image for another platform, which is nowhere.
func BuildIndex(t testing.TB, seed uint64, sizes ...int) *Image {
	t.Helper()
	img := Build(t, seed, sizes...)
	other := build(t, "other", seed+1000, 100)
	mine, theirs := img.Manifest, other.Manifest
	mine.Platform = &ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	theirs.Platform = &ocispec.Platform{OS: "linux", Architecture: "other"}
	img.Target = img.addJSON(t, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{theirs, mine},
	})
	return img
}

// Indexed puts an index around an image without one.
func (img *Image) Indexed(t testing.TB) *Image {
	t.Helper()
	img.Target = img.addJSON(t, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{img.Manifest},
	})
	return img
}

// The types of an artifact that BuildArtifact makes.
const (
	ArtifactType = "application/vnd.example.weights"
	weightsType  = "application/vnd.example.weights.file"
)

// BuildArtifact makes an artifact with one blob of random content for each size, in bytes. Its config is the empty one, which
// many have.
func BuildArtifact(t testing.TB, seed uint64, sizes ...int) *Image {
	t.Helper()
	img := &Image{Blobs: make(map[digest.Digest][]byte)}
	for i, size := range sizes {
		data := make([]byte, size)
		_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(i), 2}).Read(data) // never fails
		img.Layers = append(img.Layers, img.add(weightsType, data))
	}
	img.Config = img.add(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	img.Manifest = img.addJSON(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: ArtifactType,
		Config: img.Config, Layers: img.Layers,
	})
	img.Target = img.Manifest
	return img
}

func build(t testing.TB, arch string, seed uint64, sizes ...int) *Image {
	t.Helper()
	var layers []Layer
	for i, size := range sizes {
		data := tarball(t, rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(i), 1}), size)
		l := Layer{MediaType: ocispec.MediaTypeImageLayer, Blob: data, DiffID: digest.FromBytes(data)}
		if i%2 == 1 {
			var buf bytes.Buffer
			w := gzip.NewWriter(&buf)
			must(t, func() error { _, err := w.Write(data); return err }, w.Close)
			l.MediaType, l.Blob = ocispec.MediaTypeImageLayerGzip, buf.Bytes()
		}
		layers = append(layers, l)
	}
	return assemble(t, arch, seed, layers...)
}

// Layer is a layer of an image, or with an empty DiffID, another blob that its manifest names.
type Layer struct {
	MediaType string
	Blob      []byte
	DiffID    digest.Digest
}

// Assemble makes an image of layers for this machine's platform.
func Assemble(t testing.TB, layers ...Layer) *Image {
	t.Helper()
	return assemble(t, runtime.GOARCH, 0, layers...)
}

func assemble(t testing.TB, arch string, seed uint64, layers ...Layer) *Image {
	t.Helper()
	img := &Image{Blobs: make(map[digest.Digest][]byte)}
	var diffIDs []digest.Digest
	for _, l := range layers {
		img.Layers = append(img.Layers, img.add(l.MediaType, l.Blob))
		if l.DiffID != "" {
			diffIDs = append(diffIDs, l.DiffID)
		}
	}
	img.ChainID = identity.ChainID(slices.Clone(diffIDs)) // it works in place
	img.describe(t, arch, seed, diffIDs)
	return img
}

// Reconfigured is an image of the same layers with another config, as a rebuild that only changes its command makes.
func (img *Image) Reconfigured(t testing.TB) *Image {
	t.Helper()
	var config ocispec.Image
	if err := json.Unmarshal(img.Blobs[img.Config.Digest], &config); err != nil {
		t.Fatalf("parse the config: %v", err)
	}
	out := &Image{Layers: img.Layers, ChainID: img.ChainID, Blobs: maps.Clone(img.Blobs)}
	out.describe(t, config.Architecture, uint64(config.Created.Unix())+1, config.RootFS.DiffIDs)
	return out
}

// describe makes config and manifest; the seed is in the config.
func (img *Image) describe(t testing.TB, arch string, seed uint64, diffIDs []digest.Digest) {
	t.Helper()
	created := time.Unix(int64(seed), 0).UTC()
	img.Config = img.addJSON(t, ocispec.MediaTypeImageConfig, ocispec.Image{
		Created:  &created,
		Platform: ocispec.Platform{OS: "linux", Architecture: arch},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: diffIDs},
	})
	img.Manifest = img.addJSON(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    img.Config,
		Layers:    img.Layers,
	})
	img.Target = img.Manifest
}

// tarball is a tar with one file, of size bytes in all where that is possible.
func tarball(t testing.TB, src *rand.ChaCha8, size int) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	data := make([]byte, max(size-2048, 16))
	_, _ = src.Read(data) // never fails
	name := digest.FromBytes(data).Encoded()[:12]
	must(t,
		func() error {
			return w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Format: tar.FormatPAX})
		},
		func() error { _, err := w.Write(data); return err },
		w.Close)
	return buf.Bytes()
}

func (img *Image) add(mediaType string, data []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	img.Blobs[d.Digest] = data
	return d
}

func (img *Image) addJSON(t testing.TB, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("encode %s: %v", mediaType, err)
	}
	return img.add(mediaType, data)
}

// Size is the sum of the layers, in bytes.
func (img *Image) Size() int64 {
	var n int64
	for _, l := range img.Layers {
		n += l.Size
	}
	return n
}

func must(t testing.TB, steps ...func() error) {
	t.Helper()
	for _, f := range steps {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
}
