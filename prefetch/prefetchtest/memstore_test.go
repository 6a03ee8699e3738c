package prefetchtest_test

import (
	"testing"

	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

func TestMemoryKeepsThePromisesOfAStore(t *testing.T) {
	prefetchtest.TestStore(t, func(t testing.TB) prefetch.Store { return prefetchtest.NewMemStore(t) })
}

func TestMemoryKeepsThePromisesOfAClosedWay(t *testing.T) {
	s := prefetchtest.NewMemStore(t)
	prefetchtest.TestClosedWay(t, func(direct bool) prefetch.Store {
		s.Direct = direct
		return s
	})
}

func TestMemoryKeepsThePromisesOfADirectStore(t *testing.T) {
	direct := func(t testing.TB) prefetch.Store {
		s := prefetchtest.NewMemStore(t)
		s.Direct = true
		return s
	}
	prefetchtest.TestStore(t, direct)
	prefetchtest.TestDirectStore(t, direct)
}
