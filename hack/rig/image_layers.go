package rig

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Content is what kind of files a layer has.
type Content string

const (
	// Software is files of different sizes that gzip halves.
	Software Content = "software"
	// Weights is shards of numbers as models have them, normally distributed in the format bfloat16, which compressors
	// make a fifth smaller, as they do with real ones.
	Weights Content = "weights"
	// SmallFiles is many files of 256 bytes to 16 KiB, half text.
	SmallFiles Content = "small files"
)

// LayerSpec describes one layer.
type LayerSpec struct {
	Content Content `json:"content"`
	// Compression is "", "gzip" or "zstd".
	Compression string `json:"compression,omitempty"`
	// Size is that of the files together before compression. SmallFiles do not look at it.
	Size int64 `json:"size,omitempty"`
	// Files is how many SmallFiles there are.
	Files int `json:"files,omitempty"`
}

// BuildImage makes an image of a small gzip layer with an entry point and these layers on it, for linux/amd64. The same
// arguments give the same bytes with the same versions of Go and of the compressors. What was said of BuildModelImage
// about reading holds here as well.
func BuildImage(seed uint64, layers []LayerSpec) (v1.Image, error) {
	trees := []tree{{types.OCILayer, baseFiles(seed), "base"}}
	for i, l := range layers {
		media, ok := map[string]types.MediaType{
			"": types.OCIUncompressedLayer, "gzip": types.OCILayer, "zstd": types.OCILayerZStd,
		}[l.Compression]
		if !ok || l.Size < 0 || l.Files < 0 {
			return nil, fmt.Errorf("build an image: layer %d cannot be %+v", i, l)
		}
		var files []entry
		switch l.Content {
		case Software:
			files = softwareFiles(seed, l.Size, i)
		case Weights:
			files = tensorFiles(seed, l.Size, i)
		case SmallFiles:
			files = smallFiles(seed, l.Files, i)
		default:
			return nil, fmt.Errorf("build an image: layer %d has no content %q", i, l.Content)
		}
		trees = append(trees, tree{media, files, fmt.Sprintf("%s %d", l.Content, i)})
	}
	return assemble(trees, "", "")
}

// tensorFiles are shards of bfloat16 numbers, several layers' beside each other.
func tensorFiles(seed uint64, total int64, layer int) []entry {
	files := []entry{dir("models/", 0o755)}
	for i := int64(0); i*DefaultShardSize < total; i++ {
		size := min(DefaultShardSize, total-i*DefaultShardSize)
		name := fmt.Sprintf("models/part-%02d-%05d.safetensors", layer, i)
		files = append(files, generated(name, 0o644, size, func() io.Reader {
			return newTensor(random(seed, name, 0))
		}))
	}
	return files
}

// smallFiles spreads count files over directories of a hundred, as packages of an interpreter do.
func smallFiles(seed uint64, count, layer int) []entry {
	top := fmt.Sprintf("usr/lib/site-%02d/", layer)
	files := []entry{dir("usr/", 0o755), dir("usr/lib/", 0o755), dir(top, 0o755)}
	sizes := rand.New(random(seed, "small", uint64(layer)))
	for i := range count {
		if i%100 == 0 {
			files = append(files, dir(fmt.Sprintf("%spkg%04d/", top, i/100), 0o755))
		}
		// Sizes are even on a logarithmic scale, 4 KiB on average.
		size := int64(256) << sizes.IntN(6)
		size += sizes.Int64N(size)
		name := fmt.Sprintf("%spkg%04d/module_%02d.py", top, i/100, i%100)
		files = append(files, generated(name, 0o644, size, func() io.Reader {
			return &semiCompressible{r: random(seed, name, 0)}
		}))
	}
	return files
}

// tensor is an endless stream of bfloat16 numbers. Their mantissas look random; their exponents do not.
type tensor struct {
	r    *rand.ChaCha8
	high [256]byte // by a random byte: sign and the upper seven bits of the exponent
	buf  [8 << 10]byte
	left []byte
}

func newTensor(r *rand.ChaCha8) *tensor {
	t := &tensor{r: r}
	// How many of 128 numbers from a normal distribution of deviation 2^-6 fall between 4^-k and 4^(1-k) deviations.
	i := 0
	for k, share := range []int{41, 62, 18, 5, 2} {
		for range share {
			exponent := byte(61 - k)
			t.high[i], t.high[i+128] = exponent, 0x80|exponent
			i++
		}
	}
	return t
}

func (t *tensor) Read(p []byte) (int, error) {
	if len(t.left) == 0 {
		for i := 0; i < len(t.buf); i += 8 {
			binary.LittleEndian.PutUint64(t.buf[i:], t.r.Uint64())
		}
		for i := 1; i < len(t.buf); i += 2 {
			t.buf[i] = t.high[t.buf[i]]
		}
		t.left = t.buf[:]
	}
	n := copy(p, t.left)
	t.left = t.left[n:]
	return n, nil
}
