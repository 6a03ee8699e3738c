package rig_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

func build(t *testing.T, spec rig.ModelSpec) v1.Image {
	t.Helper()
	img, err := rig.BuildModelImage(spec)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func layers(t *testing.T, img v1.Image) []v1.Layer {
	t.Helper()
	list, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// contents reads the tar file of a layer: the size and the start of each file.
func contents(t *testing.T, l v1.Layer) map[string][]byte {
	t.Helper()
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	files := map[string][]byte{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = data
	}
}

func TestModelImageIsWhatItsSpecSays(t *testing.T) {
	img := build(t, rig.ModelSpec{RawSize: 5<<20 + 1, ShardSize: 2 << 20, GzipLayers: 3, GzipSize: 4 << 20})
	list := layers(t, img)
	var media []types.MediaType
	for _, l := range list {
		m, err := l.MediaType()
		if err != nil {
			t.Fatal(err)
		}
		media = append(media, m)
	}
	want := []types.MediaType{types.OCILayer, types.OCILayer, types.OCILayer, types.OCILayer, types.OCIUncompressedLayer}
	if diff := cmp.Diff(want, media); diff != "" {
		t.Errorf("media types (-want +got):\n%s", diff)
	}

	sizes := map[string]int{}
	for name, data := range contents(t, list[4]) {
		sizes[name] = len(data)
	}
	wantSizes := map[string]int{
		"models/": 0,
		"models/model-00001-of-00003.safetensors": 2 << 20,
		"models/model-00002-of-00003.safetensors": 2 << 20,
		"models/model-00003-of-00003.safetensors": 1<<20 + 1,
	}
	if diff := cmp.Diff(wantSizes, sizes); diff != "" {
		t.Errorf("shards (-want +got):\n%s", diff)
	}

	total := 0
	for _, data := range contents(t, list[1]) {
		total += len(data)
	}
	if total != 4<<20 {
		t.Errorf("a software layer has %d bytes of files, want %d", total, 4<<20)
	}
	size, err := list[1].Size()
	if err != nil {
		t.Fatal(err)
	}
	if size < 1<<20 || size > 3<<20 {
		t.Errorf("4 MiB of software compress to %d bytes, want between 1 and 3 MiB", size)
	}

	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.OS != "linux" || cfg.Architecture != "amd64" || len(cfg.Config.Entrypoint) != 1 {
		t.Errorf("platform %s/%s, entry point %q", cfg.OS, cfg.Architecture, cfg.Config.Entrypoint)
	}
	program := contents(t, list[0])[cfg.Config.Entrypoint[0][1:]]
	if _, err := elf.NewFile(bytes.NewReader(program)); err != nil {
		t.Errorf("the entry point is no program: %v", err)
	}
}

func TestLayersHaveTheDigestsOfTheirBytes(t *testing.T) {
	hash := func(open func() (io.ReadCloser, error)) (v1.Hash, int64) {
		t.Helper()
		r, err := open()
		if err != nil {
			t.Fatal(err)
		}
		h, n, err := v1.SHA256(r)
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		return h, n
	}
	img := build(t, rig.ModelSpec{RawSize: 1<<20 + 1, GzipLayers: 1, GzipSize: 1 << 20})
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range layers(t, img) {
		digest, size := hash(l.Compressed)
		if want := manifest.Layers[i]; digest != want.Digest || size != want.Size {
			t.Errorf("layer %d is %s with %d bytes, the manifest says %s with %d", i, digest, size, want.Digest, want.Size)
		}
		if diffID, _ := hash(l.Uncompressed); diffID != cfg.RootFS.DiffIDs[i] {
			t.Errorf("layer %d unpacks to %s, the configuration says %s", i, diffID, cfg.RootFS.DiffIDs[i])
		}
	}
}

func TestModelImageDependsOnItsSpecAlone(t *testing.T) {
	spec := rig.ModelSpec{Seed: 7, RawSize: 1 << 20, GzipLayers: 1, GzipSize: 1 << 20}
	digest := func(spec rig.ModelSpec) string {
		t.Helper()
		h, err := build(t, spec).Digest()
		if err != nil {
			t.Fatal(err)
		}
		return h.String()
	}
	first := digest(spec)
	if again := digest(spec); again != first {
		t.Errorf("the same spec gave %s and %s", first, again)
	}
	spec.Seed++
	if other := digest(spec); other == first {
		t.Errorf("another seed gave the same %s", other)
	}
	spec.Seed--
	spec.Architecture = "arm64"
	if other := digest(spec); other == first {
		t.Errorf("another platform gave the same %s", other)
	}
}

func TestShardsAndLayersDiffer(t *testing.T) {
	img := build(t, rig.ModelSpec{RawSize: 2 << 20, ShardSize: 1 << 20, GzipLayers: 2, GzipSize: 1 << 20})
	seen := map[string]string{}
	for _, l := range layers(t, img)[1:] {
		for name, data := range contents(t, l) {
			// Short files may be equal by chance.
			if len(data) < 64 {
				continue
			}
			sum := sha256.Sum256(data)
			key := hex.EncodeToString(sum[:])
			if other, ok := seen[key]; ok {
				t.Errorf("%s and %s have the same content", name, other)
			}
			seen[key] = name
		}
	}
	if len(seen) < 4 {
		t.Errorf("only %d files have content", len(seen))
	}
}

func TestLayerCanBeClosedEarly(t *testing.T) {
	img := build(t, rig.ModelSpec{GzipLayers: 1, GzipSize: 4 << 20})
	// TestMain notices a goroutine that still compresses.
	r, err := layers(t, img)[1].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestModelImageRefusesNegativeSizes(t *testing.T) {
	if _, err := rig.BuildModelImage(rig.ModelSpec{RawSize: -1}); err == nil {
		t.Error("a negative size is accepted")
	}
}
