package rig

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// DefaultShardSize is how model files are split by the tools that publish them.
const DefaultShardSize = 256 << 20

// ModelSpec describes an image as model servers use them: a small base, some compressed layers of software and one raw
// layer of weights. The same spec gives the same bytes, and so the same digests, with the same Go version.
type ModelSpec struct {
	// Seed makes images differ.
	Seed uint64
	// RawSize is the number of bytes of weights, which do not compress. They are one uncompressed layer. Zero: no such
	// layer.
	RawSize int64
	// ShardSize is the size of each file of weights but the last. Zero: DefaultShardSize.
	ShardSize int64
	// GzipLayers is how many compressed layers there are beside the base.
	GzipLayers int
	// GzipSize is the size of the files in each of them before compression, which takes off about half.
	GzipSize int64
	// OS and Architecture default to linux and amd64.
	OS, Architecture string
}

// BuildModelImage makes the image. The layers' bytes are generated whenever they are read and never kept. Digests are
// computed here, so it takes as long as reading all of it.
func BuildModelImage(spec ModelSpec) (v1.Image, error) {
	if spec.ShardSize == 0 {
		spec.ShardSize = DefaultShardSize
	}
	if spec.RawSize < 0 || spec.ShardSize < 0 || spec.GzipLayers < 0 || spec.GzipSize < 0 {
		return nil, errors.New("build a model image: a size is negative")
	}
	trees := []tree{{types.OCILayer, baseFiles(spec.Seed), "base"}}
	for i := range spec.GzipLayers {
		files := softwareFiles(spec.Seed, spec.GzipSize, i)
		trees = append(trees, tree{types.OCILayer, files, fmt.Sprintf("software %d", i)})
	}
	if spec.RawSize > 0 {
		trees = append(trees, tree{types.OCIUncompressedLayer, weightFiles(spec), "weights"})
	}
	return assemble(trees, spec.OS, spec.Architecture)
}

// tree is what becomes one layer.
type tree struct {
	media types.MediaType
	files []entry
	// by is the layer's line in the image's history.
	by string
}

// assemble makes an image of the layers, which starts the base's entry point. It reads each of them once.
func assemble(trees []tree, os, architecture string) (v1.Image, error) {
	var adds []mutate.Addendum
	for _, t := range trees {
		l, err := newLayer(t.media, t.files)
		if err != nil {
			return nil, fmt.Errorf("build the %s layer: %w", t.by, err)
		}
		adds = append(adds, mutate.Addendum{Layer: l, MediaType: t.media, History: v1.History{CreatedBy: t.by}})
	}
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	img, err := mutate.Append(img, adds...)
	if err != nil {
		return nil, fmt.Errorf("assemble the image: %w", err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("assemble the image: %w", err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = orDefault(os, "linux"), orDefault(architecture, "amd64")
	cfg.Config.Entrypoint = []string{"/usr/bin/serve"}
	cfg.Config.WorkingDir = "/models"
	cfg.Config.Env = []string{"PATH=/usr/bin:/bin"}
	img, err = mutate.ConfigFile(img, cfg)
	if err != nil {
		return nil, fmt.Errorf("assemble the image: %w", err)
	}
	return img, nil
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// entry is one entry of a layer's tar: a directory, a link, or a file with content that can be read again and again.
type entry struct {
	header  tar.Header
	content func() io.Reader
}

func dir(name string, mode int64) entry {
	return entry{header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}}
}

func file(name string, mode int64, data []byte) entry {
	return generated(name, mode, int64(len(data)), func() io.Reader { return bytes.NewReader(data) })
}

func generated(name string, mode, size int64, content func() io.Reader) entry {
	return entry{
		header:  tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size},
		content: func() io.Reader { return io.LimitReader(content(), size) },
	}
}

func baseFiles(seed uint64) []entry {
	config := fmt.Sprintf("{\"architectures\": [\"RigForCausalLM\"], \"seed\": %d}\n", seed)
	return []entry{
		dir("etc/", 0o755),
		file("etc/os-release", 0o644, []byte("ID=rig\nNAME=\"Rig\"\n")),
		file("etc/passwd", 0o644, []byte("root:x:0:0:root:/:/usr/bin/serve\n")),
		dir("tmp/", 0o1777),
		dir("usr/", 0o755),
		dir("usr/bin/", 0o755),
		file("usr/bin/serve", 0o755, pauseProgram()),
		{header: tar.Header{Typeflag: tar.TypeSymlink, Name: "bin", Linkname: "usr/bin", Mode: 0o777}},
		dir("models/", 0o755),
		file("models/config.json", 0o644, []byte(config)),
	}
}

// weightFiles are shards named as model hubs name them. Weights look random to every compressor.
func weightFiles(spec ModelSpec) []entry {
	shards := (spec.RawSize + spec.ShardSize - 1) / spec.ShardSize
	files := []entry{dir("models/", 0o755)}
	for i := range shards {
		size := min(spec.ShardSize, spec.RawSize-i*spec.ShardSize)
		name := fmt.Sprintf("models/model-%05d-of-%05d.safetensors", i+1, shards)
		files = append(files, generated(name, 0o644, size, func() io.Reader {
			return random(spec.Seed, "weights", uint64(i))
		}))
	}
	return files
}

// softwareFiles are many files of different sizes with content that compresses as programs and libraries do.
func softwareFiles(seed uint64, total int64, layer int) []entry {
	const largest = 8 << 20
	top := fmt.Sprintf("opt/layer-%02d/", layer)
	files := []entry{dir("opt/", 0o755), dir(top, 0o755)}
	sizes := rand.New(random(seed, "sizes", uint64(layer)))
	for i, left := 0, total; left > 0; i++ {
		// Most files are small, but most bytes are in large ones: sizes are even on a logarithmic scale.
		size := min(left, int64(1)<<sizes.IntN(23)+sizes.Int64N(4096), largest)
		left -= size
		if i%100 == 0 {
			files = append(files, dir(fmt.Sprintf("%spkg-%03d/", top, i/100), 0o755))
		}
		name := fmt.Sprintf("%spkg-%03d/file-%04d.so", top, i/100, i)
		files = append(files, generated(name, 0o644, size, func() io.Reader {
			return &semiCompressible{r: random(seed, name, 0)}
		}))
	}
	return files
}

// random is a stream of bytes that depends on its arguments alone.
func random(seed uint64, what string, n uint64) *rand.ChaCha8 {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	binary.LittleEndian.PutUint64(key[8:], n)
	copy(key[16:], what)
	if len(what) > 16 {
		// Long names differ at their ends.
		copy(key[16:], what[len(what)-16:])
	}
	return rand.NewChaCha8(key)
}

// semiCompressible alternates random blocks with text, so that gzip halves it.
type semiCompressible struct {
	r     *rand.ChaCha8
	block []byte
	buf   [1024]byte
}

const words = "load store tensor kernel attention batch cache layer norm embed token shard stream copy sync launch "

func (s *semiCompressible) Read(p []byte) (int, error) {
	if len(s.block) == 0 {
		s.block = s.buf[:]
		if n := s.r.Uint64(); n%2 == 0 {
			s.r.Read(s.block) //nolint:errcheck // it never fails
		} else {
			start := int(n>>1) % len(words)
			copy(s.block, strings.Repeat(words[start:]+words[:start], len(s.block)/len(words)+1))
		}
	}
	n := copy(p, s.block)
	s.block = s.block[n:]
	return n, nil
}

// modTime is that of every file: an image of the same spec is the same tomorrow.
func modTime() time.Time { return time.Unix(1_700_000_000, 0).UTC() }

// tarReader streams a tar file with the entries.
func tarReader(entries []entry) (io.Reader, error) {
	var parts []io.Reader
	for _, e := range entries {
		h := e.header
		h.ModTime = modTime()
		var head bytes.Buffer
		if err := tar.NewWriter(&head).WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("tar header of %q: %w", h.Name, err)
		}
		parts = append(parts, &head)
		if e.content != nil {
			padding := make([]byte, (512-h.Size%512)%512)
			parts = append(parts, e.content(), bytes.NewReader(padding))
		}
	}
	// Two empty blocks end a tar file.
	return io.MultiReader(append(parts, bytes.NewReader(make([]byte, 1024)))...), nil
}

// pauseProgram is a program for linux/amd64 that calls pause(2) for ever: the smallest entry point that runs.
func pauseProgram() []byte {
	code := []byte{
		0xb8, 0x22, 0, 0, 0, // mov eax, 34 (pause)
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp to the start
	}
	const base, headers = 0x400000, 64 + 56
	var b bytes.Buffer
	le := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) } // a bytes.Buffer takes everything
	b.WriteString("\x7fELF\x02\x01\x01")                               // 64 bit, little endian, version 1
	b.Write(make([]byte, 9))
	le([]uint16{2, 62})                 // executable, x86-64
	le(uint32(1))                       // version
	le([]uint64{base + headers, 64, 0}) // entry, program headers, no section headers
	le(uint32(0))                       // flags
	le([]uint16{64, 56, 1, 0, 0, 0})    // sizes and counts of headers
	le([]uint32{1, 5})                  // load segment, readable and executable
	le([]uint64{0, base, base})         // offset and addresses
	size := uint64(headers + len(code)) // in the file and in memory
	le([]uint64{size, size, 0x1000})    // sizes and alignment
	b.Write(code)
	return b.Bytes()
}
