package images

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/prefetch"
)

func TestNothingBeginsInAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.Pause("containerd is to be restarted")
		w.wants(img("a", 0), img("b", 0))
		after(time.Hour)
		w.did()
		w.phases("a: Pending", "b: Pending")
		if r := w.Report()[0]; r.Reason != report.WaitsForRestart || r.Message != "containerd is to be restarted" {
			t.Errorf("it says %s, %q", r.Reason, r.Message)
		}
		w.Resume()
		w.Resume()
		after(5 * time.Second)
		w.phases("a: Ready", "b: Ready")
		w.did("sweep a b", "ensure a", "ensure b")
	})
}

func TestDrainLetsWorkEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.Takes = 30 * time.Second
		w.wants(img("a", 0), img("b", 0))
		after(time.Second)
		w.Pause("restart")
		if w.Idle() {
			t.Error("it is idle in the middle of work")
		}
		if err := w.Drain(t.Context(), time.Minute); err != nil {
			t.Fatal(err)
		}
		w.phases("a: Ready", "b: Pending")
		w.did("sweep a b", "ensure a")
		if !w.Idle() {
			t.Error("it is not idle")
		}
	})
}

func TestDrainCancelsWorkThatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.Takes = time.Hour
		w.wants(img("a", 0))
		after(time.Second)
		w.Pause("restart")
		began := time.Now()
		if err := w.Drain(t.Context(), time.Minute); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d < time.Minute || d > time.Minute+time.Second {
			t.Errorf("it drained for %s", d)
		}
		w.did("sweep a", "ensure a", "cancelled a")
		after(time.Hour)
		w.phases("a: Pending")
		w.Resume()
		after(time.Hour + time.Second)
		w.phases("a: Ready")
		w.did("ensure a")
	})
}

func TestDrainEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		stuck := make(chan struct{})
		w.puller.Inside = func(context.Context, prefetch.Image, *prefetch.Progress) error {
			<-stuck // does not hear its context
			return nil
		}
		w.wants(img("a", 0))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := w.Drain(ctx, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it ends with %v", err)
		}
		close(stuck)
		synctest.Wait()
	})
}
