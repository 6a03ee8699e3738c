package images

import (
	"context"
	"time"
)

// drainInterval is how often Drain looks whether work has ended.
const drainInterval = 100 * time.Millisecond

// Pause lets nothing more begin until Resume. Images that wait then say why. Work under way goes on; see Drain.
func (w *Worker) Pause(why string) { w.setPaused(why) }

// Resume ends a Pause. It is no error if there is none.
func (w *Worker) Resume() { w.setPaused("") }

func (w *Worker) setPaused(why string) { w.hold(&w.paused, why) }

// hold changes one of the reasons for which nothing may begin.
func (w *Worker) hold(reason *string, why string) {
	w.mu.Lock()
	changed := *reason != why
	*reason = why
	w.mu.Unlock()
	if changed {
		wake(w.schedule)
		w.changed()
	}
}

// isPaused reports whether nothing may begin.
func (w *Worker) isPaused() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.paused != ""
}

// Idle reports whether no image is being prepared.
func (w *Worker) Idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.working) == 0
}

// Drain returns nil when no image is being prepared, or why ctx ended. Work that has not ended after grace is cancelled: what
// it has kept is there when it begins anew. Nothing else begins only while there is a Pause.
func (w *Worker) Drain(ctx context.Context, grace time.Duration) error {
	for end := time.Now().Add(grace); !w.Idle(); {
		if !time.Now().Before(end) {
			w.cancelAll()
		}
		pause(ctx, nil, drainInterval)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// cancelAll ends all work under way. An image that has just been begun cannot be cancelled yet.
func (w *Worker) cancelAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.working {
		e.cancel()
	}
}
