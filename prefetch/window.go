package prefetch

import (
	"context"
	"sync"
)

// ahead is how many chunks a layer may hold while its bytes are not taken: places that wait for a slow consumer are of more
// use to other layers.
const ahead = 3

// window keeps a layer whose consumer is behind from taking the places of others.
type window struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change that may let someone go on; guarded by mu, as are
	held    int           // chunks that hold places
	behind  bool          // the consumer has a chunk that it cannot take yet
}

func newWindow() *window { return &window{changed: make(chan struct{})} }

// enter waits until another chunk may be begun.
func (w *window) enter(ctx context.Context) error {
	for {
		w.mu.Lock()
		if !w.behind || w.held < ahead {
			w.held++
			w.mu.Unlock()
			return nil
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (w *window) update(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.changed)
	w.changed = make(chan struct{})
}

// leave says that a chunk has given its place back.
func (w *window) leave() { w.update(func() { w.held-- }) }

// handOver runs f, which gives a chunk to the consumer and returns when it has taken it.
func (w *window) handOver(f func() error) error {
	w.update(func() { w.behind = true })
	defer w.update(func() { w.behind = false })
	return f()
}
