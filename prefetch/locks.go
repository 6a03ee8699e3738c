package prefetch

import (
	"context"
	"sync"
)

// keyLocks lets calls with the same key run one after the other.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]*keyLock // guarded by mu; an entry lives while someone holds or awaits it
}

type keyLock struct {
	turn  chan struct{} // holds one token while nobody has the lock
	users int           // guarded by keyLocks.mu
}

// lock waits for the key and returns what gives it back.
func (k *keyLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	l := k.held[key]
	if l == nil {
		l = &keyLock{turn: make(chan struct{}, 1)}
		l.turn <- struct{}{}
		if k.held == nil {
			k.held = make(map[string]*keyLock)
		}
		k.held[key] = l
	}
	l.users++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.held, key)
		}
	}
	select {
	case <-l.turn:
		return func() { l.turn <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}
