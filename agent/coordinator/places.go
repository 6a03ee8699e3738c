package coordinator

import (
	"context"
	"time"
)

// places are as many as may do something at once. They are safe for concurrent use.
type places chan struct{}

// take waits for a place for a while, and returns what gives it back. ok is false where none became free.
func (p places) take(ctx context.Context, within time.Duration) (leave func(), ok bool) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	select {
	case p <- struct{}{}:
		return func() { <-p }, true
	case <-ctx.Done():
		return nil, false
	}
}
