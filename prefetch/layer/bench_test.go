package layer_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/prefetch/layer"
)

// BenchmarkApply tells how many bytes of tar a layer takes in a second: one large file, and many small ones.
func BenchmarkApply(b *testing.B) {
	text := halfText(64 << 20)
	var small []entry
	for i := range 5000 {
		small = append(small, file(fmt.Sprintf("usr/lib/d%d/f%d", i/100, i), text[i*4000:i*4000+4000]))
	}
	for name, tar := range map[string][]byte{"large": tarOf(b, file("f", text)), "small": tarOf(b, small...)} {
		all := kinds(b, tar)
		for _, kind := range []string{"raw", "raw with diff ID", "gzip", "zstd"} {
			b.Run(name+"/"+strings.ReplaceAll(kind, " ", "-"), func(b *testing.B) { benchmark(b, all[kind], int64(len(tar))) })
		}
	}
	long := tarOf(b, file("f", text))
	b.Run("large/zstd-window-128M", func(b *testing.B) {
		benchmark(b, zstded(b, nil).with(stored(long, 27)).withID(gzipped(b, long).diffID), int64(len(long)))
	})
}

func benchmark(b *testing.B, l blob, size int64) {
	b.SetBytes(size)
	b.ReportAllocs()
	top := b.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "layer-"); err == nil {
		top = shm // so that the disk is not what is measured
		defer os.RemoveAll(shm)
	}
	for i := 0; b.Loop(); i++ {
		spec := layer.Spec{MediaType: l.media, DiffID: l.diffID, Base: true, Dir: filepath.Join(top, fmt.Sprint(i))}
		tree, err := layer.Apply(b.Context(), spec, bytes.NewReader(l.data))
		must(b, err)
		b.StopTimer()
		must(b, layer.Remove(tree.Dir))
		b.StartTimer()
	}
}

// halfText is what compressors halve, as programs and libraries are.
func halfText(n int) string {
	random := rand.NewChaCha8([32]byte{1})
	var out bytes.Buffer
	block := make([]byte, 1024)
	for out.Len() < n {
		_, _ = random.Read(block)
		out.Write(block)
		out.WriteString(strings.Repeat("load store tensor kernel attention batch ", 25))
	}
	return out.String()[:n]
}
