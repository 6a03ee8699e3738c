package images

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/prefetch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// worker is a Worker on a fake puller.
type worker struct {
	*Worker
	t      testing.TB
	puller *agenttest.Puller
	log    *agenttest.Log
	wanted Wanted
}

func newIdleWorker(t testing.TB) *worker {
	t.Helper()
	w := &worker{t: t, puller: agenttest.NewPuller(t), log: new(agenttest.Log)}
	w.Worker = New(w.log.Logger(), func() {})
	w.wanted.Puller = w.puller
	return w
}

// newWorker returns one that works until the test ends. It must be called in a bubble.
func newWorker(t testing.TB) *worker {
	t.Helper()
	w := newIdleWorker(t)
	w.run()
	return w
}

// run lets the worker work until the test ends.
func (w *worker) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx)
	}()
	w.t.Cleanup(func() {
		cancel()
		<-done
	})
}

// after lets d go by in a bubble of synctest, and then everything come to rest.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// wants makes the images wanted, one at once if not said otherwise, and starts afresh with what was asked.
func (w *worker) wants(images ...config.Image) {
	w.puller.Took()
	w.wanted.Images = Plain(images)
	w.SetWanted(w.wanted)
	synctest.Wait()
}

// did fails the test unless the puller was asked just that, since it was last looked at, but for looks.
func (w *worker) did(want ...string) {
	w.t.Helper()
	got := slices.DeleteFunc(w.puller.Took(), func(s string) bool { return strings.HasPrefix(s, "check ") })
	if diff := cmp.Diff(strings.Join(want, "\n"), strings.Join(got, "\n")); diff != "" {
		w.t.Errorf("asked of the puller (-want +got):\n%s", diff)
	}
}

// phases fails the test unless the images are as given, as "name: phase".
func (w *worker) phases(want ...string) {
	w.t.Helper()
	var got []string
	for _, i := range w.Report() {
		got = append(got, fmt.Sprintf("%s: %s", i.Name, i.Phase))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("phases (-want +got):\n%s", diff)
	}
}

// untilPhase lets time go by until an image is in a phase: when it is tried again is random. It fails the test after a minute.
func (w *worker) untilPhase(name string, want report.ImagePhase) {
	w.t.Helper()
	is := func(i report.Image) bool { return i.Name == name && i.Phase == want }
	for range 60 {
		if slices.ContainsFunc(w.Report(), is) {
			return
		}
		after(time.Second)
	}
	w.t.Fatalf("%s has not become %s in a minute", name, want)
}

func (w *worker) concludes(status report.ConditionStatus, reason, message string) {
	w.t.Helper()
	if s, r, m := w.Condition(); s != status || r != reason || m != message {
		w.t.Errorf("the condition is %s, %s, %q; want %s, %s, %q", s, r, m, status, reason, message)
	}
}

// img is a wanted image; its reference is its name.
func img(name string, priority int) config.Image {
	return config.Image{Name: name, Ref: name, Priority: priority}
}

// hold lets Ensure of these references go on only when ctx ends.
func hold(refs ...string) func(context.Context, prefetch.Image, *prefetch.Progress) error {
	return func(ctx context.Context, img prefetch.Image, _ *prefetch.Progress) error {
		if slices.Contains(refs, img.Ref) {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
}

func TestImagesComeInTheOrderOfTheirPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.concludes(report.Unknown, "Starting", "")
		w.wants(img("low", -1), img("first", 0), img("second", 0), img("high", 5))
		w.phases("high: Resolving", "first: Pending", "second: Pending", "low: Pending")
		w.concludes(report.False, "Preparing", "preparing: high, first, second, low")
		after(10 * time.Second)
		w.did("sweep high first second low", "ensure high", "ensure first", "ensure second", "ensure low")
		w.phases("high: Ready", "first: Ready", "second: Ready", "low: Ready")
		w.concludes(report.True, "AllReady", "4 of 4")
		if got, _ := w.Stats(); got.Fetched != 4*agenttest.Size || got.PinnedBytes != 4*agenttest.Size {
			t.Errorf("%d bytes fetched, %d pinned; want %d of both", got.Fetched, got.PinnedBytes, 4*agenttest.Size)
		}
		w.wants()
		w.did("sweep ", "unpin sha256:id-of-high", "unpin sha256:id-of-first", "unpin sha256:id-of-second",
			"unpin sha256:id-of-low")
		w.concludes(report.True, "NoneWanted", "the config names no images")
	})
}

func TestImagesOfOnePriorityArePreparedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.wanted.AtOnce = 2
		w.wants(img("a", 0), img("b", 0), img("c", 0), img("low", -1))
		w.phases("a: Resolving", "b: Resolving", "c: Pending", "low: Pending")
		after(time.Second)
		w.phases("a: Ready", "b: Ready", "c: Resolving", "low: Pending")
		after(time.Second)
		w.phases("a: Ready", "b: Ready", "c: Ready", "low: Resolving")
		after(time.Second)
		w.concludes(report.True, "AllReady", "4 of 4")
	})
}

// Only prefetch can set the phase of a Progress, so the image that needs the network no more is one that has failed.
func TestALowerPriorityWaitsForTheNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.wanted.AtOnce = 2
		w.puller.Inside = hold("big")
		w.wants(img("big", 9), img("small", 0))
		after(time.Hour)
		w.phases("big: Resolving", "small: Pending")
		w.puller.Inside = nil
		w.puller.Set(func(p *agenttest.State) { p.Fails["big"] = agenttest.ErrBroken })
		w.wanted.Sources = map[string]any{"docker.io": 1}
		w.wants(img("big", 9), img("small", 0))
		after(3 * time.Second)
		w.phases("big: Failed", "small: Ready")
	})
}

func TestWorkBeginsAnewWhenItsWayToTheRegistryChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.wanted.AtOnce = 2
		did := func(want ...string) { // in any order
			t.Helper()
			got := slices.DeleteFunc(w.puller.Took(), func(s string) bool { return strings.HasPrefix(s, "check ") })
			slices.Sort(got)
			if slices.Sort(want); !slices.Equal(want, got) {
				t.Errorf("asked of the puller: %q, want %q", got, want)
			}
		}
		w.puller.Inside = hold("quay.io/a", "b")
		w.wanted.Sources = map[string]any{"quay.io": []string{"allow"}, "_default": []string{"one"}}
		a, b := img("quay.io/a", 0), img("b", 0)
		w.wants(a, b)
		did("sweep quay.io/a b", "ensure quay.io/a", "ensure b")
		w.wanted.Sources = map[string]any{"quay.io": []string{"allow"}, "_default": []string{"one"}}
		w.wants(a, b)
		did("sweep quay.io/a b") // the same: both go on

		w.wanted.Sources = map[string]any{"quay.io": []string{"deny"}, "_default": []string{"one"}}
		w.wants(a, b)
		did("sweep quay.io/a b", "ensure quay.io/a")
		w.wanted.Sources = map[string]any{"quay.io": []string{"deny"}, "_default": []string{"two"}} // which is b's
		w.wants(a, b)
		did("sweep quay.io/a b", "ensure b")

		other := agenttest.NewPuller(t)
		w.wanted.Puller = other
		w.wants(a, b)
		after(2 * time.Second)
		did()
		w.phases("quay.io/a: Ready", "b: Ready")
		if got := w.log.Lines("level=ERROR"); len(got) != 0 {
			t.Errorf("that it began anew is told as a failure: %q", got)
		}
	})
}

func TestAFailedImageIsTriedLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.Fails["bad"] = agenttest.ErrBroken
		w.wants(img("bad", 1), img("good", 0))
		after(2 * time.Second)
		w.did("sweep bad good", "ensure bad", "ensure good") // a failure does not hold up the next
		w.phases("bad: Failed", "good: Ready")
		w.concludes(report.False, "ImageFailed", "failed: bad (PullFailed)")
		if r := w.Report()[0]; r.Message != "it is broken" || r.Retry.IsZero() {
			t.Errorf("the report does not say why, or when it is tried again: %+v", r)
		}

		var waits []time.Duration
		for range 12 {
			before := time.Now()
			for len(w.log.Lines("preparing image", "image=bad")) <= len(waits)+1 {
				after(time.Second)
			}
			waits = append(waits, time.Since(before))
		}
		// NewExponentialBackOff makes each wait half as long or as long again by chance. Ensure itself takes a second.
		first, last := waits[0], waits[len(waits)-1]
		if first > 2*retryMin || last < retryMax/2 || last > 3*retryMax/2+2*time.Second {
			t.Errorf("waits are %v; want about %s at first and %s at last", waits, retryMin, retryMax)
		}

		w.puller.Set(func(p *agenttest.State) { delete(p.Fails, "bad") })
		w.puller.Took()
		w.RetryNow()
		after(2 * time.Second)
		w.phases("bad: Ready", "good: Ready")
		if r := w.Report()[0]; r.Message != "" || !r.Retry.IsZero() {
			t.Errorf("the report still holds the failure: %+v", r)
		}
	})
}

// A try that is under way when the way to the registry changes says nothing of the new one.
func TestATryUnderWayIsRepeatedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.Fails["bad"] = agenttest.ErrBroken
		w.wants(img("bad", 0))
		after(w.puller.Takes / 2)
		w.RetryNow()
		after(w.puller.Takes)
		w.did("sweep bad", "ensure bad", "ensure bad")
		after(w.puller.Takes) // and that once
		w.did()
	})
}

func TestANewConfigTriesAFailedImageAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.Fails["bad"] = agenttest.ErrBroken
		w.wants(img("bad", 0))
		after(time.Hour)
		w.wants(img("bad", 0))
		after(time.Second)
		w.did("sweep bad", "ensure bad")
		if wait := time.Until(w.Report()[0].Retry); wait > 2*retryMin {
			t.Errorf("tried again in %s; the backoff has not started over", wait)
		}
	})
}

func TestAnImageThatIsNotWantedAnyMoreIsLeftOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.Inside = hold("big")
		w.wants(img("big", 1), img("small", 0))
		after(time.Minute)
		w.phases("big: Resolving", "small: Pending")
		w.wants(img("small", 0))
		after(2 * time.Second)
		w.phases("small: Ready")
		w.did("sweep small", "ensure small")
		if got := w.log.Lines("image failed"); len(got) != 0 {
			t.Errorf("that it ended is told as a failure: %q", got)
		}

		w.wants(img("big", 0), img("small", 0))
		after(time.Second)
		changed := img("big", 0)
		changed.Aliases = []string{"other"}
		w.wants(changed, img("small", 0)) // wanted otherwise: what is under way ends, and it begins anew
		w.did("sweep big small", "ensure big")
		w.phases("big: Resolving", "small: Ready")
		w.wants(changed, img("small", 0)) // wanted as before: it goes on
		after(time.Second)
		w.did("sweep big small")
	})
}

func TestOnceTriesEachImageOneTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newIdleWorker(t)
		w.puller.Fails["bad"] = agenttest.ErrBroken
		w.Once(t.Context())
		w.did()
		w.wants(img("bad", 9), img("good", 0))
		w.Once(t.Context())
		w.did("sweep bad good", "ensure bad", "ensure good")
		w.phases("bad: Failed", "good: Ready")
	})
}

func TestLeftoversAreSweptOnceForEachConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		after(time.Hour)
		w.did() // nothing is known of what is wanted, so nothing may go
		w.wants(img("a", 0))
		after(time.Hour)
		if n := strings.Count(strings.Join(w.puller.Took(), "\n"), "sweep a"); n != 1 {
			t.Errorf("swept %d times", n)
		}
	})
}

func TestASweepThatFailsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.Set(func(p *agenttest.State) { p.Sweeps = agenttest.ErrBroken })
		w.wants(img("a", 0))
		after(10*time.Minute + time.Second)
		if n := strings.Count(strings.Join(w.puller.Took(), "\n"), "sweep a"); n < 5 || n > 11 {
			t.Errorf("tried %d times in 10 minutes", n)
		}
		if got := w.log.Lines("leftovers", "it is broken"); len(got) != 1 {
			t.Errorf("that it failed is told as %q", got)
		}
		w.phases("a: Ready")
		w.puller.Set(func(p *agenttest.State) { p.Sweeps = nil })
		after(time.Hour)
		if n := strings.Count(strings.Join(w.puller.Took(), "\n"), "sweep a"); n != 1 {
			t.Errorf("swept %d times after it worked", n)
		}
	})
}

func TestWorkEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newIdleWorker(t)
		w.SetWanted(Wanted{Puller: w.puller, Images: Plain([]config.Image{img("a", 0)})})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); w.Run(ctx) }()
		synctest.Wait()
		cancel()
		<-done
		w.did("sweep a", "ensure a", "cancelled a")
		w.phases("a: Pending")
	})
}

// One image that does not fit stops no other, and says so to programs.
func TestReasonsOfFailedImages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.Set(func(p *agenttest.State) {
			p.Fails["big"] = fmt.Errorf("image big: %w", prefetch.ErrNoSpace)
			p.Fails["pins"] = fmt.Errorf("image pins: %w", prefetch.ErrPinned)
			p.Fails["away"] = fmt.Errorf("image away: %w", prefetch.ErrAway)
		})
		w.wants(img("big", 9), img("pins", 8), img("away", 7), img("small", 0))
		after(3200 * time.Millisecond) // a second for each, and before the first of them is tried again
		w.concludes(report.False, "ImageFailed", "failed: big (NoSpace), pins (TooMuchPinned), away (ContainerdAway)")
		w.phases("big: Failed", "pins: Failed", "away: Failed", "small: Resolving")
		w.puller.Set(func(p *agenttest.State) { clear(p.Fails) })
		after(time.Minute)
		w.concludes(report.True, "AllReady", "4 of 4")
		for _, r := range w.Report() {
			if r.Reason != "" {
				t.Errorf("%s is Ready with the reason %s", r.Name, r.Reason)
			}
		}
	})
}
