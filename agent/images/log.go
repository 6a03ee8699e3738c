package images

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/prefetch"
)

// Follow shows pr every interval, from one goroutine, and a last time when the returned function is called, which
// waits for that.
func Follow(pr *prefetch.Progress, interval time.Duration, show func(s prefetch.Snapshot, last bool)) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				show(pr.Snapshot(), true)
				return
			case <-tick.C:
				show(pr.Snapshot(), false)
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

// logProgress says how far an image is: one line for it, and with level debug one for each layer under way.
func (w *Worker) logProgress(name string, s prefetch.Snapshot) {
	w.log.Info("image progress", "image", name, "phase", string(s.Phase),
		"done", fmt.Sprintf("%s of %s", report.Bytes(s.BytesDone), report.Bytes(s.BytesTotal)),
		"rate", report.Rate(s.Rate), "left", report.Left(s.Left), "waitingFor", WaitingFor(s))
	for _, l := range s.Layers {
		if l.Phase == prefetch.Pending || l.Phase == prefetch.Ready {
			continue
		}
		w.log.Debug("layer progress", "image", name, "layer", l.Digest, "phase", string(l.Phase),
			"done", fmt.Sprintf("%s of %s", report.Bytes(l.Done), report.Bytes(l.Size)), "unpacked", report.Bytes(l.Unpacked),
			"rate", report.Rate(l.Rate), "left", report.Left(l.Left), "host", l.Host, "waitingFor", l.WaitingFor)
	}
}

// logReady says in one line what became of a pull. The caller holds mu.
func (w *Worker) logReady(e *image, res prefetch.Result) {
	attrs := []any{"image", e.name, "ref", e.ref, "digest", res.Digest, "fetched", report.Bytes(res.BytesFetched),
		"seconds", fmt.Sprintf("%.1f", res.Duration.Seconds()), "rate", report.RateOver(res.BytesFetched, res.Duration),
		"pinned", res.Pinned}
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, key, value)
		}
	}
	add("way", string(res.Way))
	add("wayReason", res.WayReason)
	add("boundBy", string(res.BoundBy))
	add("advice", strings.Join(res.Advice, "; "))
	add("note", res.Note)
	w.log.Info("image is Ready", attrs...)
}

// WaitingFor is what the image waits for, or else what its layers wait for.
func WaitingFor(s prefetch.Snapshot) string {
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
