package staging

import (
	"crypto/sha256"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// lateDisk leaves it to the kernel when it begins to write.
type lateDisk struct{ disk }

type lateFile struct{ file }

func (lateFile) StartWriting(int64, int64) {}

func (d lateDisk) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	f, err := d.disk.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return lateFile{f}, nil
}

// BenchmarkBlob writes a blob with four writers and makes it durable; sync-ms is what Sync takes of that, which is what a
// layer waits for.
func BenchmarkBlob(b *testing.B) {
	for _, size := range []int64{1 << 20, 256 << 20, 2 << 30} {
		for name, d := range map[string]disk{"early": osDisk{}, "late": lateDisk{osDisk{}}} {
			b.Run(fmt.Sprintf("%dMiB/%s", size>>20, name), func(b *testing.B) { benchmark(b, d, size) })
		}
	}
}

func benchmark(b *testing.B, d disk, size int64) {
	dir, err := Open(Config{Path: b.TempDir(), disk: d})
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 8<<20)
	for i := range buf {
		buf[i] = byte(i * 7)
	}
	var opening, syncing, removing time.Duration
	b.SetBytes(size)
	for n := 0; b.Loop(); n++ {
		desc := ocispec.Descriptor{Digest: digest.FromString(fmt.Sprint(n)), Size: size}
		start := time.Now()
		blob, err := dir.Blob(b.Context(), desc, int64(len(buf)), nil)
		if err != nil {
			b.Fatal(err)
		}
		opening += time.Since(start)
		if err := fill(blob, buf); err != nil {
			b.Fatal(err)
		}
		start = time.Now()
		if err := blob.Sync(); err != nil {
			b.Fatal(err)
		}
		syncing += time.Since(start)
		start = time.Now()
		if err := blob.Remove(); err != nil {
			b.Fatal(err)
		}
		removing += time.Since(start)
	}
	b.ReportMetric(float64(opening.Milliseconds())/float64(b.N), "open-ms")
	b.ReportMetric(float64(syncing.Milliseconds())/float64(b.N), "sync-ms")
	b.ReportMetric(float64(removing.Milliseconds())/float64(b.N), "remove-ms")
}

// fill writes all chunks, and the state of a hash as if they came in order.
func fill(b *Blob, buf []byte) error {
	var next atomic.Int64
	var g errgroup.Group
	for range 4 {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= b.Chunks() {
					return nil
				}
				if err := b.WriteChunk(i, buf[:b.Length(i)]); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return b.Progress(sha256.New(), b.Size())
}
