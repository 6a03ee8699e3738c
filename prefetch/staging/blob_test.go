package staging

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// content is what a blob of a seed holds.
func content(seed uint64, size int) ([]byte, ocispec.Descriptor) {
	data := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(data)
	return data, ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(size)}
}

func open(t *testing.T, cfg Config) *Dir {
	t.Helper()
	if cfg.Path == "" {
		cfg.Path = filepath.Join(t.TempDir(), "staging")
	}
	d, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func take(t *testing.T, d *Dir, desc ocispec.Descriptor, chunk int64) *Blob {
	t.Helper()
	b, err := d.Blob(t.Context(), desc, chunk, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// part is what chunk i of data is.
func part(b *Blob, data []byte, i int) []byte {
	off := int64(i) * b.ChunkSize()
	return data[off : off+b.Length(i)]
}

func write(t *testing.T, b *Blob, data []byte, chunks ...int) {
	t.Helper()
	for _, i := range chunks {
		must(t, b.WriteChunk(i, part(b, data, i)))
	}
}

// has lists the chunks that are there, and sees that they are right.
func has(t *testing.T, b *Blob, data []byte) []int {
	t.Helper()
	var got []int
	for i := range b.Chunks() {
		if !b.Has(i) {
			continue
		}
		got = append(got, i)
		p := make([]byte, b.Length(i))
		must(t, b.ReadChunk(i, p))
		if !bytes.Equal(p, part(b, data, i)) {
			t.Errorf("chunk %d is there with wrong bytes", i)
		}
	}
	h, off := b.Hashed()
	want := b.digest.Algorithm().Hash()
	want.Write(data[:off])
	if got, want := hex.EncodeToString(h.Sum(nil)), hex.EncodeToString(want.Sum(nil)); got != want {
		t.Errorf("hash at %d is %s, want %s", off, got, want)
	}
	return got
}

func TestBlobFromFirstToLast(t *testing.T) {
	data, desc := content(1, 1050)
	d := open(t, Config{})
	b := take(t, d, desc, 100)
	if b.Chunks() != 11 || b.Length(10) != 50 || b.Missing() != 1050 {
		t.Fatalf("%d chunks, the last of %d bytes, %d bytes missing", b.Chunks(), b.Length(10), b.Missing())
	}
	var writers sync.WaitGroup
	for i := range b.Chunks() {
		writers.Go(func() {
			if err := b.WriteChunk(i, part(b, data, i)); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	h, _ := b.Hashed()
	h.Write(data)
	must(t, b.Progress(h, desc.Size))
	must(t, b.Sync())
	target := filepath.Join(t.TempDir(), "blob")
	must(t, os.Link(b.Path(), target))
	must(t, b.Remove())
	got, err := os.ReadFile(target)
	must(t, err)
	if !bytes.Equal(got, data) {
		t.Error("the link has other bytes")
	}
	if st, err := os.Stat(target); err != nil || st.Mode() != 0o444 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if left, err := os.ReadDir(d.cfg.Path); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestBlobContinues(t *testing.T) {
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
		data, desc := content(2, 1050)
		desc.Digest = alg.FromBytes(data)
		d := open(t, Config{})
		b := take(t, d, desc, 100)
		write(t, b, data, 0, 1, 2, 7, 10)
		h, _ := b.Hashed()
		h.Write(data[:200])
		must(t, b.Progress(h, 200))
		must(t, b.Close())
		for _, boot := range []string{"", "another"} {
			cfg := d.cfg
			if boot != "" {
				cfg.boot = boot
			}
			b := take(t, open(t, cfg), desc, 7) // the chunk size stays
			if diff := cmp.Diff([]int{0, 1, 2, 7, 10}, has(t, b, data)); diff != "" {
				t.Errorf("%s, boot %q: -want +got\n%s", alg, boot, diff)
			}
			if _, off := b.Hashed(); off != 200 {
				t.Errorf("%s: hash continues at %d", alg, off)
			}
			must(t, b.Close())
		}
	}
}

func TestBlobIsOneOwners(t *testing.T) {
	data, desc := content(3, 300)
	d := open(t, Config{})
	b := take(t, d, desc, 100)
	waiting := make(chan struct{})
	got := make(chan *Blob)
	go func() {
		b, err := d.Blob(t.Context(), desc, 100, func() { close(waiting) })
		if err != nil {
			t.Error(err)
		}
		got <- b
	}()
	<-waiting
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrNoProgress)
	if _, err := d.Blob(ctx, desc, 100, nil); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a wait that was ended gave %v", err)
	}
	write(t, b, data, 1)
	must(t, b.Remove())
	next := <-got
	if n := has(t, next, data); len(n) > 0 {
		t.Errorf("a removed blob still has %v", n)
	}
	must(t, next.Close())
}

func TestWriteChunkRefuses(t *testing.T) {
	data, desc := content(4, 250)
	b := take(t, open(t, Config{}), desc, 100)
	write(t, b, data, 1)
	must(t, b.begin(0, data[:100])) // as another goroutine that is in the middle of it
	h, _ := b.Hashed()
	for name, err := range map[string]error{
		"there already": b.WriteChunk(1, data[100:200]),
		"being written": b.WriteChunk(0, data[:100]),
		"too short":     b.WriteChunk(2, data[200:249]),
		"too long":      b.WriteChunk(2, data[100:200]),
		"beyond":        b.WriteChunk(3, nil),
		"negative":      b.WriteChunk(-1, data[:100]),
		"read absent":   b.ReadChunk(0, make([]byte, 100)),
		"hash absent":   b.Progress(h, 200),
		"hash between":  b.Progress(h, 50),
		"sync partial":  b.Sync(),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	must(t, b.Close())
	if err := b.WriteChunk(0, data[:100]); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestResetForgets(t *testing.T) {
	data, desc := content(5, 250)
	d := open(t, Config{})
	b := take(t, d, desc, 100)
	for i := range 3 {
		must(t, b.WriteChunk(i, make([]byte, b.Length(i))))
	}
	must(t, b.Sync())
	target := filepath.Join(t.TempDir(), "blob")
	must(t, os.Link(b.Path(), target))
	must(t, b.Reset())
	write(t, b, data, 0, 1, 2)
	must(t, b.Sync())
	if got, err := os.ReadFile(b.Path()); err != nil || !bytes.Equal(got, data) {
		t.Errorf("other bytes after Reset, %v", err)
	}
	if got, err := os.ReadFile(target); err != nil || !bytes.Equal(got, make([]byte, 250)) {
		t.Errorf("Reset changed a file that is linked elsewhere, %v", err)
	}
}

func TestEmptyBlob(t *testing.T) {
	_, desc := content(6, 0)
	b := take(t, open(t, Config{}), desc, 100)
	must(t, b.Sync())
	if st, err := os.Stat(b.Path()); err != nil || st.Size() != 0 {
		t.Error(st, err)
	}
	must(t, b.Remove())
}

func TestCheckpointsAreMade(t *testing.T) {
	data, desc := content(7, 1000)
	for name, c := range map[string]struct {
		cfg  Config
		wait time.Duration // before the last chunk
		want []int         // what a power loss leaves
	}{
		"after bytes":     {Config{CheckpointBytes: 300}, 0, []int{0, 1, 2}},
		"after time":      {Config{CheckpointInterval: time.Minute}, 2 * time.Minute, []int{0, 1, 2, 3}},
		"not before":      {Config{}, 0, nil},
		"again and again": {Config{CheckpointBytes: 200, CheckpointInterval: time.Minute}, time.Second, []int{0, 1, 2, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := newMemDisk()
				must(t, mem.Mkdir("/staging"))
				must(t, mem.SyncDir("/"))
				c.cfg.Path, c.cfg.disk, c.cfg.boot = "/staging", mem, "first"
				b := take(t, open(t, c.cfg), desc, 100)
				for i := range 4 {
					if i == 3 {
						time.Sleep(c.wait)
					}
					write(t, b, data, i)
					synctest.Wait()
				}
				mem.powerLoss(rand.New(rand.NewPCG(1, 1)), 0)
				c.cfg.boot = "second"
				got := has(t, take(t, open(t, c.cfg), desc, 100), data)
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("-want +got\n%s", diff)
				}
			})
		})
	}
}

// Writers, one that hashes behind them and checkpoints, all at once; and two that want to write the same chunk.
func TestAllAtOnce(t *testing.T) {
	data, desc := content(8, 1<<20)
	b := take(t, open(t, Config{CheckpointBytes: 8 << 10}), desc, 4<<10)
	tokens := make(chan struct{}, 2*b.Chunks())
	var g errgroup.Group
	g.Go(func() error { return follow(b, data, tokens) })
	var refused atomic.Int64
	for _, i := range rand.Perm(b.Chunks()) {
		for range 2 {
			g.Go(func() error {
				if b.WriteChunk(i, part(b, data, i)) == nil {
					tokens <- struct{}{}
				} else {
					refused.Add(1)
				}
				return nil
			})
		}
	}
	must(t, g.Wait())
	if n := refused.Load(); n != int64(b.Chunks()) {
		t.Errorf("%d of %d chunks were written once", n, b.Chunks())
	}
	must(t, b.Sync())
	if n := len(has(t, b, data)); n != b.Chunks() {
		t.Errorf("%d chunks are there", n)
	}
}
