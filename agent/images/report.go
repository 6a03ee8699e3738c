package images

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/prefetch"
)

// Report is the state of all wanted images, in the order of work.
func (w *Worker) Report() []report.Image {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []report.Image
	for _, e := range w.images {
		r := e.report()
		switch {
		case e.waits != "":
			r.Phase, r.Reason, r.Message, r.Retry = report.ImagePending, report.WaitsForCoordinator, e.waits, time.Time{}
		case w.held(e):
			r.Phase, r.Reason, r.Message, r.Retry = report.ImagePending, report.WaitsForRegistry, w.waitsFor(e), time.Time{}
		case w.paused != "" && r.Phase == report.ImagePending && e.cancel == nil:
			r.Reason, r.Message = report.WaitsForRestart, w.paused
		case w.noLeave != "" && r.Phase == report.ImagePending && e.cancel == nil:
			r.Reason, r.Message = report.WaitsForTurn, w.noLeave
		}
		out = append(out, r)
	}
	return out
}

// Unwanted are the images that left the config and have to stay for now.
func (w *Worker) Unwanted() []report.Unwanted {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.unwanted)
}

// report is the state of one image. The caller holds the Worker's mu.
func (e *image) report() report.Image {
	r := report.Image{Name: e.name, Ref: e.ref, Digest: e.result.Digest, Target: cmp.Or(e.digest, e.result.Target()), Phase: e.phase,
		Reason: e.reason, BytesDone: e.done, BytesTotal: e.total, Message: e.message,
		Way: string(e.pulled.Way), WayReason: e.pulled.WayReason, Kept: e.pulled.Kept,
		BoundBy: string(e.pulled.BoundBy), Advice: slices.Clone(e.pulled.Advice)}
	switch e.phase {
	case report.ImageReady:
		r.Pinned, r.Size, r.NotMountable = e.result.Pinned, e.result.Size, !e.result.Mountable
	case report.ImageFailed:
		r.Retry = e.due
	}
	if e.progress == nil {
		return r
	}
	s := e.progress.Snapshot()
	if e.phase == report.ImageReady { // as it was; this run is to make sure
		if s.Phase == prefetch.Fetching || s.Phase == prefetch.Unpacking {
			r.Message = fmt.Sprintf("its tag has moved to %s, of which %s of %s are there", report.Short(s.Digest),
				report.Bytes(s.BytesDone), report.Bytes(s.BytesTotal))
		}
		return r
	}
	r.Digest, r.BytesDone, r.BytesTotal, r.Rate, r.Left = s.Digest, s.BytesDone, s.BytesTotal, s.Rate, s.Left
	r.Way, r.WayReason, r.BoundBy, r.Advice, r.Kept = string(s.Way), s.WayReason, "", nil, false
	if s.Phase != prefetch.Pending {
		r.Phase = report.ImagePhase(s.Phase)
	}
	r.Message = WaitingFor(s)
	for _, l := range s.Layers {
		r.Layers = append(r.Layers, report.Layer{Digest: l.Digest, Phase: report.ImagePhase(l.Phase), Size: l.Size,
			Done: l.Done, Unpacked: l.Unpacked, Rate: l.Rate, Left: l.Left, Host: l.Host, WaitingFor: l.WaitingFor})
	}
	return r
}

// Condition is ImagesReady.
func (w *Worker) Condition() (status report.ConditionStatus, reason, message string) {
	select {
	case <-w.known:
	default:
		return report.Unknown, "Starting", ""
	}
	w.mu.Lock()
	waits := w.wanted.Waits
	w.mu.Unlock()
	if waits != "" {
		return report.Unknown, report.WaitsForCoordinator, waits
	}
	var failed, pending []string
	all := w.Report()
	for _, i := range all {
		switch i.Phase {
		case report.ImageReady:
		case report.ImageFailed:
			failed = append(failed, fmt.Sprintf("%s (%s)", i.Name, i.Reason))
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
