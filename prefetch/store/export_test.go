package store

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/containerd/containerd/api/services/introspection/v1"
)

// SetProbeTime changes how old a probe's lease and files are when the probe is taken to have died.
func (s *Store) SetProbeTime(d time.Duration) { s.probeTime, s.probeLife = d, d }

// Flicker closes and opens the way for new sessions all the time, as calls of Way might, until stop is called.
func (s *Store) Flicker() (stop func()) {
	at, stopped := s.at.Load(), make(chan struct{})
	var flickers sync.WaitGroup
	flickers.Go(func() {
		for {
			select {
			case <-stopped:
				return
			default:
				s.at.Store(nil)
				s.at.Store(at)
			}
		}
	})
	return func() { close(stopped); flickers.Wait() }
}

// OnSync lets f see the directories whose filesystems are synced.
func (s *Store) OnSync(f func(dir string)) {
	s.syncFS = func(dir string) error {
		f(dir)
		return syncFS(dir)
	}
}

// Back is back.
func (s *Store) Back(ctx context.Context) error { return s.back(ctx) }

// KnowsPins is knowsPins.
var KnowsPins = knowsPins

// ClosedBy is the reason why what a daemon says of itself closes the direct way, or empty.
func (s *Store) ClosedBy(version string, plugins ...*introspection.Plugin) string {
	if _, err := s.layoutOf(daemon{version: version, plugins: plugins}); err != nil {
		return err.Error()
	}
	return ""
}

// IsClosed tells whether an error closes the direct way.
func IsClosed(err error) bool {
	var reason closed
	return errors.As(err, &reason)
}

// IsAway is isAway, Place is place, Directories is directories, MayLayOut is mayLayOut, ProbeFails is probeFails,
// TakeOver is takeOver.
var (
	IsAway      = isAway
	Place       = place
	Directories = directories
	MayLayOut   = mayLayOut
	ProbeFails  = probeFails
	TakeOver    = takeOver
)
