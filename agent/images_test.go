package agent

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

// worker is an image worker on a fake puller.
type worker struct {
	*images
	t      testing.TB
	puller *fakePuller
	log    *logged
}

// newWorker returns one that works until the test ends. It must be called in a bubble.
func newWorker(t testing.TB) *worker {
	t.Helper()
	w := &worker{t: t, puller: newFakePuller(t), log: new(logged)}
	w.images = newImages(w.log.logger(), func() {})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return w
}

// wants makes the images wanted and starts afresh with what was asked.
func (w *worker) wants(images ...config.Image) {
	w.puller.took()
	w.setWanted(w.puller, images)
	synctest.Wait()
}

// did fails the test unless the puller was asked just that, since it was last looked at.
func (w *worker) did(want ...string) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.puller.took()); diff != "" {
		w.t.Errorf("asked of the puller (-want +got):\n%s", diff)
	}
}

// phases fails the test unless the images are as given, as "name: phase".
func (w *worker) phases(want ...string) {
	w.t.Helper()
	var got []string
	for _, i := range w.report() {
		got = append(got, fmt.Sprintf("%s: %s", i.Name, i.Phase))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("phases (-want +got):\n%s", diff)
	}
}

func (w *worker) concludes(status report.ConditionStatus, reason, message string) {
	w.t.Helper()
	if s, r, m := w.condition(); s != status || r != reason || m != message {
		w.t.Errorf("the condition is %s, %s, %q; want %s, %s, %q", s, r, m, status, reason, message)
	}
}

// img is a wanted image; its reference is its name.
func img(name string, priority int) config.Image {
	return config.Image{Name: name, Ref: name, Priority: priority}
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
		if got, want := w.bytesFetched(), int64(4<<20); got != want {
			t.Errorf("%d bytes fetched, want %d", got, want)
		}
		w.wants()
		w.did("sweep ")
		w.concludes(report.True, "NoneWanted", "the config names no images")
	})
}

func TestAFailedImageIsTriedLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.fails["bad"] = errBroken
		w.wants(img("bad", 1), img("good", 0))
		after(2 * time.Second)
		w.did("sweep bad good", "ensure bad", "ensure good") // a failure does not hold up the next
		w.phases("bad: Failed", "good: Ready")
		w.concludes(report.False, "ImageFailed", "failed: bad")
		if r := w.report()[0]; r.Message != "it is broken" || r.Retry.IsZero() {
			t.Errorf("the report does not say why, or when it is tried again: %+v", r)
		}

		var waits []time.Duration
		for range 12 {
			before := time.Now()
			for len(w.log.lines("preparing image", "image=bad")) <= len(waits)+1 {
				after(time.Second)
			}
			waits = append(waits, time.Since(before))
		}
		// NewExponentialBackOff makes each wait half as long or as long again by chance. Ensure itself takes a second.
		first, last := waits[0], waits[len(waits)-1]
		if first > 2*retryMin || last < retryMax/2 || last > 3*retryMax/2+2*time.Second {
			t.Errorf("waits are %v; want about %s at first and %s at last", waits, retryMin, retryMax)
		}

		w.puller.set(func(p *fakePuller) { delete(p.fails, "bad") })
		w.puller.took()
		w.retryNow()
		after(2 * time.Second)
		w.phases("bad: Ready", "good: Ready")
		if r := w.report()[0]; r.Message != "" || !r.Retry.IsZero() {
			t.Errorf("the report still holds the failure: %+v", r)
		}
	})
}

func TestANewConfigTriesAFailedImageAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.fails["bad"] = errBroken
		w.wants(img("bad", 0))
		after(time.Hour)
		w.wants(img("bad", 0))
		after(time.Second)
		w.did("sweep bad", "ensure bad")
		if wait := time.Until(w.report()[0].Retry); wait > 2*retryMin {
			t.Errorf("tried again in %s; the backoff has not started over", wait)
		}
	})
}

func TestAnImageThatIsNotWantedAnyMoreIsLeftOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.inside = func(ctx context.Context, img prefetch.Image, _ *prefetch.Progress) error {
			if img.Ref == "big" {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		w.wants(img("big", 1), img("small", 0))
		after(time.Minute)
		w.phases("big: Resolving", "small: Pending")
		w.wants(img("small", 0))
		after(2 * time.Second)
		w.phases("small: Ready")
		w.did("sweep small", "ensure small")
		if got := w.log.lines("image failed"); len(got) != 0 {
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
		w.did()
	})
}

func TestAnImageThatIsTakenOutWhileItIsLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.wants(img("a", 0))
		after(2 * time.Second)
		w.puller.set(func(p *fakePuller) { p.broken = context.Canceled })
		w.mu.Lock()
		e := w.wanted[0]
		w.mu.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w.work(ctx, e)
		if got := w.log.lines("not ready any more"); len(got) != 0 {
			t.Errorf("the end of the agent is told as %q", got)
		}
		w.phases("a: Ready")
	})
}

func TestAReadyImageIsLookedAtEveryMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.wants(img("a", 0))
		after(2 * time.Second)
		w.did("sweep a", "ensure a")
		after(3 * time.Minute)
		w.did("check a", "check a", "check a")

		w.puller.set(func(p *fakePuller) { delete(p.ready, "a") }) // somebody removed it
		after(time.Minute)
		w.did("check a", "ensure a")
		after(time.Second)
		w.phases("a: Ready")
		if got := w.log.lines("not ready any more", "containerd has no image a"); len(got) != 1 {
			t.Errorf("that it was gone is not told once: %q", w.log.lines("level=WARN"))
		}

		w.puller.set(func(p *fakePuller) { p.broken = errBroken })
		w.puller.took()
		after(time.Minute + 20*time.Second)
		w.phases("a: Ready") // that containerd is away is told elsewhere; the image is as ready as it was
		if got := w.puller.took(); len(got) < 2 || slices.Contains(got, "ensure a") {
			t.Errorf("asked of the puller: %q; want looks, soon again, and nothing else", got)
		}
	})
}

func TestImagesWaitForTheirRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.setWaits(map[string]string{"docker.io": "waits for registry docker.io: Conflict", "_default": "", "quay.io": ""})
		other := img("quay.io/b", 0)
		w.wants(img("a", 1), other)
		after(time.Hour)
		if got := w.puller.took(); slices.Contains(got, "ensure a") || !slices.Contains(got, "ensure quay.io/b") {
			t.Errorf("asked of the puller: %q", got)
		}
		r := w.report()[0]
		if r.Phase != report.ImagePending || r.Message != "waits for registry docker.io: Conflict" {
			t.Errorf("the report says %s: %s", r.Phase, r.Message)
		}
		w.setWaits(map[string]string{"docker.io": "", "_default": "waits for registry _default: Conflict", "quay.io": ""})
		after(2 * time.Second)
		if got := w.puller.took(); !slices.Contains(got, "ensure a") {
			t.Errorf("the registry is applied now, and asked of the puller is %q", got)
		}

		w.wants(img("a", 1), img("ghcr.io/c", 0)) // which has no entry of its own
		after(2 * time.Second)
		if got := w.puller.took(); slices.Contains(got, "ensure ghcr.io/c") {
			t.Errorf("asked of the puller: %q", got)
		}
	})
}

func TestPinsOfOthersImagesAreTakenOffWhenAllIsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		const before = "sha256:before"
		w.puller.set(func(p *fakePuller) {
			p.fails["b"] = errBroken
			p.pins = []prefetch.Pin{{ImageID: before}, {ImageID: "sha256:id-of-a"}}
		})
		w.wants(img("a", 1), img("b", 0))
		after(time.Minute)
		if got := w.puller.took(); slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "unpin") }) {
			t.Errorf("unpinned before all was ready: %q", got)
		}
		w.puller.set(func(p *fakePuller) { delete(p.fails, "b") })
		after(time.Hour)
		if got := w.puller.took(); !slices.Contains(got, "unpin "+before) || slices.Contains(got, "unpin sha256:id-of-a") {
			t.Errorf("asked of the puller: %q", got)
		}
		loose := img("a", 1)
		loose.Pin = new(false)
		w.wants(loose)
		after(time.Minute)
		if got := w.puller.took(); !slices.Contains(got, "unpin sha256:id-of-a") {
			t.Errorf("pin: false, and asked of the puller is %q", got)
		}
	})
}

func TestLeftoversAreSweptOnceForEachConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		after(time.Hour)
		w.did() // nothing is known of what is wanted, so nothing may go
		w.puller.set(func(p *fakePuller) { p.sweeps = errBroken })
		w.wants(img("a", 0))
		after(time.Hour)
		if n := strings.Count(strings.Join(w.puller.took(), "\n"), "sweep a"); n != 1 {
			t.Errorf("swept %d times", n)
		}
		if got := w.log.lines("leftovers", "it is broken"); len(got) != 1 {
			t.Errorf("that it failed is told as %q", got)
		}
	})
}

func TestOnceTriesEachImageOneTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &worker{t: t, puller: newFakePuller(t), log: new(logged)}
		w.images = newImages(w.log.logger(), func() {})
		w.puller.fails["bad"] = errBroken
		w.once(t.Context())
		w.did()
		w.wants(img("bad", 9), img("good", 0))
		w.once(t.Context())
		w.did("sweep bad good", "ensure bad", "ensure good")
		w.phases("bad: Failed", "good: Ready")
	})
}

func TestPinsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		unpinned := img("unpinned", 0)
		unpinned.Pin = new(false)
		w.wants(img("default", 0), unpinned)
		after(500 * time.Millisecond)
		if r := w.report(); r[0].Pinned || r[1].Pinned {
			t.Errorf("an image counts as pinned before it is Ready: %+v", r)
		}
		after(2 * time.Second)
		if r := w.report(); !r[0].Pinned || r[1].Pinned {
			t.Errorf("want the first pinned and the second not: %+v", r)
		}
	})
}

func TestTheLogSaysHowFarAnImageIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.inside = func(ctx context.Context, _ prefetch.Image, _ *prefetch.Progress) error {
			select {
			case <-ctx.Done():
			case <-time.After(25 * time.Second):
			}
			return ctx.Err()
		}
		w.wants(img("a", 0))
		after(time.Minute)
		if got := w.log.lines("image progress", "image=a"); len(got) != 2 {
			t.Errorf("want a line every %s of 26 s, got %q", progressInterval, got)
		}
	})
}

func TestWhatIsLeft(t *testing.T) {
	fetching := prefetch.Snapshot{Phase: prefetch.Fetching, BytesDone: 25, BytesTotal: 100}
	for name, c := range map[string]struct {
		s      prefetch.Snapshot
		lately int64
		want   string
	}{
		"at the rate of the last ten seconds": {fetching, 25, "30s"},
		"nothing came lately":                 {fetching, 0, "-"},
		"it is not known yet":                 {prefetch.Snapshot{Phase: prefetch.Resolving}, 1, "-"},
		"all is there": {prefetch.Snapshot{Phase: prefetch.Fetching, BytesDone: 9, BytesTotal: 9},
			9, "-"},
	} {
		if got := left(c.s, c.lately); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	if got := rate(3<<20, 2*time.Second); got != "1.5 MiB/s" {
		t.Errorf("rate %s", got)
	}
	layers := prefetch.Snapshot{Layers: []prefetch.Layer{{WaitingFor: "memory"}, {}, {WaitingFor: "memory"},
		{WaitingFor: "a slot"}}}
	if got := waitingFor(layers); got != "memory; a slot" {
		t.Errorf("waits for %q", got)
	}
	layers.WaitingFor = "CRI"
	if got := waitingFor(layers); got != "CRI" {
		t.Errorf("waits for %q", got)
	}
}

// The progress of a real pull: its layers can be told by package prefetch alone.
func TestAnImageIsReportedWithItsLayersWhileItIsPrepared(t *testing.T) {
	registry := prefetchtest.NewRegistry(t)
	built := prefetchtest.Build(t, 1, 300_000, 100_000)
	ref := registry.Push(built, "models/llama", "v1")
	hold := make(chan struct{})
	held := built.Layers[1].Digest.String()
	registry.Script(func(r *http.Request, _ int, a *prefetchtest.Answer) {
		if strings.HasSuffix(r.URL.Path, held) {
			a.Hold = hold
		}
	})
	puller := prefetchtest.NewPrefetcher(t, prefetchtest.NewMemStore(t), prefetchtest.Hosts(registry))
	im := newImages(new(logged).logger(), func() {})
	im.setWanted(puller, []config.Image{{Name: "llama", Ref: ref}})
	done := make(chan struct{})
	go func() {
		defer close(done)
		im.once(t.Context())
	}()

	deadline := time.Now().Add(10 * time.Second)
	var r report.Image
	for {
		if r = im.report()[0]; len(r.Layers) == 2 && r.Layers[0].Done == r.Layers[0].Size {
			break
		}
		if time.Now().After(deadline) {
			close(hold)
			t.Fatalf("the first layer does not come: %+v", r)
		}
		time.Sleep(time.Millisecond)
	}
	close(hold)
	<-done
	want := report.Image{
		Name: "llama", Ref: ref, Digest: built.Manifest.Digest.String(), Phase: report.ImageFetching,
		BytesDone: built.Layers[0].Size, BytesTotal: built.Size(), Message: r.Message,
		Layers: []report.Layer{
			{Digest: built.Layers[0].Digest.String(), Phase: r.Layers[0].Phase, Size: built.Layers[0].Size,
				Done: built.Layers[0].Size},
			{Digest: held, Phase: report.ImageFetching, Size: built.Layers[1].Size, WaitingFor: r.Layers[1].WaitingFor},
		},
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("under way (-want +got):\n%s", diff)
	}
	got := im.report()[0]
	want = report.Image{Name: "llama", Ref: ref, Digest: built.Manifest.Digest.String(), Phase: report.ImageReady,
		Pinned: true, BytesDone: built.Size(), BytesTotal: built.Size()}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("at the end (-want +got):\n%s", diff)
	}
	if n := im.bytesFetched(); n < built.Size() {
		t.Errorf("%d bytes counted, the layers have %d", n, built.Size())
	}
}

func TestImagesEndWithTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		im := newImages(new(logged).logger(), func() {})
		p := newFakePuller(t)
		im.setWanted(p, []config.Image{img("a", 0)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); im.run(ctx) }()
		synctest.Wait()
		cancel()
		<-done
		if diff := cmp.Diff([]string{"sweep a", "ensure a", "cancelled a"}, p.took()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if phase := im.report()[0].Phase; phase != report.ImagePending {
			t.Errorf("phase %s", phase)
		}
	})
}
