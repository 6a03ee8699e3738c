package store

import (
	"context"
	"fmt"
	"sync"
)

// Watch implements prefetch.Store. Events that come while changed runs make it run once more.
func (s *Store) Watch(ctx context.Context, changed func()) (err error) {
	defer away(&err)
	stream, cancel := context.WithCancel(s.in(ctx))
	var caller sync.WaitGroup
	defer caller.Wait()
	defer cancel()
	pending := make(chan struct{}, 1)
	caller.Go(func() {
		for {
			select {
			case <-stream.Done():
				return
			case <-pending:
				changed()
			}
		}
	})
	events, errs := s.client.EventService().Subscribe(stream,
		fmt.Sprintf("namespace==%s,topic~=\"^/images/\"", s.cfg.Namespace))
	for {
		select {
		case <-events:
			select {
			case pending <- struct{}{}:
			default:
			}
		case err := <-errs:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch containerd's images: %w", err)
		}
	}
}
