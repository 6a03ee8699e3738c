package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

// generator is the version of everything that makes images' bytes. Another one throws the kept images away.
const generator = "v2"

// imageSpec is one image to pull.
type imageSpec struct {
	name, description string
	layers            []rig.LayerSpec
}

func (s imageSpec) label() string { return s.name }

// imageSpecs are the benchmark's images. Sizes are those of the files in a layer, before it is compressed: to 53 % for
// software, and 78 % for weights. Quick images have a sixteenth.
func imageSpecs(quick bool) []imageSpec {
	part := int64(1)
	if quick {
		part = 16
	}
	layer := func(c rig.Content, compression string, mib int64) rig.LayerSpec {
		return rig.LayerSpec{Content: c, Compression: compression, Size: mib << 20 / part}
	}
	repeat := func(n int, l rig.LayerSpec) (list []rig.LayerSpec) {
		for range n {
			list = append(list, l)
		}
		return list
	}
	size := func(mib int64) string { return fmt.Sprintf("%d MiB", mib/part) }
	a := append(repeat(4, layer(rig.Software, "gzip", 256)), layer(rig.Weights, "", 1024))
	files := int(5000 / part)
	return []imageSpec{
		{"A", "4 gzip layers of software, " + size(256) + " each, and a raw layer of weights, " + size(1024), a},
		{"B", "a raw layer of weights, " + size(4096), []rig.LayerSpec{layer(rig.Weights, "", 4096)}},
		{"C", "a gzip layer of weights, " + size(2048), []rig.LayerSpec{layer(rig.Weights, "gzip", 2048)}},
		{"D", "12 zstd layers of weights, " + size(200) + " each", repeat(12, layer(rig.Weights, "zstd", 200))},
		{"E", fmt.Sprintf("%d small files in 20 gzip layers", 20*files),
			repeat(20, rig.LayerSpec{Content: rig.SmallFiles, Compression: "gzip", Files: files})},
	}
}

// tinyImage is what unrelated containers run.
func tinyImage() imageSpec { return imageSpec{name: "tiny", description: "one program"} }

// tag differs between images of different bytes.
func (s imageSpec) tag() string {
	data, _ := json.Marshal(s.layers) // plain structs always encode
	sum := sha256.Sum256(append([]byte(generator+s.name), data...))
	return s.label() + "-" + hex.EncodeToString(sum[:6])
}
