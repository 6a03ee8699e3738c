package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

// generator is the version of everything that makes images' bytes. Another one throws the kept images away.
const generator = "v1"

// imageSpec is one image to pull.
type imageSpec struct {
	name, description string
	layers            []rig.LayerSpec
}

func (s imageSpec) label() string { return s.name }

// How large content is after compression, measured.
const (
	softwareGzip = 0.527
	weightsGzip  = 0.784
	weightsZstd  = 0.784
)

// imageSpecs are the benchmark's images. Sizes are those of the blobs in the registry. Quick ones are a sixteenth.
func imageSpecs(quick bool) []imageSpec {
	part := int64(1)
	if quick {
		part = 16
	}
	blob := func(c rig.Content, compression string, mib int64, ratio float64) rig.LayerSpec {
		return rig.LayerSpec{Content: c, Compression: compression, Size: int64(float64(mib<<20/part) / ratio)}
	}
	repeat := func(n int, l rig.LayerSpec) (list []rig.LayerSpec) {
		for range n {
			list = append(list, l)
		}
		return list
	}
	size := func(mib int64) string { return fmt.Sprintf("%d MiB", mib/part) }
	a := append(repeat(4, blob(rig.Software, "gzip", 256, softwareGzip)), blob(rig.Weights, "", 1024, 1))
	files := int(5000 / part)
	return []imageSpec{
		{"A", "4 gzip layers of software, " + size(256) + " each, and a raw layer of weights, " + size(1024), a},
		{"B", "a raw layer of weights, " + size(4096), []rig.LayerSpec{blob(rig.Weights, "", 4096, 1)}},
		{"C", "a gzip layer of weights, " + size(2048), []rig.LayerSpec{blob(rig.Weights, "gzip", 2048, weightsGzip)}},
		{"D", "12 zstd layers of weights, " + size(200) + " each", repeat(12, blob(rig.Weights, "zstd", 200, weightsZstd))},
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
