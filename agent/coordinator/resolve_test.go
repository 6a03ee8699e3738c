package coordinator

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// registry answers what tags mean.
type registry struct {
	mu    sync.Mutex
	tags  map[string]string
	asked map[string]int
	away  bool
}

func (r *registry) resolve(_ context.Context, ref string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked[ref]++
	if digest, ok := r.tags[ref]; ok && !r.away {
		return digest, nil
	}
	return "", errors.New("404")
}

func (r *registry) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func TestTagsAreResolvedOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := &registry{tags: map[string]string{"a": "1", "b": "2"}, asked: map[string]int{}}
		wanted := []string{"a", "nobody"}
		var known Resolved
		var unknown map[string]string
		told := 0
		r, err := NewResolver(ResolverConfig{
			Tags: func() (tags []string) {
				reg.set(func() { tags = wanted })
				return tags
			},
			Resolve: reg.resolve, Interval: func() time.Duration { return 10 * time.Minute }, Log: slog.New(slog.DiscardHandler),
			Tell: func(k Resolved, u map[string]string) { reg.set(func() { known, unknown, told = k, u, told+1 }) },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			r.Run(ctx)
			close(done)
		}()
		check := func(want Resolved, open string, asked int) {
			t.Helper()
			synctest.Wait()
			reg.mu.Lock()
			defer reg.mu.Unlock()
			if !maps.Equal(known, want) || (open == "") != (len(unknown) == 0) || open != "" && unknown[open] != "404" || reg.asked["a"] != asked {
				t.Errorf("%v, unknown %v, asked %v; want %v, %q, %d", known, unknown, reg.asked, want, open, asked)
			}
		}
		check(Resolved{"a": "1"}, "nobody", 1)
		reg.set(func() { wanted = []string{"a", "b"} })
		r.Look()
		time.Sleep(resolveApart)
		check(Resolved{"a": "1", "b": "2"}, "", 1)
		reg.set(func() { reg.tags["a"] = "3" })
		time.Sleep(9 * time.Minute)
		check(Resolved{"a": "1", "b": "2"}, "", 1)
		time.Sleep(time.Minute + time.Second)
		check(Resolved{"a": "3", "b": "2"}, "", 2)
		// The registry is away: what was known goes on to count, and it is asked again soon.
		reg.set(func() { reg.away = true })
		time.Sleep(10*time.Minute + time.Second)
		check(Resolved{"a": "3", "b": "2"}, "a", 3)
		reg.set(func() { reg.away = false })
		time.Sleep(resolveRetry)
		check(Resolved{"a": "3", "b": "2"}, "", 4)
		var before int
		reg.set(func() { before = told })
		time.Sleep(time.Hour)
		synctest.Wait()
		reg.set(func() {
			if told != before {
				t.Error("the same is told again")
			}
		})
		reg.set(func() { wanted = nil })
		r.Look()
		time.Sleep(resolveApart)
		check(Resolved{}, "", 10)
		cancel()
		<-done
	})
}

// TestLookingIsBounded: each pass asks all nodes what they want, and in a large cluster somebody wants a look all the time.
func TestLookingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var passes atomic.Int64
		r, err := NewResolver(ResolverConfig{Log: slog.New(slog.DiscardHandler), Interval: func() time.Duration { return time.Hour },
			Resolve: func(context.Context, string) (string, error) { return "", errors.New("404") }, Tell: func(Resolved, map[string]string) {},
			Tags: func() []string {
				passes.Add(1)
				return nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			r.Run(ctx)
			close(done)
		}()
		for range 1000 {
			r.Look()
			time.Sleep(10 * time.Millisecond)
		}
		if n := passes.Load(); n < 9 || n > 11 {
			t.Errorf("%d passes in ten seconds", n)
		}
		cancel()
		<-done
	})
}
