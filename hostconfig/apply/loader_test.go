package apply

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// TestLoaderSeesOnlyOldOrNewDuringManyRewrites lets containerd's own loader run while two configs with different CAs
// take turns.
//
// A certificate that nothing names stays for RetireDelay, which has to be longer than any load. The fake clock holds to
// that: it moves on by a RetireDelay only when every loader has begun another load after the last switch, and each time the
// certificate of the other config is really removed and later written again.
func TestLoaderSeesOnlyOldOrNewDuringManyRewrites(t *testing.T) {
	const (
		rewrites = 10_000
		loaders  = 3
		between  = 25 // rewrites between two removals of a certificate
	)
	r := newRig(t)
	h := r.start()
	defer r.close(h)
	trees := []hostconfig.Tree{
		render(t, mirror("docker.io", "https://one.example.com", "one")),
		render(t, mirror("docker.io", "https://two.example.com", "two")),
	}
	want := map[string]bool{}
	for _, tree := range trees {
		r.apply(h, tree)
		want[view(r.hosts, "docker.io")] = true
	}

	var (
		wg    sync.WaitGroup
		stop  atomic.Bool
		bad   atomic.Pointer[string]
		loads [loaders]atomic.Int64 // begun by each loader
	)
	for i := range loaders {
		wg.Go(func() {
			for !stop.Load() {
				loads[i].Add(1)
				if got := view(r.hosts, "docker.io"); !want[got] {
					bad.CompareAndSwap(nil, &got)
					return
				}
			}
		})
	}
	retired := 0
	for n := 0; n < rewrites && bad.Load() == nil; n++ {
		tree := trees[n%2]
		receipt := r.apply(h, tree)
		if len(receipt.Changed) == 0 || len(receipt.Drift) > 0 {
			t.Fatalf("rewrite %d changed %v and saw drift %v", n, receipt.Changed, receipt.Drift)
		}
		if n%between != between-1 {
			continue
		}
		for i := range loads {
			begun := loads[i].Load()
			waitFor(t, "the load that is under way ends", func() bool { return loads[i].Load() > begun || bad.Load() != nil })
		}
		r.clock.advance(time.Minute)
		retired += len(r.apply(h, tree).Changed)
	}
	stop.Store(true)
	wg.Wait()
	if got := bad.Load(); got != nil {
		t.Errorf("containerd saw %s", *got)
	}
	if retired != rewrites/between {
		t.Errorf("%d certificates were retired, want %d", retired, rewrites/between)
	}
	var total int64
	for i := range loads {
		total += loads[i].Load()
	}
	t.Logf("%d loads during %d rewrites", total, rewrites)
}
