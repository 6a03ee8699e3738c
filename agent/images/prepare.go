package images

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/prefetch"
)

// next marks the image that is to be prepared next as under way and returns it; nil if there is none now.
func (w *Worker) next() *image {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.paused != "" || w.noLeave != "" {
		return nil
	}
	now := time.Now()
	for _, e := range w.candidates() {
		if !now.Before(e.due) && w.hasPlace(e) {
			w.begin(e)
			return e
		}
	}
	return nil
}

// candidates are the images that there is something to do for, whether it is time or not: first those that are not
// Ready, then those of which it is not sure. The caller holds mu.
func (w *Worker) candidates() []*image {
	var out, unsure []*image
	for _, e := range w.images {
		switch {
		case e.cancel != nil || !e.looked || w.held(e):
		case e.phase != report.ImageReady:
			out = append(out, e)
		case e.unsure:
			unsure = append(unsure, e)
		}
	}
	return append(out, unsure...)
}

// hasPlace reports whether e may be prepared beside those that are. An image of lower priority takes nothing from the
// network that one of higher priority needs. One that was Ready has a place more: mostly only its pin is gone. The
// caller holds mu.
func (w *Worker) hasPlace(e *image) bool {
	if e.again {
		return len(w.working) <= w.wanted.AtOnce
	}
	for _, other := range w.working {
		if other.priority > e.priority && other.phase != report.ImageReady && other.fetching() {
			return false
		}
	}
	return len(w.working) < w.wanted.AtOnce
}

// fetching reports whether an image that is under way still needs the network. The caller holds mu.
func (e *image) fetching() bool {
	s := e.progress.Snapshot()
	return s.Phase != prefetch.Unpacking && (s.BytesTotal == 0 || s.BytesDone < s.BytesTotal)
}

// begin marks e as under way. The caller holds mu.
func (w *Worker) begin(e *image) {
	e.progress, e.cancel = new(prefetch.Progress), func() {}
	w.working = append(w.working, e)
}

// untilDue is how long the scheduler has nothing to do.
func (w *Worker) untilDue() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := recheckInterval
	for _, e := range w.candidates() {
		wait := time.Until(e.due)
		if wait <= 0 {
			wait = fillInterval // it has no place now
		}
		d = min(d, wait)
	}
	return d
}

// prepare makes e, which begin has marked, ready.
func (w *Worker) prepare(ctx context.Context, e *image) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.mu.Lock()
	puller, pr := w.wanted.Puller, e.progress
	wanted := slices.Contains(w.images, e) && !w.held(e)
	if wanted {
		e.cancel, e.touched, e.news = cancel, false, false
		if e.phase != report.ImageReady {
			e.phase, e.reason, e.message = report.ImageResolving, "", ""
		}
	}
	w.mu.Unlock()
	if !wanted {
		w.ended(e)
		return
	}
	w.changed()
	w.log.Info("preparing image", "image", e.name, "ref", e.ref)

	stop := Follow(pr, progressInterval, func(s prefetch.Snapshot, last bool) {
		if !last {
			w.logProgress(e.name, s)
		}
	})
	res, err := puller.Ensure(ctx, e.want, pr)
	stop()

	switch {
	case err == nil:
		w.succeeded(e, res)
	case ctx.Err() != nil: // not wanted any more, or otherwise, or the agent ends
		w.mu.Lock()
		if e.phase != report.ImageReady {
			e.phase = report.ImagePending
		}
		w.mu.Unlock()
	default:
		w.failed(e, err)
	}
	w.ended(e)
	w.changed()
}

// ended takes e off those that are under way.
func (w *Worker) ended(e *image) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := e.progress.Snapshot(); s.Phase != prefetch.Pending {
		e.done, e.total = s.BytesDone, s.BytesTotal
	}
	e.progress, e.cancel = nil, nil
	w.working = slices.DeleteFunc(w.working, func(o *image) bool { return o == e })
}

func (w *Worker) succeeded(e *image, res prefetch.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e.phase, e.reason, e.result, e.message = report.ImageReady, "", res, res.Note
	e.again, e.unsure, e.looked = false, false, true
	e.lookAt = e.nextLookAt()
	e.retry.Reset()
	if res.Way != "" {
		e.pulled = res
	}
	w.letGo = false // a tag may have moved, and the image before it is pinned still
	w.stats.add(res)
	w.logReady(e, res)
	wake(w.look)
}

func (w *Worker) failed(e *image, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	wait := e.retry.NextBackOff()
	switch {
	case e.news:
		wait = 0
	case prefetch.Broken(err):
		wait = brokenRetry
	}
	e.phase, e.reason, e.message = report.ImageFailed, reasonOf(err), err.Error()
	e.due, e.unsure = time.Now().Add(wait), false
	if e.lacksRoom() {
		w.letGo = false
	}
	w.stats.Failures[e.reason]++
	w.log.Error("image failed", "image", e.name, "ref", e.ref, "reason", e.reason, "err", err, "retryIn", wait.Round(time.Second))
}

// reasonOf is the reason of a failed image for programs.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, prefetch.ErrNoSpace):
		return report.NoSpace
	case errors.Is(err, prefetch.ErrPinned):
		return report.TooMuchPinned
	case prefetch.Broken(err):
		return report.ImageBroken
	case errors.Is(err, prefetch.ErrAway):
		return report.ContainerdAway
	}
	return report.PullFailed
}
