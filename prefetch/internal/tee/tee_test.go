package tee_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/hotplate-dev/hotplate/prefetch/internal/tee"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// counter counts releases per block.
type counter struct {
	mu sync.Mutex
	n  []int
}

func (c *counter) next() func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := len(c.n)
	c.n = append(c.n, 0)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.n[i]++
	}
}

func (c *counter) check(t *testing.T, want ...int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range max(len(c.n), len(want)) {
		if i >= len(c.n) || i >= len(want) || c.n[i] != want[i] {
			t.Fatalf("releases per block: %v, want %v", c.n, want)
		}
	}
}

// allOnce fails unless every block was released exactly once.
func (c *counter) allOnce(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, n := range c.n {
		if n != 1 {
			t.Errorf("block %d was released %d times", i, n)
		}
	}
}

func TestEveryReaderGetsEverythingInOrder(t *testing.T) {
	for _, depth := range []int{1, 2, 7} {
		rnd := rand.New(rand.NewPCG(1, uint64(depth)))
		tt := tee.New(3, depth)
		var got [3]bytes.Buffer
		var wg sync.WaitGroup
		readers := []func(io.Writer, *tee.Reader) error{
			func(w io.Writer, r *tee.Reader) error { _, err := r.WriteTo(w); return err },
			func(w io.Writer, r *tee.Reader) error {
				_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 7))
				return err
			},
			func(w io.Writer, r *tee.Reader) error {
				_, err := io.Copy(w, iotest.OneByteReader(r))
				return err
			},
		}
		for i, read := range readers {
			wg.Go(func() {
				if err := read(&got[i], tt.Reader(i)); err != nil {
					t.Errorf("reader %d: %v", i, err)
				}
			})
		}
		var want bytes.Buffer
		var released counter
		for i := range 200 {
			p := bytes.Repeat([]byte{byte(i)}, rnd.IntN(40))
			want.Write(p)
			free := released.next()
			if err := tt.Write(t.Context(), p, func() { clear(p); free() }); err != nil {
				t.Fatal(err)
			}
		}
		tt.Close(nil)
		wg.Wait()
		for i := range got {
			if !bytes.Equal(got[i].Bytes(), want.Bytes()) {
				t.Errorf("depth %d: reader %d read something else than was written", depth, i)
			}
		}
		released.allOnce(t)
	}
}

func TestBlockIsReleasedWhenAllHaveReadIt(t *testing.T) {
	tt := tee.New(2, 4)
	var released counter
	for range 2 {
		if err := tt.Write(t.Context(), []byte("ab"), released.next()); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 1)
	read := func(i, n int) {
		t.Helper()
		for range n {
			if _, err := tt.Reader(i).Read(buf); err != nil {
				t.Fatal(err)
			}
		}
	}
	read(0, 4)
	released.check(t, 0, 0)
	read(1, 1)
	released.check(t, 0, 0)
	read(1, 1)
	released.check(t, 1, 0)
	read(1, 2)
	released.check(t, 1, 1)
}

func TestWriteWaitsForTheSlowestReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tt := tee.New(2, 2)
		wrote := 0
		done := make(chan error)
		go func() {
			for range 4 {
				if err := tt.Write(t.Context(), []byte("x"), nil); err != nil {
					done <- err
					return
				}
				wrote++
			}
			tt.Close(nil)
			done <- nil
		}()
		go io.Copy(io.Discard, tt.Reader(0)) //nolint:errcheck // the other one is watched
		for want := 2; want <= 4; want++ {
			synctest.Wait()
			if wrote != want {
				t.Fatalf("%d blocks were taken, want %d", wrote, want)
			}
			if _, err := tt.Reader(1).Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(tt.Reader(1)); err != nil || string(rest) != "x" {
			t.Errorf("rest %q, error %v", rest, err)
		}
	})
}

// What ends the stream from outside wakes a waiting writer and waiting readers, and gives all blocks back.
func TestEndWakesWhoWaits(t *testing.T) {
	errEnd := errors.New("the end")
	for name, end := range map[string]func(*tee.Tee, context.CancelCauseFunc){
		"cancelled":      func(_ *tee.Tee, cancel context.CancelCauseFunc) { cancel(errEnd) },
		"closed":         func(tt *tee.Tee, _ context.CancelCauseFunc) { tt.Close(errEnd) },
		"reader gave up": func(tt *tee.Tee, _ context.CancelCauseFunc) { _ = tt.Reader(1).CloseWithError(errEnd) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				tt := tee.New(2, 1)
				var released counter
				var wg sync.WaitGroup
				wg.Go(func() {
					if _, err := io.Copy(io.Discard, tt.Reader(0)); !errors.Is(err, errEnd) {
						t.Errorf("the reader that waits got %v", err)
					}
				})
				if err := tt.Write(ctx, []byte("first"), released.next()); err != nil {
					t.Fatal(err)
				}
				wg.Go(func() {
					err := tt.Write(ctx, []byte("second"), released.next())
					if !errors.Is(err, errEnd) {
						t.Errorf("the writer that waits got %v", err)
					}
					tt.Close(err)
				})
				synctest.Wait()
				released.check(t, 0, 0)
				end(tt, cancel)
				wg.Wait()
				released.check(t, 1, 1)
				if _, err := tt.Reader(1).Read(make([]byte, 1)); !errors.Is(err, errEnd) {
					t.Errorf("the reader that did not read got %v", err)
				}
			})
		})
	}
}

func TestWriteAfterTheEnd(t *testing.T) {
	var released counter
	tt := tee.New(1, 1)
	tt.Close(nil)
	tt.Close(errors.New("too late"))
	if err := tt.Write(t.Context(), []byte("x"), released.next()); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("after Close(nil): %v", err)
	}
	if n, err := tt.Reader(0).Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("Read after Close(nil): %d, %v", n, err)
	}
	tt = tee.New(1, 1)
	_ = tt.Reader(0).CloseWithError(nil)
	if err := tt.Write(t.Context(), []byte("x"), released.next()); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("after CloseWithError(nil): %v", err)
	}
	released.check(t, 1, 1)
}

// A block that is being read stays until that is done, whoever closes meanwhile.
func TestBlockStaysWhileItIsRead(t *testing.T) {
	for name, end := range map[string]func(*tee.Tee){
		"closed":  func(tt *tee.Tee) { tt.Close(io.ErrUnexpectedEOF) },
		"gave up": func(tt *tee.Tee) { _ = tt.Reader(0).CloseWithError(io.ErrUnexpectedEOF) },
	} {
		t.Run(name, func(t *testing.T) {
			tt := tee.New(1, 2)
			var released counter
			for range 2 {
				if err := tt.Write(t.Context(), []byte("x"), released.next()); err != nil {
					t.Fatal(err)
				}
			}
			_, err := tt.Reader(0).WriteTo(writerFunc(func(p []byte) (int, error) {
				end(tt)
				released.check(t, 0, 0)
				return len(p), nil
			}))
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("WriteTo: %v", err)
			}
			released.check(t, 1, 1)
		})
	}
}

func TestWriteToKeepsWhatTheWriterDidNotTake(t *testing.T) {
	tt := tee.New(1, 2)
	if err := tt.Write(t.Context(), []byte("abc"), nil); err != nil {
		t.Fatal(err)
	}
	tt.Close(nil)
	n, err := tt.Reader(0).WriteTo(writerFunc(func([]byte) (int, error) { return 1, nil }))
	if n != 1 || !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("WriteTo: %d, %v", n, err)
	}
	if rest, err := io.ReadAll(tt.Reader(0)); err != nil || string(rest) != "bc" {
		t.Errorf("rest %q, error %v", rest, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
