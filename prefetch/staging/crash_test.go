package staging

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// life is what an agent does with one blob: it first gets wrong bytes, resets, gets the right ones, and lets the content
// store adopt them. It knows what it may rely on.
type life struct {
	t    *testing.T
	disk *memDisk
	boot string
	desc ocispec.Descriptor
	// tries are what the chunks hold: before Reset, and after.
	tries [2][]byte
	now   int // which of them is being written

	written, durable map[int]bool // chunks that must be there after a kill, after a power loss
	adopted          bool
}

const adopted = "/content/blob"

func newLife(t *testing.T) *life {
	l := &life{t: t, disk: newMemDisk(), boot: "first", written: map[int]bool{}, durable: map[int]bool{}}
	l.tries[1], l.desc = content(1, 550)
	l.tries[0], _ = content(2, 550)
	for _, dir := range []string{"/staging", "/content"} {
		must(t, l.disk.Mkdir(dir))
	}
	must(t, l.disk.SyncDir("/"))
	l.disk.ops = nil
	return l
}

func (l *life) open() (*Blob, error) {
	d, err := Open(Config{Path: "/staging", CheckpointBytes: math.MaxInt64, CheckpointInterval: math.MaxInt64,
		disk: l.disk, boot: l.boot})
	if err != nil {
		return nil, err
	}
	b, err := d.Blob(l.t.Context(), l.desc, 100, func() { l.t.Error("the blob is locked") })
	if err == nil {
		l.look(b)
	}
	return b, err
}

// look sees that what is there is right, and all of one try.
func (l *life) look(b *Blob) {
	l.t.Helper()
	matches := func(data []byte) bool {
		for i := range b.Chunks() {
			p := make([]byte, b.Length(i))
			if b.Has(i) && (b.ReadChunk(i, p) != nil || !bytes.Equal(p, part(b, data, i))) {
				return false
			}
		}
		h, off := b.Hashed()
		want := b.digest.Algorithm().Hash()
		want.Write(data[:off])
		return hex.EncodeToString(h.Sum(nil)) == hex.EncodeToString(want.Sum(nil))
	}
	switch {
	case b.Missing() == b.Size():
	case matches(l.tries[1]):
		l.now = 1
	case l.now == 0 && matches(l.tries[0]): // never again after Reset
	default:
		l.t.Error("a chunk or the hash is wrong")
	}
}

// run goes on until an operation fails.
func (l *life) run() error {
	if err := l.with(l.first); err != nil {
		return err
	}
	return l.with(l.second)
}

func (l *life) with(f func(*Blob) error) (err error) {
	b, err := l.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	return f(b)
}

func (l *life) first(b *Blob) error {
	if l.now == 0 {
		if err := l.fill(b, 0, 3, 1, 2); err != nil {
			return err
		}
		clear(l.written)
		clear(l.durable)
		if err := b.Reset(); err != nil {
			return err
		}
		l.now = 1
	}
	return l.fill(b, 5, 0, 3)
}

func (l *life) second(b *Blob) error {
	if err := l.fill(b, 0, 1, 2, 3, 4, 5); err != nil {
		return err
	}
	if err := b.Sync(); err != nil {
		return err
	}
	if err := l.adopt(b); err != nil {
		return err
	}
	clear(l.written)
	clear(l.durable)
	return b.Remove()
}

// fill writes the chunks that are not there, keeps the hash, and makes a checkpoint in the middle.
func (l *life) fill(b *Blob, chunks ...int) error {
	for n, i := range chunks {
		if !b.Has(i) {
			if err := b.WriteChunk(i, part(b, l.tries[l.now], i)); err != nil {
				return err
			}
		}
		l.written[i] = true
		h, off := b.Hashed()
		for off < b.Size() && b.Has(int(off/b.chunk)) {
			j := int(off / b.chunk)
			h.Write(part(b, l.tries[l.now], j))
			off += b.Length(j)
			if err := b.Progress(h, off); err != nil {
				return err
			}
		}
		if n != len(chunks)/2 {
			continue
		}
		if err := b.save(); err != nil {
			return err
		}
		for i := range l.written {
			l.durable[i] = true
		}
	}
	return nil
}

func (l *life) adopt(b *Blob) error {
	if err := l.disk.Link(b.Path(), adopted); err != nil {
		return err
	}
	if err := l.disk.SyncDir("/content"); err != nil {
		return err
	}
	l.adopted = true
	return nil
}

// finish goes on after whatever happened, with no more faults, and sees that what was adopted is right on the disk.
func (l *life) finish() {
	l.t.Helper()
	if err := l.run(); err != nil {
		l.t.Errorf("afterwards: %v", err)
	}
	n, err := l.disk.find(adopted)
	if err != nil || !bytes.Equal(n.onDisk, l.tries[1]) || n.mode != 0o444 {
		l.t.Errorf("what was adopted is wrong on the disk, %v", err)
	}
	if names, err := l.disk.ReadDir("/staging"); err != nil || len(names) > 0 {
		l.t.Errorf("left %v, %v", names, err)
	}
}

// expect sees that the chunks are there.
func (l *life) expect(chunks map[int]bool) {
	l.t.Helper()
	b, err := l.open()
	if err != nil {
		l.t.Fatal(err)
	}
	for i := range chunks {
		if !b.Has(i) {
			l.t.Errorf("chunk %d must be fetched again", i)
		}
	}
	if err := b.Close(); err != nil {
		l.t.Error(err)
	}
}

// eachOperation runs f with a life for each operation that a life consists of.
func eachOperation(t *testing.T, f func(t *testing.T, l *life, op int)) {
	whole := newLife(t)
	whole.finish()
	if len(whole.disk.ops) < 60 {
		t.Fatalf("only %d operations", len(whole.disk.ops))
	}
	for op, what := range whole.disk.ops {
		t.Run(fmt.Sprintf("%d %s", op, what), func(t *testing.T) { f(t, newLife(t), op) })
	}
}

func at(op, outcome int) func(int) int {
	return func(n int) int {
		if n == op {
			return outcome
		}
		return done
	}
}

func TestKillAtEveryOperation(t *testing.T) {
	eachOperation(t, func(t *testing.T, l *life, op int) {
		l.disk.fault = at(op, killed)
		if err := l.run(); !errors.Is(err, errKilled) {
			t.Fatalf("got %v", err)
		}
		l.disk.restart()
		l.expect(l.written)
		l.finish()
	})
}

func TestPowerLossAtEveryOperation(t *testing.T) {
	eachOperation(t, func(t *testing.T, _ *life, op int) {
		for seed := range uint64(12) {
			l := newLife(t)
			l.disk.fault = at(op, killed)
			if err := l.run(); !errors.Is(err, errKilled) {
				t.Fatalf("got %v", err)
			}
			r := rand.New(rand.NewPCG(seed, 0))
			l.disk.powerLoss(r, []float64{0, 1, 0.5, 0.8}[seed%4])
			l.boot = "second"
			if n, err := l.disk.find(adopted); err == nil && !bytes.Equal(n.onDisk, l.tries[1]) || l.adopted && err != nil {
				t.Errorf("what was adopted is lost, %v", err)
			}
			l.expect(l.durable)
			// Once more, without a word from the first boot.
			l.disk.powerLoss(r, 0)
			l.boot = "third"
			l.finish()
		}
	})
}

func TestFailAtEveryOperation(t *testing.T) {
	for name, outcome := range map[string]int{"not done": failedNotDone, "done": failedDone} {
		t.Run(name, func(t *testing.T) {
			eachOperation(t, func(t *testing.T, l *life, op int) {
				l.disk.fault = at(op, outcome)
				if err := l.run(); err == nil {
					t.Fatal("the failure was not seen")
				} else if errors.Is(err, os.ErrClosed) {
					t.Errorf("the failure was seen as %v", err)
				}
				l.finish()
				l.disk.powerLoss(rand.New(rand.NewPCG(1, 1)), 0)
				if n, err := l.disk.find(adopted); err != nil || !bytes.Equal(n.bytes, l.tries[1]) {
					t.Errorf("what was adopted is lost, %v", err)
				}
			})
		})
	}
}
