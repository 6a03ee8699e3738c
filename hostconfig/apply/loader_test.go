package apply

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// hammer lets containerd's own loader run, in several goroutines, while rewrite is called. It sees nothing but what is
// in want.
//
// What nothing names any more stays for RetireDelay, which has to be longer than any load. The fake clock holds to
// that: before it moves on by a RetireDelay, every loader ends the load that it is in. settle is called after that; it
// removes what is due.
func hammer(t *testing.T, r *rig, host string, want map[string]bool, rewrites int, rewrite, settle func(n int)) {
	t.Helper()
	const (
		loaders = 2
		between = 25 // rewrites between two moves of the clock
	)
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
				if got := view(r.hosts, host); !want[got] {
					bad.CompareAndSwap(nil, &got)
					return
				}
			}
		})
	}
	for n := 0; n < rewrites && bad.Load() == nil && !t.Failed(); n++ {
		rewrite(n)
		if n%between != between-1 {
			continue
		}
		for i := range loads {
			begun := loads[i].Load()
			ended := func() bool { return loads[i].Load() > begun || bad.Load() != nil }
			waitFor(t, "the load that is under way ends", ended)
		}
		r.clock.advance(time.Minute)
		settle(n)
	}
	stop.Store(true)
	wg.Wait()
	if got := bad.Load(); got != nil {
		t.Errorf("containerd saw %s", *got)
	}
	var total int64
	for i := range loads {
		total += loads[i].Load()
	}
	t.Logf("%d loads during %d rewrites", total, rewrites)
}

func TestLoaderSeesOnlyOldOrNewDuringManyRewrites(t *testing.T) {
	const rewrites = 10_000
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
	retired := 0
	hammer(t, r, "docker.io", want, rewrites, func(n int) {
		if receipt := r.apply(h, trees[n%2]); len(receipt.Changed) == 0 || len(receipt.Drift) > 0 {
			t.Errorf("rewrite %d changed %v and saw drift %v", n, receipt.Changed, receipt.Drift)
		}
	}, func(n int) {
		retired += len(r.apply(h, trees[n%2]).Changed)
	})
	if retired != rewrites/25 {
		t.Errorf("%d certificates were retired, want %d", retired, rewrites/25)
	}
}

func TestLoaderSeesOnlyTheirsOrOursWhileADirectoryIsAdoptedAndGivenBack(t *testing.T) {
	r := newRig(t)
	r.write("docker.io/hosts.toml", "server = \"https://theirs.example.com\"\nca = \"ca/theirs.crt\"\n"+
		"[host.\"https://theirs.example.com\"]\nca = \"ca/theirs.crt\"\n")
	r.write("docker.io/ca/theirs.crt", string(cas()["two"].PEM()))
	want := map[string]bool{view(r.hosts, "docker.io"): true}
	h := r.start()
	defer r.close(h)
	trees := []hostconfig.Tree{render(t, mirror("docker.io", "https://one.example.com", "one")), {}}
	r.apply(h, trees[0], "docker.io")
	want[view(r.hosts, "docker.io")] = true
	again := func(n int) { r.apply(h, trees[n%2], "docker.io") }
	hammer(t, r, "docker.io", want, 1000, again, again)
}
