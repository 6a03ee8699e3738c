package images

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/prefetch"
)

var (
	one = digest.FromString("one").String()
	two = digest.FromString("two").String()
)

const llama = "harbor.example.com/models/llama"

// meaning is the image llama:v1 whose tag means d.
func meaning(d string) Image {
	return Image{Image: config.Image{Name: "llama", Ref: llama + ":v1", Aliases: []string{"quay.io/llama:v1"}}, Digest: d}
}

func (w *worker) set(images ...Image) {
	w.puller.Took()
	w.wanted.Images = images
	w.SetWanted(w.wanted)
	synctest.Wait()
}

func TestWhatIsAskedForWhereTheDigestIsKnown(t *testing.T) {
	byDigest := llama + "@" + one
	for name, test := range map[string]struct {
		image Image
		want  prefetch.Image
		means string
	}{
		"not known":        {meaning(""), prefetch.Image{Ref: llama + ":v1", Aliases: []string{"quay.io/llama:v1"}, Pin: true}, ""},
		"no digest":        {meaning("v1"), prefetch.Image{Ref: llama + ":v1", Aliases: []string{"quay.io/llama:v1"}, Pin: true}, ""},
		"known":            {meaning(one), prefetch.Image{Ref: byDigest, Aliases: []string{llama + ":v1", "quay.io/llama:v1"}, Pin: true}, one},
		"a digest already": {Image{Image: config.Image{Ref: byDigest, Pin: new(false)}, Digest: two}, prefetch.Image{Ref: byDigest}, one},
		"a short name": {Image{Image: config.Image{Ref: "busybox", Platform: "linux/arm64"}, Digest: one},
			prefetch.Image{Ref: "docker.io/library/busybox@" + one, Aliases: []string{"busybox"}, Platform: "linux/arm64", Pin: true}, one},
		"no reference": {Image{Image: config.Image{Ref: "a b"}, Digest: one}, prefetch.Image{Ref: "a b", Pin: true}, ""},
	} {
		got, means := test.image.want()
		if diff := cmp.Diff(test.want, got); diff != "" || means != test.means {
			t.Errorf("%s: means %q; asked for (-want +got):\n%s", name, means, diff)
		}
	}
}

func TestATagThatMeansSomethingElseIsAnotherImage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.set(meaning(one))
		after(5 * time.Second)
		w.did("sweep "+llama+"@"+one, "ensure "+llama+"@"+one)
		r := w.Report()[0]
		if r.Name != "llama" || r.Ref != llama+":v1" || r.Digest != one || r.Target != one || r.Phase != report.ImageReady {
			t.Errorf("reported as %+v", r)
		}
		if got := w.log.Lines("image is Ready", "ref="+llama+":v1", "digest="+one); len(got) != 1 {
			t.Errorf("the log says %q", w.log.Lines(""))
		}
		w.puller.Inside = hold(llama + "@" + two)
		w.set(meaning(two))
		after(5 * time.Second)
		if r := w.Report()[0]; r.Target != two || r.Phase == report.ImageReady {
			t.Errorf("reported as %+v", r)
		}
		w.did("sweep "+llama+"@"+two, "ensure "+llama+"@"+two)
	})
}

// What was pinned by its digest is what it was: no registry knows better.
func TestAnImageFromBeforeIsNotAskedForAgainWhereTheDigestIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.Set(func(s *agenttest.State) { s.Ready[llama+"@"+one] = true })
		w.set(meaning(one))
		after(time.Hour)
		w.did("sweep " + llama + "@" + one)
		if r := w.Report()[0]; r.Phase != report.ImageReady || r.Reason != "" || r.Message != "" || !r.Pinned {
			t.Errorf("reported as %+v", r)
		}
	})
}

func TestAnImageWaitsUntilItIsKnownWhatItsTagMeans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		other := prefetch.Pin{ImageID: digest.FromString("other")}
		w.puller.Set(func(s *agenttest.State) { s.Pinned = []prefetch.Pin{other} })
		waiting := meaning("")
		waiting.Waits = "waits for somebody to look it up"
		w.set(waiting, Image{Image: img("b", 0)})
		after(time.Hour)
		w.did("ensure b")
		w.phases("llama: Pending", "b: Ready")
		if r := w.Report()[0]; r.Reason != report.WaitsForCoordinator || r.Message != waiting.Waits {
			t.Errorf("reported as %+v", r)
		}
		w.concludes(report.False, "Preparing", "preparing: llama")
		w.set(meaning(one), Image{Image: img("b", 0)})
		after(time.Minute)
		w.did("sweep "+llama+"@"+one+" b", "ensure "+llama+"@"+one, "unpin "+other.ImageID.String())
	})
}

// Before it is known what is wanted nothing is let go.
func TestNothingIsDoneBeforeItIsKnownWhatIsWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.Set(func(s *agenttest.State) { s.Pinned = []prefetch.Pin{{ImageID: digest.FromString("other")}} })
		w.wanted.Waits = "waits for the coordinator"
		w.set()
		after(time.Hour)
		w.did()
		w.concludes(report.Unknown, report.WaitsForCoordinator, "waits for the coordinator")
		w.wanted.Waits = ""
		w.set(Image{Image: img("a", 0)})
		after(time.Minute)
		w.did("sweep a", "ensure a", "unpin "+digest.FromString("other").String())
		w.concludes(report.True, "AllReady", "1 of 1")
	})
}

func TestWithoutTheLeaveNothingNewBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.wanted.AtOnce = 1
		w.puller.Takes = time.Minute
		w.wants(img("a", 0), img("b", 0))
		after(time.Second)
		w.SetLeave("it is the turn of others")
		after(2 * time.Minute)
		w.did("sweep a b", "ensure a")
		w.phases("a: Ready", "b: Pending")
		if r := w.Report()[1]; r.Reason != report.WaitsForTurn || r.Message != "it is the turn of others" {
			t.Errorf("reported as %+v", r)
		}
		w.puller.Change(func(s *agenttest.State) { delete(s.Ready, "a") })
		after(time.Minute)
		w.did()
		w.phases("a: Pending", "b: Pending")
		w.SetLeave("")
		after(3 * time.Minute)
		w.did("ensure a", "ensure b")
		w.concludes(report.True, "AllReady", "2 of 2")
	})
}

func TestHostsThatOthersWereToldToLeaveAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.Throttle(map[string]time.Duration{"a.example.com": time.Minute, "b.example.com": time.Second, "c.example.com": -1})
		if got := w.Throttled(); got != nil {
			t.Errorf("without anybody who could be told: %v", got)
		}
		time.Sleep(10 * time.Second)
		w.wants()
		told := func(p *agenttest.Puller) (out map[string]time.Duration) {
			p.Set(func(s *agenttest.State) { out, s.Told = s.Told, map[string]time.Duration{} })
			return out
		}
		if diff := cmp.Diff(map[string]time.Duration{"a.example.com": 50 * time.Second}, told(w.puller)); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		w.Throttle(map[string]time.Duration{"d.example.com": time.Minute})
		if diff := cmp.Diff(map[string]time.Duration{"d.example.com": time.Minute}, told(w.puller)); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		w.puller.Set(func(s *agenttest.State) { s.Throttles = map[string]time.Duration{"e.example.com": time.Second} })
		if diff := cmp.Diff(map[string]time.Duration{"e.example.com": time.Second}, w.Throttled()); diff != "" {
			t.Errorf("throttled (-want +got):\n%s", diff)
		}
		for i := range 2 * maxThrottled {
			w.Throttle(map[string]time.Duration{fmt.Sprint(i): time.Minute})
		}
		if n := len(told(w.puller)); n != maxThrottled-2 {
			t.Errorf("%d more hosts are remembered", n)
		}
	})
}

// A person with the log alone knows how each image came in.
func TestTheLogTellsFromWhatAnImageCameAndHow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.Result = prefetch.Result{Way: prefetch.Direct, BoundBy: prefetch.BoundNetwork}
		w.puller.Takes = 25 * time.Second
		w.set(meaning(one))
		after(time.Minute)
		for part, n := range map[string]int{
			"preparing image": 1, "image progress": 2, "image is Ready": 1,
			"fetched=\"1.0 MiB\" seconds=1.0 rate=": 1, "way=Direct": 1, "boundBy=network": 1,
		} {
			if got := w.log.Lines("image=llama", part); len(got) != n {
				t.Errorf("%q %d times, want %d:\n%s", part, len(got), n, strings.Join(w.log.Lines(""), "\n"))
			}
		}
		w.puller.Set(func(s *agenttest.State) { s.Fails[llama+"@"+two] = errors.New("gone") })
		w.set(meaning(two))
		after(30 * time.Second)
		if got := w.log.Lines("image failed", "ref="+llama+":v1", "retryIn="); len(got) != 1 {
			t.Errorf("a failure is told as %q", got)
		}
	})
}
