package images

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/layer"
)

func TestImagesWaitForTheirRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.SetWaits(map[string]string{"docker.io": "waits for registry docker.io: Conflict", "_default": "", "quay.io": ""})
		other := img("quay.io/b", 0)
		w.wants(img("a", 1), other)
		after(time.Hour)
		if got := w.puller.Took(); slices.Contains(got, "ensure a") || !slices.Contains(got, "ensure quay.io/b") {
			t.Errorf("asked of the puller: %q", got)
		}
		r := w.Report()[0]
		if r.Phase != report.ImagePending || r.Message != "waits for registry docker.io: Conflict" {
			t.Errorf("the report says %s: %s", r.Phase, r.Message)
		}
		w.SetWaits(map[string]string{"docker.io": "", "_default": "waits for registry _default: Conflict", "quay.io": ""})
		after(2 * time.Second)
		if got := w.puller.Took(); !slices.Contains(got, "ensure a") {
			t.Errorf("the registry is applied now, and asked of the puller is %q", got)
		}

		w.wants(img("a", 1), img("ghcr.io/c", 0)) // which has no entry of its own
		after(2 * time.Second)
		if got := w.puller.Took(); slices.Contains(got, "ensure ghcr.io/c") {
			t.Errorf("asked of the puller: %q", got)
		}
	})
}

// The old version of a model goes before the new one comes when there is no room for both.
func TestUnwantedImagesGoBeforeOneThatLacksTheirRoom(t *testing.T) {
	for _, why := range []error{prefetch.ErrNoSpace, prefetch.ErrPinned} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorker(t)
			const before = "sha256:before"
			w.puller.Set(func(p *agenttest.State) {
				p.Fails["b"] = why
				p.Pinned = []prefetch.Pin{{ImageID: before}, {ImageID: "sha256:id-of-a"}}
			})
			w.wants(img("a", 1), img("b", 0))
			after(2 * time.Minute)
			got := w.puller.Took()
			if !slices.Contains(got, "unpin "+before) || slices.Contains(got, "unpin sha256:id-of-a") {
				t.Errorf("%v: asked of the puller: %q", why, got)
			}
			w.untilPhase("b", report.ImageFailed)
			w.phases("a: Ready", "b: Failed")
			w.puller.Set(func(p *agenttest.State) { clear(p.Fails) })
			after(10 * time.Minute)
			w.phases("a: Ready", "b: Ready")
		})
	}
}

func TestPinsOfOthersImagesAreTakenOffWhenAllIsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		const before = "sha256:before"
		w.puller.Set(func(p *agenttest.State) {
			p.Fails["b"] = agenttest.ErrBroken
			p.Pinned = []prefetch.Pin{{ImageID: before}, {ImageID: "sha256:id-of-a"}}
		})
		w.wants(img("a", 1), img("b", 0))
		after(time.Minute)
		if got := w.puller.Took(); slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "unpin") }) {
			t.Errorf("unpinned before all was ready: %q", got)
		}
		w.puller.Set(func(p *agenttest.State) { delete(p.Fails, "b") })
		after(time.Hour)
		if got := w.puller.Took(); !slices.Contains(got, "unpin "+before) || slices.Contains(got, "unpin sha256:id-of-a") {
			t.Errorf("asked of the puller: %q", got)
		}
		loose := img("a", 1)
		loose.Pin = new(false)
		w.wants(loose)
		after(time.Minute)
		if got := w.puller.Took(); !slices.Contains(got, "unpin sha256:id-of-a") {
			t.Errorf("pin: false, and asked of the puller is %q", got)
		}
	})
}

func TestUnwantedImagesAreDeletedWhenTheConfigSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.wanted.WhenUnwanted = config.Delete
		const used = "sha256:used"
		w.puller.Set(func(p *agenttest.State) {
			p.Pinned = []prefetch.Pin{{ImageID: used, Size: 7}, {ImageID: "sha256:old"}, {ImageID: "sha256:id-of-loose"}}
			p.InUse[used] = true
		})
		loose := img("loose", 0)
		loose.Pin = new(false)
		w.wants(img("a", 1), loose)
		after(3 * time.Second)
		// The config wants loose, only without a pin.
		w.did("sweep a loose", "ensure a", "ensure loose", "remove "+used, "remove sha256:old", "unpin sha256:id-of-loose")
		want := []report.Unwanted{{ImageID: used, Size: 7, Message: "image is in use\ncontainer c runs it"}}
		if diff := cmp.Diff(want, w.Unwanted()); diff != "" {
			t.Errorf("unwanted (-want +got):\n%s", diff)
		}
		after(5 * time.Minute)
		if got := w.log.Lines("it has to stay", used); len(got) != 1 {
			t.Errorf("that it has to stay is told %d times", len(got))
		}
		w.puller.Set(func(p *agenttest.State) { delete(p.InUse, used) })
		w.puller.Took()
		after(recheckInterval + time.Second)
		w.did("remove " + used)
		if got := w.Unwanted(); len(got) != 0 {
			t.Errorf("still told as unwanted: %v", got)
		}
		w.puller.Took()
		after(time.Hour)
		w.did() // nothing is left to do
	})
}

func TestADeletedImageThatIsWantedAgainIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.wanted.WhenUnwanted = config.Delete
		w.wants(img("a", 0), img("b", 0))
		after(5 * time.Second)
		w.puller.Set(func(p *agenttest.State) { p.InUse[agenttest.IDOf("b")] = true })
		w.wants(img("a", 0))
		after(5 * time.Second)
		if len(w.Unwanted()) != 1 {
			t.Errorf("unwanted are %v", w.Unwanted())
		}
		w.wants(img("a", 0), img("b", 0))
		after(time.Hour)
		if got := w.puller.Took(); len(w.Unwanted()) != 0 || slices.Contains(got, "remove "+agenttest.IDOf("b")) {
			t.Errorf("unwanted are %v, asked was %q", w.Unwanted(), got)
		}
	})
}

func TestLettingGoIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.Set(func(p *agenttest.State) {
			p.Broken, p.Pinned = agenttest.ErrBroken, []prefetch.Pin{{ImageID: "sha256:old"}}
		})
		w.wants(img("a", 0))
		after(10 * time.Minute)
		if got := w.log.Lines("stay pinned", "it is broken"); len(got) != 1 {
			t.Errorf("that it failed is told as %q", got)
		}
		w.puller.Set(func(p *agenttest.State) { p.Broken = nil })
		w.puller.Took()
		after(2 * time.Minute)
		w.did("unpin sha256:old")
	})
}

func TestPinsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		unpinned := img("unpinned", 0)
		unpinned.Pin = new(false)
		w.wants(img("default", 0), unpinned)
		after(500 * time.Millisecond)
		if r := w.Report(); r[0].Pinned || r[1].Pinned {
			t.Errorf("an image counts as pinned before it is Ready: %+v", r)
		}
		after(2 * time.Second)
		if r := w.Report(); !r[0].Pinned || r[1].Pinned {
			t.Errorf("want the first pinned and the second not: %+v", r)
		}
	})
}

// An image that nobody can unpack is not fetched again every few minutes.
func TestABrokenImageIsLeftAloneForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.Set(func(p *agenttest.State) { p.Fails["a"] = fmt.Errorf("image a: %w", layer.ErrDiffID) })
		w.wants(img("a", 0))
		after(59 * time.Minute)
		tries := 0
		for _, did := range w.puller.Took() {
			if did == "ensure a" {
				tries++
			}
		}
		if r := w.Report()[0]; tries != 1 || r.Reason != report.ImageBroken {
			t.Errorf("it was tried %d times, and its reason is %q", tries, r.Reason)
		}
		w.puller.Set(func(p *agenttest.State) { clear(p.Fails) })
		after(2 * time.Minute)
		w.phases("a: Ready")
	})
}
