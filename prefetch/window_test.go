package prefetch

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestALayerWhoseReaderIsBehindTakesFewPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWindow()
		for range 10 { // while nobody is behind, as many as there are
			if err := w.enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		taken := make(chan struct{})
		handed := make(chan error, 1)
		go func() { handed <- w.handOver(func() error { <-taken; return nil }) }()
		synctest.Wait()
		entered := make(chan error, 1)
		go func() { entered <- w.enter(t.Context()) }()
		for range 10 - ahead {
			synctest.Wait()
			if len(entered) > 0 {
				t.Fatal("another chunk was begun while the reader was behind")
			}
			w.leave()
		}
		synctest.Wait()
		if len(entered) > 0 {
			t.Fatalf("another chunk was begun beside %d", ahead)
		}
		w.leave()
		if err := <-entered; err != nil {
			t.Fatal(err)
		}
		close(taken)
		if err := <-handed; err != nil {
			t.Fatal(err)
		}
	})
}

func TestAWindowIsLeftWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stop := newWindow(), errors.New("enough")
		for range ahead {
			if err := w.enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		done := make(chan struct{})
		go func() { _ = w.handOver(func() error { <-done; return nil }) }()
		synctest.Wait()
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(stop) })
		if err := w.enter(ctx); !errors.Is(err, stop) {
			t.Errorf("got %v", err)
		}
		close(done)
	})
}
