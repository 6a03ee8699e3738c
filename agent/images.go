package agent

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/prefetch"
)

const (
	// recheckInterval is how often a Ready image is looked at again: somebody may remove or unpin it.
	recheckInterval = time.Minute
	// progressInterval is how often the log says how far an image is.
	progressInterval = 10 * time.Second
	// A failed image is tried again after retryMin, then less and less often, down to every retryMax. A new config
	// starts over.
	retryMin = 5 * time.Second
	retryMax = 5 * time.Minute
)

// Puller makes images ready. prefetch.Prefetcher is one.
type Puller interface {
	Ensure(ctx context.Context, img prefetch.Image, pr *prefetch.Progress) (prefetch.Result, error)
	Check(ctx context.Context, img prefetch.Image, digest string) (prefetch.Result, bool, error)
	Sweep(ctx context.Context, wanted []prefetch.Image) error
	// Pins are the images that carry a pin of ours, Unpin takes it off one of them.
	Pins(ctx context.Context) ([]prefetch.Pin, error)
	Unpin(ctx context.Context, imageID string) error
}

// images makes the wanted images ready, one after the other in the order of their priority; the parallelism is within
// an image. It looks at ready ones again from time to time.
type images struct {
	log *slog.Logger
	// changed is called, without locks held and by more than one goroutine, when an image's phase has changed.
	changed func()
	kick    chan struct{} // capacity 1

	mu     sync.Mutex
	puller Puller            // guarded by mu
	wanted []*image          // in the order of work; guarded by mu, and so is all that it holds
	known  bool              // setWanted has been called
	swept  bool              // what is not wanted any more was removed since setWanted
	letGo  bool              // pins that are not wanted any more were taken off since all was Ready
	waits  map[string]string // by registry host of the config: why its images wait, empty if they do not
	bytes  int64             // fetched for images that became Ready, since the start
}

// image is one wanted image and what became of it.
type image struct {
	name     string
	want     prefetch.Image
	priority int

	phase    report.ImagePhase
	result   prefetch.Result
	message  string
	due      time.Time // when it is looked at or tried next
	retry    *backoff.ExponentialBackOff
	done     int64 // bytes of the layers, of total, when Ensure last ended
	total    int64
	progress *prefetch.Progress // while Ensure runs
	cancel   context.CancelFunc // ends the work on it
}

func newImages(log *slog.Logger, changed func()) *images {
	return &images{log: log, changed: changed, kick: make(chan struct{}, 1)}
}

// setWanted replaces what is wanted and how it is pulled. Work on an image that is not wanted any more, or differently,
// ends; images that failed are tried again at once, because the new config may be the cure.
func (im *images) setWanted(puller Puller, wanted []config.Image) {
	im.mu.Lock()
	old := im.wanted
	im.puller, im.wanted, im.known, im.swept, im.letGo = puller, nil, true, false, false
	for _, w := range wanted {
		want := prefetch.Image{Ref: w.Ref, Aliases: w.Aliases, Platform: w.Platform, Pin: w.Pin == nil || *w.Pin}
		i := slices.IndexFunc(old, func(e *image) bool { return e.name == w.Name && reflect.DeepEqual(e.want, want) })
		if i < 0 {
			im.wanted = append(im.wanted, &image{name: w.Name, want: want, priority: w.Priority,
				phase: report.ImagePending, retry: newRetry()})
			continue
		}
		e := old[i]
		old = slices.Delete(old, i, i+1)
		e.priority = w.Priority
		e.due = time.Time{}
		e.retry.Reset()
		im.wanted = append(im.wanted, e)
	}
	slices.SortStableFunc(im.wanted, func(a, b *image) int { return b.priority - a.priority })
	for _, e := range old {
		if e.cancel != nil {
			e.cancel()
		}
	}
	im.mu.Unlock()
	im.wake()
	im.changed()
}

// retryNow makes images that failed due at once: the way to the registry may have changed.
func (im *images) retryNow() {
	im.mu.Lock()
	for _, e := range im.wanted {
		if e.phase == report.ImageFailed {
			e.due = time.Time{}
			e.retry.Reset() // and soon again: the connection to a daemon that is just back may not be up yet
		}
	}
	im.mu.Unlock()
	im.wake()
}

func (im *images) wake() {
	select {
	case im.kick <- struct{}{}:
	default:
	}
}

// run works until ctx ends.
func (im *images) run(ctx context.Context) {
	for ctx.Err() == nil {
		im.sweep(ctx)
		im.unpin(ctx)
		if e := im.next(); e != nil {
			im.work(ctx, e)
			continue
		}
		timer := time.NewTimer(im.untilDue())
		select {
		case <-ctx.Done():
		case <-im.kick:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// sweep removes, once for each config, what pulls of images that are not wanted any more have left behind.
func (im *images) sweep(ctx context.Context) {
	im.mu.Lock()
	puller, swept := im.puller, im.swept || !im.known
	var wanted []prefetch.Image
	for _, e := range im.wanted {
		wanted = append(wanted, e.want)
	}
	im.swept = true
	im.mu.Unlock()
	if swept {
		return
	}
	if err := puller.Sweep(ctx, wanted); err != nil && ctx.Err() == nil {
		im.log.Warn("leftovers of unfinished pulls are not removed; trying again with the next config", "err", err)
	}
}

// once tries every wanted image one time.
func (im *images) once(ctx context.Context) {
	im.mu.Lock()
	all := slices.Clone(im.wanted)
	im.mu.Unlock()
	im.sweep(ctx)
	for _, e := range all {
		im.work(ctx, e)
	}
	im.unpin(ctx)
}

// next is the first image that is due and need not wait, or nil.
func (im *images) next() *image {
	im.mu.Lock()
	defer im.mu.Unlock()
	now := time.Now()
	i := slices.IndexFunc(im.wanted, func(e *image) bool { return !now.Before(e.due) && !im.held(e) })
	if i < 0 {
		return nil
	}
	return im.wanted[i]
}

func (im *images) untilDue() time.Duration {
	im.mu.Lock()
	defer im.mu.Unlock()
	d := recheckInterval
	for _, e := range im.wanted {
		if !im.held(e) {
			d = min(d, time.Until(e.due))
		}
	}
	return d
}

// work looks at one image and makes it ready if it is not.
func (im *images) work(ctx context.Context, e *image) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	im.mu.Lock()
	if !slices.Contains(im.wanted, e) {
		im.mu.Unlock()
		return
	}
	puller, wasReady, digest, held := im.puller, e.phase == report.ImageReady, e.result.Target(), im.waitsFor(e) != ""
	e.cancel = cancel
	im.mu.Unlock()

	if wasReady {
		res, ok, err := puller.Check(ctx, e.want, digest)
		switch {
		case ctx.Err() != nil:
			return // it is not wanted any more, or the agent ends
		case err != nil:
			// Whether containerd answers is a condition of its own; the image is as ready as it was.
			im.log.Debug("image not looked at", "image", e.name, "err", err)
			im.mu.Lock()
			e.due = time.Now().Add(retryMin)
			im.mu.Unlock()
			return
		case ok:
			im.finished(e, res)
			return
		}
		im.log.Warn("image is not ready any more, preparing it again", "image", e.name, "why", res.Note)
	}
	if held {
		im.mu.Lock()
		e.phase = report.ImagePending
		im.mu.Unlock()
		im.changed()
		return
	}
	im.ensure(ctx, e, puller)
}

func (im *images) ensure(ctx context.Context, e *image, puller Puller) {
	pr := new(prefetch.Progress)
	im.mu.Lock()
	e.progress, e.phase, e.message = pr, report.ImageResolving, ""
	im.mu.Unlock()
	im.changed()
	im.log.Info("preparing image", "image", e.name, "ref", e.want.Ref)

	stop := im.logProgress(e.name, pr)
	res, err := puller.Ensure(ctx, e.want, pr)
	stop()

	s := pr.Snapshot()
	im.mu.Lock()
	e.progress, e.done, e.total = nil, s.BytesDone, s.BytesTotal
	im.mu.Unlock()
	switch {
	case err == nil:
		im.log.Info("image is Ready", "image", e.name, "ref", e.want.Ref, "digest", res.Digest,
			"fetched", report.Bytes(res.BytesFetched), "seconds", fmt.Sprintf("%.1f", res.Duration.Seconds()),
			"rate", rate(res.BytesFetched, res.Duration), "pinned", res.Pinned, "note", res.Note)
		im.mu.Lock()
		im.bytes += res.BytesFetched
		im.letGo = false // a tag may have moved, and the image before it is pinned still
		im.mu.Unlock()
		im.finished(e, res)
	case ctx.Err() != nil:
		im.mu.Lock()
		e.phase = report.ImagePending
		im.mu.Unlock()
	default:
		im.failed(e, err)
	}
}

func (im *images) finished(e *image, res prefetch.Result) {
	im.mu.Lock()
	e.phase, e.result, e.message = report.ImageReady, res, res.Note
	e.due = time.Now().Add(recheckInterval)
	e.retry.Reset()
	im.mu.Unlock()
	im.changed()
}

func (im *images) failed(e *image, err error) {
	im.mu.Lock()
	wait := e.retry.NextBackOff()
	e.phase, e.message, e.due = report.ImageFailed, err.Error(), time.Now().Add(wait)
	im.mu.Unlock()
	im.log.Error("image failed", "image", e.name, "ref", e.want.Ref, "err", err, "retryIn", wait.Round(time.Second))
	im.changed()
}

// logProgress writes a line every progressInterval until the returned function is called, which waits for its end.
func (im *images) logProgress(name string, pr *prefetch.Progress) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(progressInterval)
		defer tick.Stop()
		var last int64
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				s := pr.Snapshot()
				im.log.Info("image progress", "image", name, "phase", string(s.Phase),
					"done", fmt.Sprintf("%s of %s", report.Bytes(s.BytesDone), report.Bytes(s.BytesTotal)),
					"rate", rate(s.BytesFetched-last, progressInterval), "left", left(s, s.BytesFetched-last),
					"waitingFor", waitingFor(s))
				last = s.BytesFetched
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

// left estimates the time until the rest is fetched at the rate of the last progressInterval.
func left(s prefetch.Snapshot, lately int64) string {
	rest := s.BytesTotal - s.BytesDone
	if s.Phase != prefetch.Fetching || rest <= 0 || lately <= 0 {
		return "-"
	}
	return time.Duration(float64(progressInterval) * float64(rest) / float64(lately)).Round(time.Second).String()
}

// waitingFor is what the image waits for, or else what its layers wait for.
func waitingFor(s prefetch.Snapshot) string {
	if s.WaitingFor != "" {
		return s.WaitingFor
	}
	var all []string
	for _, l := range s.Layers {
		if l.WaitingFor != "" && !slices.Contains(all, l.WaitingFor) {
			all = append(all, l.WaitingFor)
		}
	}
	return strings.Join(all, "; ")
}

func rate(n int64, d time.Duration) string {
	if d <= 0 || n <= 0 {
		return "-"
	}
	return report.Bytes(int64(float64(n)/d.Seconds())) + "/s"
}

// report is the state of all wanted images, in the order of work.
func (im *images) report() []report.Image {
	im.mu.Lock()
	defer im.mu.Unlock()
	var out []report.Image
	for _, e := range im.wanted {
		r := report.Image{Name: e.name, Ref: e.want.Ref, Digest: e.result.Digest, Phase: e.phase,
			Pinned: e.phase == report.ImageReady && e.result.Pinned, BytesDone: e.done, BytesTotal: e.total,
			Message: e.message}
		if e.phase == report.ImageFailed {
			r.Retry = e.due
		}
		if im.held(e) {
			r.Phase, r.Message, r.Retry = report.ImagePending, im.waitsFor(e), time.Time{}
		}
		if e.progress != nil {
			s := e.progress.Snapshot()
			r.Digest, r.BytesDone, r.BytesTotal = s.Digest, s.BytesDone, s.BytesTotal
			if s.Phase != prefetch.Pending {
				r.Phase = report.ImagePhase(s.Phase)
			}
			r.Message = waitingFor(s)
			for _, l := range s.Layers {
				r.Layers = append(r.Layers, report.Layer{Digest: l.Digest, Phase: report.ImagePhase(l.Phase),
					Size: l.Size, Done: l.Done, WaitingFor: l.WaitingFor})
			}
		}
		out = append(out, r)
	}
	return out
}

// condition is ImagesReady.
func (im *images) condition() (status report.ConditionStatus, reason, message string) {
	im.mu.Lock()
	known := im.known
	im.mu.Unlock()
	if !known {
		return report.Unknown, "Starting", ""
	}
	var failed, pending []string
	all := im.report()
	for _, i := range all {
		switch i.Phase {
		case report.ImageReady:
		case report.ImageFailed:
			failed = append(failed, i.Name)
		default:
			pending = append(pending, i.Name)
		}
	}
	switch {
	case len(failed) > 0:
		return report.False, "ImageFailed", "failed: " + strings.Join(failed, ", ")
	case len(pending) > 0:
		return report.False, "Preparing", "preparing: " + strings.Join(pending, ", ")
	case len(all) == 0:
		return report.True, "NoneWanted", "the config names no images"
	}
	return report.True, "AllReady", fmt.Sprintf("%d of %d", len(all), len(all))
}

func (im *images) bytesFetched() int64 {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.bytes
}

func newRetry() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(backoff.WithInitialInterval(retryMin), backoff.WithMaxInterval(retryMax),
		backoff.WithMultiplier(2), backoff.WithMaxElapsedTime(0))
}

var _ Puller = (*prefetch.Prefetcher)(nil)
