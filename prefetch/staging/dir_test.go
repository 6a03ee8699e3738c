package staging

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

func TestSweepRemovesWhatNobodyWants(t *testing.T) {
	d := open(t, Config{})
	var names []string
	make := func(seed uint64) (*Blob, ocispec.Descriptor) {
		data, desc := content(seed, 300)
		b := take(t, d, desc, 100)
		write(t, b, data, 0)
		names = append(names, filepath.Base(b.path))
		return b, desc
	}
	wanted, keep := make(1)
	must(t, wanted.Close())
	unwanted, _ := make(2)
	must(t, os.WriteFile(unwanted.file("state.tmp"), nil, 0o600))
	must(t, unwanted.Close())
	make(3) // in use
	foreign := filepath.Join(d.cfg.Path, "lost+found")
	must(t, os.Mkdir(foreign, 0o700))
	must(t, d.Sweep(func(dgst digest.Digest) bool { return dgst == keep.Digest }))
	for name, want := range map[string]bool{names[0]: true, names[1]: false, names[2]: true, "lost+found": true} {
		if _, err := os.Stat(filepath.Join(d.cfg.Path, name)); (err == nil) != want {
			t.Errorf("%s: want it to stay: %v, got %v", name, want, err)
		}
	}
}

func TestUsageCountsWhatIsAllocated(t *testing.T) {
	d := open(t, Config{})
	data, desc := content(1, 3<<20)
	b := take(t, d, desc, 1<<20)
	usage := func() int64 {
		t.Helper()
		must(t, b.data.Sync())
		n, err := d.Usage(desc.Digest)
		must(t, err)
		return n
	}
	if n := usage(); n > 1<<20 {
		t.Errorf("%d bytes before anything is written", n)
	}
	write(t, b, data, 0, 2)
	if n := usage(); n < 2<<20 || n > 3<<20 {
		t.Errorf("%d bytes for two chunks of three", n)
	}
	write(t, b, data, 1)
	must(t, os.Link(b.Path(), filepath.Join(t.TempDir(), "blob")))
	if n := usage(); n > 1<<20 {
		t.Errorf("%d bytes when the data has another link", n)
	}
}

// A file of the state that is torn, or about something else, is as if it were not there.
func TestTornAndForeignFiles(t *testing.T) {
	data, desc := content(1, 550)
	other, otherDesc := content(2, 550)
	d := open(t, Config{})
	foreign := take(t, d, otherDesc, 100)
	write(t, foreign, other, 0, 1, 2)
	must(t, foreign.save())
	for name, damage := range map[string]func([]byte, string) []byte{
		"empty":   func([]byte, string) []byte { return nil },
		"torn":    func(p []byte, _ string) []byte { return p[:len(p)-2] },
		"longer":  func(p []byte, _ string) []byte { return append(p, 1) },
		"flipped": func(p []byte, _ string) []byte { p[200] ^= 1; return p },
		"zeros":   func(p []byte, _ string) []byte { return make([]byte, len(p)) },
		"foreign": func(_ []byte, file string) []byte {
			p, err := os.ReadFile(foreign.file(file))
			must(t, err)
			return p
		},
	} {
		for _, files := range [][]string{{stateName}, {marksName}, {stateName, marksName}} {
			b := take(t, d, desc, 100)
			write(t, b, data, 0, 3)
			must(t, b.save())
			write(t, b, data, 1)
			b.mu.Lock()
			b.written = 0 // no checkpoint when it is closed
			b.mu.Unlock()
			must(t, b.Close())
			for _, file := range files {
				p, err := os.ReadFile(b.file(file))
				must(t, err)
				must(t, os.WriteFile(b.file(file), damage(p, file), 0o600))
			}
			want := []int{0, 1, 3}
			switch {
			case len(files) == 2:
				want = nil
			case files[0] == marksName:
				want = []int{0, 3}
			}
			b = take(t, d, desc, 100)
			if diff := cmp.Diff(want, has(t, b, data)); diff != "" {
				t.Errorf("%s %v: -want +got\n%s", name, files, diff)
			}
			must(t, b.Remove())
		}
	}
}

// What may be containerd's is not written to, whatever the state says.
func TestLinkedDataIsNotWritten(t *testing.T) {
	data, desc := content(1, 300)
	d := open(t, Config{})
	b := take(t, d, desc, 100)
	write(t, b, data, 0, 1, 2)
	must(t, b.Sync())
	target := filepath.Join(t.TempDir(), "blob")
	must(t, os.Link(b.Path(), target))
	must(t, b.Close())

	b = take(t, d, desc, 100)
	if b.Missing() > 0 {
		t.Error("a whole blob is not whole any more")
	}
	must(t, b.Sync())
	r, err := b.readState()
	must(t, err)
	r.Have = []byte{1}
	state, err := r.encode()
	must(t, err)
	must(t, b.Close())
	must(t, os.WriteFile(b.file(stateName), state, 0o600))
	must(t, os.Remove(b.file(marksName)))

	b = take(t, d, desc, 100)
	if got := has(t, b, data); got != nil {
		t.Errorf("believes %v of data that may be written to by nobody", got)
	}
	must(t, b.WriteChunk(0, make([]byte, 100)))
	if got, err := os.ReadFile(target); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the link has changed, %v", err)
	}
}

// After an fsync that failed nothing works but a new beginning from the last checkpoint.
func TestFailedSyncEndsTheBlob(t *testing.T) {
	data, desc := content(1, 300)
	mem := newMemDisk()
	must(t, mem.Mkdir("/staging"))
	d := open(t, Config{Path: "/staging", disk: mem, boot: "first"})
	b := take(t, d, desc, 100)
	write(t, b, data, 1)
	must(t, b.save())
	write(t, b, data, 0)
	mem.fault = at(len(mem.ops), failedNotDone)
	h, _ := b.Hashed()
	for name, err := range map[string]error{
		"checkpoint": b.save(), "write": b.WriteChunk(2, data[200:]), "read": b.ReadChunk(0, make([]byte, 100)),
		"hash": b.Progress(h, 0), "sync": b.Sync(), "again": b.save(),
	} {
		if !errors.Is(err, unix.EIO) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, b.Close())
	b = take(t, d, desc, 100)
	if diff := cmp.Diff([]int{1}, has(t, b, data)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small filesystem needs root")
	}
	path := t.TempDir()
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("mounting a small filesystem: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(path, unix.MNT_DETACH)) })
	data, desc := content(1, 400<<10)
	d := open(t, Config{Path: path})
	b := take(t, d, desc, 64<<10)
	i := 0
	var err error
	for ; i < b.Chunks() && err == nil; i++ {
		err = b.WriteChunk(i, part(b, data, i))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	if b.Has(i-1) || !b.Has(i-2) {
		t.Error("what is there is not what was written")
	}
	if err := b.Close(); err != nil && !errors.Is(err, unix.ENOSPC) { // the checkpoint has no room either
		t.Error(err)
	}
	b = take(t, d, desc, 64<<10)
	if got := len(has(t, b, data)); got != i-1 {
		t.Errorf("%d chunks are there, %d were written", got, i-1)
	}
	must(t, unix.Mount("tmpfs", path, "tmpfs", unix.MS_REMOUNT, "size=1m"))
	for ; i <= b.Chunks(); i++ {
		write(t, b, data, i-1)
	}
	must(t, b.Sync())
	if got, err := os.ReadFile(b.Path()); err != nil || !bytes.Equal(got, data) {
		t.Errorf("other bytes, %v", err)
	}
	must(t, b.Remove())
}
