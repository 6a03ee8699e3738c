package prefetch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrBusy is returned by Sweep while another process with the same owner works: what it has under way cannot be told from
// what is left over.
var ErrBusy = errors.New("another process is at work with the same owner")

// lockPoll is how often a lock is tried again. Nobody has one alone for longer than a sweep takes.
const lockPoll = 20 * time.Millisecond

// company knows whether other processes work on the same directories. Each has a lock on the directory for trees together
// with the others, as long as any of its runs needs it; who sweeps has it alone. It goes with the process.
type company struct {
	mu   sync.Mutex
	dirs map[string]*joined // guarded by mu
}

// joined is a directory with the lock on it, and how many need it.
type joined struct {
	*os.File
	users int
}

// join takes part in the work on dir, until leave is called.
func (c *company) join(ctx context.Context, dir string) (leave func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.open(ctx, dir); err != nil {
		return nil, err
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.leave(dir)
	}, nil
}

// leave takes one call of open back, and lets go of dir if nobody needs it any more. The caller holds mu.
func (c *company) leave(dir string) {
	d := c.dirs[dir]
	if d.users--; d.users == 0 {
		delete(c.dirs, dir)
		d.Close() // nothing was written
	}
}

// open returns dir, locked together with others until leave. The caller holds mu.
func (c *company) open(ctx context.Context, dir string) (*joined, error) {
	if d := c.dirs[dir]; d != nil {
		d.users++
		return d, nil
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open the directory for layers: %w", err)
	}
	if err := share(ctx, f); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the directory for layers: %w", err), f.Close())
	}
	if c.dirs == nil {
		c.dirs = make(map[string]*joined)
	}
	c.dirs[dir] = &joined{File: f, users: 1}
	return c.dirs[dir], nil
}

// alone runs f while nobody else works on dir, or returns ErrBusy.
func (c *company) alone(ctx context.Context, dir string, f func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := c.open(ctx, dir)
	if err != nil {
		return err
	}
	defer c.leave(dir)
	err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrBusy
	}
	if err == nil {
		err = f()
	}
	// flock(2): a lock that could not be made exclusive may be lost.
	return errors.Join(err, share(context.WithoutCancel(ctx), d.File))
}

// share takes the lock together with others.
func share(ctx context.Context, f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}
