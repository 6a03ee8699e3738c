package images

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

func TestTheLogSaysHowFarAnImageIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.Inside = func(ctx context.Context, _ prefetch.Image, _ *prefetch.Progress) error {
			select {
			case <-ctx.Done():
			case <-time.After(25 * time.Second):
			}
			return ctx.Err()
		}
		w.wants(img("a", 0))
		after(time.Minute)
		if got := w.log.Lines("image progress", "image=a"); len(got) != 2 {
			t.Errorf("want a line every %s of 26 s, got %q", progressInterval, got)
		}
	})
}

func TestTheLogHasAllThatIsKnownOfAPull(t *testing.T) {
	w := newIdleWorker(t)
	w.logProgress("llama", prefetch.Snapshot{Phase: prefetch.Fetching, BytesDone: 1 << 30, BytesTotal: 4 << 30,
		Rate: 1 << 30, Left: 3 * time.Second, Layers: []prefetch.Layer{
			{Digest: "sha256:a", Phase: prefetch.Fetching, Size: 4 << 30, Done: 1 << 30, Unpacked: 1 << 29, Rate: 1 << 30,
				Left: 3 * time.Second, Host: "harbor.example.com", WaitingFor: "memory"},
			{Digest: "sha256:b", Phase: prefetch.Pending}, {Digest: "sha256:c", Phase: prefetch.Ready}}})
	w.logReady(&image{name: "llama", ref: "example.com/llama"}, prefetch.Result{Digest: "sha256:d",
		BytesFetched: 6 << 30, Duration: 3 * time.Second, Pinned: true, Way: prefetch.API, WayReason: "snapshotter native",
		BoundBy: prefetch.BoundStream, Advice: []string{"repack layer 3"}, Note: "n"})
	w.logReady(&image{name: "small"}, prefetch.Result{})
	want := []string{
		`level=INFO msg="image progress" image=llama phase=Fetching done="1.0 GiB of 4.0 GiB" rate="1.0 GiB/s" left=3s ` +
			`waitingFor=memory`,
		`level=DEBUG msg="layer progress" image=llama layer=sha256:a phase=Fetching done="1.0 GiB of 4.0 GiB" ` +
			`unpacked="512.0 MiB" rate="1.0 GiB/s" left=3s host=harbor.example.com waitingFor=memory`,
		`level=INFO msg="image is Ready" image=llama ref=example.com/llama digest=sha256:d fetched="6.0 GiB" seconds=3.0 ` +
			`rate="2.0 GiB/s" pinned=true way=API wayReason="snapshotter native" boundBy=stream advice="repack layer 3" note=n`,
		`level=INFO msg="image is Ready" image=small ref="" digest="" fetched="0 B" seconds=0.0 rate=- pinned=false`,
	}
	if diff := cmp.Diff(want, w.log.Lines()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhatIsWaitedFor(t *testing.T) {
	layers := prefetch.Snapshot{Layers: []prefetch.Layer{{WaitingFor: "memory"}, {}, {WaitingFor: "memory"},
		{WaitingFor: "a slot"}}}
	if got := WaitingFor(layers); got != "memory; a slot" {
		t.Errorf("waits for %q", got)
	}
	layers.WaitingFor = "CRI"
	if got := WaitingFor(layers); got != "CRI" {
		t.Errorf("waits for %q", got)
	}
}

func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		w.puller.Counters = prefetch.Stats{Waiting: 3}
		w.puller.Set(func(p *agenttest.State) {
			p.Result = prefetch.Result{Way: prefetch.API, WayReason: "why", BoundBy: prefetch.BoundDisk, Kept: true,
				Advice: []string{"a faster disk"}}
			p.Fails["bad"] = agenttest.ErrBroken
		})
		w.wants(img("a", 0), img("bad", -1))
		after(3 * time.Second)
		worker, puller := w.Stats()
		want := newStats()
		want.Fetched, want.PinnedBytes = agenttest.Size, agenttest.Size
		want.Failures[report.PullFailed] = 1
		want.Ready[0], want.ReadySum = 1, 1
		want.BoundBy[prefetch.BoundDisk] = 1
		want.Way, want.WayReason = prefetch.API, "why"
		if diff := cmp.Diff(want, worker); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if puller.Waiting != 3 {
			t.Errorf("the puller counts %+v", puller)
		}
		r := w.Report()[0]
		if r.Way != "API" || r.WayReason != "why" || !r.Kept || r.BoundBy != "disk" || !slices.Equal(r.Advice,
			[]string{"a faster disk"}) {
			t.Errorf("the report is %+v", r)
		}
		after(10 * time.Minute)
		if got := w.Report()[0]; got.Way != "API" || got.BoundBy != "disk" {
			t.Errorf("after a look the report has forgotten how it came: %+v", got)
		}
	})
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
	im := New(new(agenttest.Log).Logger(), func() {})
	im.SetWanted(Wanted{Puller: puller, Images: Plain([]config.Image{{Name: "llama", Ref: ref}})})
	done := make(chan struct{})
	go func() {
		defer close(done)
		im.Once(t.Context())
	}()

	deadline := time.Now().Add(10 * time.Second)
	var r report.Image
	for {
		if r = im.Report()[0]; len(r.Layers) == 2 && r.Layers[0].Done == r.Layers[0].Size {
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
		BytesDone: built.Layers[0].Size, BytesTotal: built.Size(),
		Layers: []report.Layer{
			{Digest: built.Layers[0].Digest.String(), Size: built.Layers[0].Size,
				Done: built.Layers[0].Size},
			{Digest: held, Size: built.Layers[1].Size},
		},
	}
	// How fast it goes and which way is the engine's to say.
	engines := cmp.Options{
		cmpopts.IgnoreFields(report.Image{}, "Rate", "Left", "Way", "WayReason", "Kept", "BoundBy", "Advice", "Size",
			"NotMountable", "Message"),
		cmpopts.IgnoreFields(report.Layer{}, "Phase", "Unpacked", "Rate", "Left", "Host", "WaitingFor"),
	}
	if diff := cmp.Diff(want, r, engines); diff != "" {
		t.Errorf("under way (-want +got):\n%s", diff)
	}
	got := im.Report()[0]
	want = report.Image{Name: "llama", Ref: ref, Digest: built.Manifest.Digest.String(), Target: built.Manifest.Digest.String(), Phase: report.ImageReady,
		Pinned: true, BytesDone: built.Size(), BytesTotal: built.Size()}
	if diff := cmp.Diff(want, got, engines); diff != "" {
		t.Errorf("at the end (-want +got):\n%s", diff)
	}
	if s, _ := im.Stats(); s.Fetched < built.Size() {
		t.Errorf("%d bytes counted, the layers have %d", s.Fetched, built.Size())
	}
}
