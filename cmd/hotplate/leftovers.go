package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// pullsLock is a file in the state directory. Who pulls has it shared, who removes what dead pulls left, alone.
const pullsLock = "pulls.lock"

// lockPoll is how often a lock that somebody else has is tried again. Nobody has it alone for long.
const lockPoll = 50 * time.Millisecond

// sweeper removes what runs that died left behind of images that are not wanted. prefetch.Prefetcher is one.
type sweeper interface {
	Sweep(ctx context.Context, wanted []prefetch.Image) error
}

// enter registers a pull with the other ones that use the same state directory, until leave. If there is none, it removes
// what earlier ones have left that died: of other images everything, and of these what is of no use any more. That is not
// needed for the pull, so that a failure only warns, and the pull itself says so where containerd is away.
func enter(ctx context.Context, stateDir string, s sweeper, wanted []prefetch.Image, log *slog.Logger) (leave func() error, err error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory (choose one with --state-dir): %w", err)
	}
	f, err := os.OpenFile(filepath.Join(stateDir, pullsLock), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("register with other pulls: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		if err := s.Sweep(ctx, wanted); err != nil && ctx.Err() == nil && !errors.Is(err, prefetch.ErrAway) &&
			!errors.Is(err, prefetch.ErrBusy) {
			log.Warn("what earlier pulls left was not removed", "error", err)
		}
	}
	if err := share(ctx, f); err != nil {
		return nil, errors.Join(fmt.Errorf("register with other pulls: %w", err), f.Close())
	}
	return f.Close, nil
}

// share takes the lock together with others, whether or not it was held alone before.
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
