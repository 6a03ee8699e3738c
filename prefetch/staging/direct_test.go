package staging

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWhatIsAlignedGoesPastThePageCache writes pieces of all alignments, several at once, and reads them through the cache.
func TestWhatIsAlignedGoesPastThePageCache(t *testing.T) {
	const piece = 64 << 10
	memory, err := unix.Mmap(-1, 0, 9*piece, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Munmap(memory); err != nil {
			t.Error(err)
		}
	}()
	want := memory[:8*piece+1234]
	random := rand.NewChaCha8([32]byte{1})
	if _, err := random.Read(want); err != nil {
		t.Fatal(err)
	}
	plain, err := os.Create(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	f := &osFile{File: plain}
	defer f.Close()
	if err := f.Truncate(int64(len(want))); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := 0; i < len(want); i += piece {
		all.Go(func() {
			p := want[i:min(i+piece, len(want))]
			if i == 2*piece {
				p = bytes.Clone(p)                    // most likely not aligned
				p = append(make([]byte, 1), p...)[1:] // and now for certain
			}
			if n, err := f.WriteAt(p, int64(i)); err != nil || n != len(p) {
				t.Errorf("%d of %d bytes at %d: %v", n, len(p), i, err)
			}
			f.StartWriting(int64(i), int64(len(p)))
		})
	}
	all.Wait()
	if f.direct == nil {
		t.Log("this filesystem does not know O_DIRECT: only the other way was tried")
	}
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("other bytes were read: %v", err)
	}
}
