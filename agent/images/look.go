package images

import (
	"context"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/prefetch"
)

// looks asks containerd about one image after the other, and how full its disk is, until ctx ends.
func (w *Worker) looks(ctx context.Context) {
	for ctx.Err() == nil {
		untilDisk := w.lookAtDisk(ctx)
		e, digest, wait := w.nextLook()
		if e == nil {
			pause(ctx, w.look, min(wait, untilDisk))
			continue
		}
		w.lookAtOne(ctx, e, digest)
	}
}

// lookAtDisk notes how full the disk is, if that is due, and returns how long until it is again.
func (w *Worker) lookAtDisk(ctx context.Context) time.Duration {
	w.mu.Lock()
	puller, wait := w.wanted.Puller, time.Until(w.diskAt)
	w.mu.Unlock()
	switch {
	case puller == nil:
		return recheckInterval // SetWanted wakes us
	case wait > 0:
		return wait
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	var disk *report.Disk
	if v, err := puller.Disk(ctx); err == nil && v.Path != "" { // other looks say what is wrong with the daemon
		disk = &report.Disk{Path: v.Path, Size: v.Size, Free: v.Free}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.disk, w.diskAt = disk, time.Now().Add(recheckInterval)
	return recheckInterval
}

// Disk is the filesystem that has containerd's images, as it was when it was last looked at, which is done every minute while the
// daemon answers; nil where it is not known.
func (w *Worker) Disk() *report.Disk {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.disk
}

// nextLook is the next image to look at and the digest that it should have, empty if any will do; or how long there is
// none.
func (w *Worker) nextLook() (e *image, digest string, wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	wait = recheckInterval
	for _, e := range w.images {
		if e.cancel != nil || e.looked && e.phase != report.ImageReady {
			continue
		}
		until := time.Until(e.lookAt)
		if until <= 0 {
			e.touched = false
			return e, e.result.Target(), 0
		}
		wait = min(wait, until)
	}
	return nil, "", wait
}

// lookAtOne asks whether e is ready, and passes it to the scheduler if it is not.
func (w *Worker) lookAtOne(ctx context.Context, e *image, digest string) {
	w.mu.Lock()
	puller := w.wanted.Puller
	w.mu.Unlock()
	asked, cancel := context.WithTimeout(ctx, storeTimeout)
	res, ok, err := puller.Check(asked, e.want, digest)
	cancel()
	if ctx.Err() != nil {
		return
	}
	if w.saw(e, res, ok, err) {
		w.changed()
	}
	wake(w.schedule)
}

// saw takes what Check said of e, and reports whether that changes its phase.
func (w *Worker) saw(e *image, res prefetch.Result, ok bool, err error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	first := !e.looked
	e.looked, e.lookAt = true, e.nextLookAt()
	switch {
	case e.cancel != nil: // Ensure began meanwhile and knows better
		return false
	case err != nil:
		// Whether containerd answers is a condition of its own; the image is as ready as it was.
		w.log.Debug("image not looked at", "image", e.name, "err", err)
		e.lookAt = time.Now().Add(retryMin)
		return false
	case first:
		// What we have pinned was Ready before this start, whatever has become of its tag since: that can wait.
		if !ok || !res.Pinned || !e.want.Pin {
			return false
		}
		w.log.Info("image is Ready from before", "image", e.name, "ref", e.ref, "digest", res.Digest)
		e.phase, e.result = report.ImageReady, res
		if e.digest == "" {
			e.reason, e.unsure = report.AsBefore, true
			e.message = "as it was before; not yet asked a registry whether the tag has moved"
		}
		return true
	case ok:
		e.result, e.message = res, w.note(e, res)
		return false
	}
	w.log.Warn("image is not ready any more, preparing it again", "image", e.name, "why", res.Note)
	e.phase, e.reason, e.message = report.ImagePending, report.NotReadyAnyMore, res.Note
	e.again, e.due = true, time.Time{}
	return true
}

// note is the message of a Ready image after a look. The caller holds mu.
func (w *Worker) note(e *image, res prefetch.Result) string {
	if e.unsure {
		return e.message
	}
	return res.Note
}

// watch has Ready images looked at soon after an image record has changed, until ctx ends. A Puller that has been
// replaced meanwhile tells just as well: all of them have the same containerd.
func (w *Worker) watch(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-w.known:
	}
	for ctx.Err() == nil {
		w.mu.Lock()
		puller := w.wanted.Puller
		w.mu.Unlock()
		err := puller.Watch(ctx, w.lookSoon)
		if ctx.Err() != nil {
			return
		}
		w.log.Debug("changes of images are seen late: containerd tells none", "every", recheckInterval, "err", err)
		pause(ctx, nil, retryMin)
		w.lookSoon() // what changed meanwhile was not told
	}
}

// nextLookAt is when to look again at an image that was looked at or prepared now: soon, if a record changed after that had
// begun. The caller holds mu.
func (e *image) nextLookAt() time.Time {
	if e.touched {
		return time.Now().Add(lookDelay)
	}
	return time.Now().Add(recheckInterval)
}

// lookSoon has all Ready images looked at in a moment, and not sooner: a pull changes many records.
func (w *Worker) lookSoon() {
	soon := time.Now().Add(lookDelay)
	w.mu.Lock()
	for _, e := range w.images {
		e.touched = true
		if e.phase == report.ImageReady && e.lookAt.After(soon) {
			e.lookAt = soon
		}
	}
	w.mu.Unlock()
	wake(w.look)
}
