package rig_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

func buildLayers(t *testing.T, layers ...rig.LayerSpec) v1.Image {
	t.Helper()
	img, err := rig.BuildImage(1, layers)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestImageHasTheLayersOfItsSpec(t *testing.T) {
	img := buildLayers(t,
		rig.LayerSpec{Content: rig.Weights, Size: 4 << 20},
		rig.LayerSpec{Content: rig.Weights, Compression: "gzip", Size: 4 << 20},
		rig.LayerSpec{Content: rig.Weights, Compression: "zstd", Size: 4 << 20},
		rig.LayerSpec{Content: rig.Software, Compression: "zstd", Size: 4 << 20},
		rig.LayerSpec{Content: rig.SmallFiles, Compression: "gzip", Files: 250},
	)
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var media []types.MediaType
	for _, l := range manifest.Layers {
		media = append(media, l.MediaType)
	}
	want := []types.MediaType{types.OCILayer, types.OCIUncompressedLayer, types.OCILayer, types.OCILayerZStd,
		types.OCILayerZStd, types.OCILayer}
	if diff := cmp.Diff(want, media); diff != "" {
		t.Errorf("media types (-want +got):\n%s", diff)
	}
	// Weights lose about a fifth, software about half.
	for i, limits := range [][2]int64{2: {64, 82}, 3: {64, 82}, 4: {40, 60}} {
		if limits[1] == 0 {
			continue
		}
		if part := manifest.Layers[i].Size * 100 / (4 << 20); part < limits[0] || part > limits[1] {
			t.Errorf("layer %d is compressed to %d %%, want %d to %d %%", i, part, limits[0], limits[1])
		}
	}
	files := 0
	for _, data := range contents(t, layers(t, img)[5]) {
		if len(data) > 0 {
			files++
		}
	}
	if files != 250 {
		t.Errorf("there are %d small files, want 250", files)
	}
}

func TestZstdLayerIsZstd(t *testing.T) {
	l := layers(t, buildLayers(t, rig.LayerSpec{Content: rig.Weights, Compression: "zstd", Size: 1<<20 + 1}))[1]
	r, err := l.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := v1.SHA256(z)
	z.Close()
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	want, err := l.DiffID()
	if err != nil || got != want {
		t.Errorf("it unpacks to %s, its diff ID is %s, %v", got, want, err)
	}
}

func TestImageOfLayersDependsOnItsSpecAlone(t *testing.T) {
	specs := []rig.LayerSpec{
		{Content: rig.Weights, Compression: "zstd", Size: 9 << 20},
		{Content: rig.Weights, Compression: "zstd", Size: 9 << 20},
		{Content: rig.SmallFiles, Compression: "gzip", Files: 30},
		{Content: rig.SmallFiles, Compression: "gzip", Files: 30},
	}
	first, second := buildLayers(t, specs...), buildLayers(t, specs...)
	a, err1 := first.Digest()
	b, err2 := second.Digest()
	if err := errors.Join(err1, err2); err != nil || a != b {
		t.Errorf("the same spec gave %s and %s, %v", a, b, err)
	}
	seen := map[v1.Hash]bool{}
	for _, l := range layers(t, first) {
		d, err := l.Digest()
		if err != nil || seen[d] {
			t.Errorf("two layers are %s, %v", d, err)
		}
		seen[d] = true
	}
}

func TestBuildImageRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, l := range []rig.LayerSpec{
		{Content: rig.Weights, Compression: "lz4"}, {Content: "dreams"}, {Content: rig.Weights, Size: -1},
	} {
		if _, err := rig.BuildImage(1, []rig.LayerSpec{l}); err == nil {
			t.Errorf("%+v gave an image", l)
		}
	}
}
