package images

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/prefetch"
)

// checks counts the looks at an image since it was last asked.
func (w *worker) checks(ref string) int {
	n := 0
	for _, s := range w.puller.Took() {
		if s == "check "+ref {
			n++
		}
	}
	return n
}

func TestAReadyImageIsLookedAtEveryMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.wants(img("a", 0))
		after(2 * time.Second)
		w.puller.Took()
		after(3 * time.Minute)
		if n := w.checks("a"); n != 3 {
			t.Errorf("looked at %d times in three minutes", n)
		}

		w.puller.Set(func(p *agenttest.State) { delete(p.Ready, "a") }) // somebody removed it, and nothing told
		after(time.Minute)
		w.did("ensure a")
		after(time.Second)
		w.phases("a: Ready")
		if got := w.log.Lines("not ready any more", "containerd has no image a"); len(got) != 1 {
			t.Errorf("that it was gone is not told once: %q", w.log.Lines("level=WARN"))
		}

		w.puller.Set(func(p *agenttest.State) { p.Broken = agenttest.ErrBroken })
		w.puller.Took()
		after(time.Minute + 20*time.Second)
		w.phases("a: Ready") // that containerd is away is told elsewhere; the image is as ready as it was
		if got := w.puller.Took(); len(got) < 2 || slices.Contains(got, "ensure a") {
			t.Errorf("asked of the puller: %q; want looks, soon again, and nothing else", got)
		}
	})
}

func TestAPinThatSomebodyTakesOffComesBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.wants(img("a", 0))
		after(5 * time.Second)
		w.puller.Inside = hold("big")
		w.wants(img("a", 0), img("big", 9)) // and that takes the only place
		w.did("sweep big a", "ensure big")
		w.puller.Change(func(p *agenttest.State) { p.Unpinned["a"] = true })
		after(lookDelay + 2*time.Second)
		w.did("ensure a")
		w.phases("big: Resolving", "a: Ready")
		if r := w.Report()[1]; !r.Pinned {
			t.Errorf("not pinned: %+v", r)
		}
	})
}

// Ensure may have seen the pin before somebody took it off.
func TestAChangeAtTheEndOfAPreparationIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.wants(img("a", 0))
		after(w.puller.Takes / 2)
		w.puller.Change(func(*agenttest.State) {})
		after(w.puller.Takes)
		w.puller.Set(func(p *agenttest.State) { p.Unpinned["a"] = true })
		w.did("sweep a", "ensure a")
		after(lookDelay + 2*time.Second)
		w.did("ensure a")
		w.phases("a: Ready")
	})
}

func TestASwarmOfChangesIsLookedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.wants(img("a", 0))
		after(5 * time.Second)
		w.puller.Took()
		for range 100 {
			w.puller.Change(func(*agenttest.State) {})
		}
		after(2 * lookDelay)
		if n := w.checks("a"); n != 1 {
			t.Errorf("looked at %d times", n)
		}
	})
}

func TestWhatIsMissedWhileNothingIsToldIsSeenSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.Set(func(p *agenttest.State) { p.NoWatch = agenttest.ErrBroken })
		w.wants(img("a", 0))
		after(2 * time.Second)
		w.puller.Set(func(p *agenttest.State) { p.Unpinned["a"] = true })
		after(retryMin + lookDelay + 2*time.Second)
		w.did("sweep a", "ensure a", "ensure a")
	})
}

// After a restart with all registries down.
func TestWhatWasReadyBeforeIsReadyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.Set(func(p *agenttest.State) { p.Ready["a"], p.Ready["foreign"], p.Unpinned["foreign"] = true, true, true })
		w.puller.Takes = time.Minute
		w.wants(img("foreign", 9), img("a", 5), img("new", 0))
		w.phases("foreign: Resolving", "a: Ready", "new: Pending")
		if r := w.Report()[1]; !r.Pinned || r.Digest != agenttest.Of("a") || r.Message == "" {
			t.Errorf("the report does not say what is known: %+v", r)
		}
		after(5 * time.Minute)
		w.phases("foreign: Ready", "a: Ready", "new: Ready")
		// What the node lacks comes first; then the registry is asked what the tag means.
		w.did("sweep foreign a new", "ensure foreign", "ensure new", "ensure a")
		if r := w.Report()[1]; r.Message != "" {
			t.Errorf("the registry was asked, and the report says %q", r.Message)
		}
	})
}

func TestAnImageOfAMovedTagThatDoesNotComeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.Set(func(p *agenttest.State) { p.Ready["a"], p.Fails["a"] = true, agenttest.ErrBroken })
		w.wants(img("a", 0))
		w.phases("a: Ready")
		after(2 * time.Second)
		w.phases("a: Failed")
		w.puller.Set(func(p *agenttest.State) { delete(p.Fails, "a") })
		after(time.Minute)
		w.phases("a: Ready")
	})
}

func TestAnImageThatIsLookedAtWhenTheAgentEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.wants(img("a", 0))
		after(2 * time.Second)
		w.puller.Set(func(p *agenttest.State) { p.Ready["a"] = false })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w.lookAtOne(ctx, w.images[0], "")
		if got := w.log.Lines("not ready any more"); len(got) != 0 {
			t.Errorf("the end of the agent is told as %q", got)
		}
		w.phases("a: Ready")
	})
}

func TestALookThatEnsureOvertookSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newIdleWorker(t)
		w.puller.Set(func(p *agenttest.State) { p.Ready["a"] = true })
		w.wants(img("a", 0))
		w.begin(w.images[0])
		w.lookAtOne(t.Context(), w.images[0], "")
		if r := w.Report()[0]; r.Phase != report.ImagePending {
			t.Errorf("phase %s", r.Phase)
		}
	})
}

func TestTheDiskIsLookedAtEveryMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		if d := w.Disk(); d != nil {
			t.Errorf("before anything was wanted the disk is %+v", d)
		}
		w.puller.Set(func(p *agenttest.State) {
			p.Volume = prefetch.Volume{Path: "/var/lib/containerd", Size: 1000, Free: 400}
		})
		w.wants(img("a", 0))
		after(2 * time.Second)
		if d := w.Disk(); d == nil || *d != (report.Disk{Path: "/var/lib/containerd", Size: 1000, Free: 400}) {
			t.Errorf("the disk is %+v", d)
		}
		w.puller.Set(func(p *agenttest.State) { p.Volume.Free = 100 })
		after(recheckInterval + time.Second)
		if d := w.Disk(); d == nil || d.Free != 100 {
			t.Errorf("a minute later the disk is %+v", d)
		}
		for range 10 { // images are looked at again, and the disk is not
			wake(w.look)
			after(time.Second)
		}
		w.puller.Set(func(p *agenttest.State) {
			if p.DiskLooks != 2 {
				t.Errorf("it was looked at %d times within a minute", p.DiskLooks)
			}
		})
		w.puller.Set(func(p *agenttest.State) { p.Volume = prefetch.Volume{} }) // it is not mounted
		after(recheckInterval + time.Second)
		if d := w.Disk(); d != nil {
			t.Errorf("a disk that cannot be looked at is %+v", d)
		}
	})
}
