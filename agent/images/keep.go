package images

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/prefetch"
)

// SetWaits says, by registry host of the config, why the images of a registry must wait; empty for one that is applied.
// Prefetch follows the hosts directory, and where somebody else's content is in force there, it would go where the
// config forbids.
func (w *Worker) SetWaits(waits map[string]string) {
	w.mu.Lock()
	changed := !maps.Equal(w.waits, waits)
	w.waits = waits
	w.mu.Unlock()
	if changed {
		wake(w.schedule)
		w.changed()
	}
}

// waitsFor is why e must wait for its registry, or empty. The caller holds mu.
func (w *Worker) waitsFor(e *image) string { return ofRegistry(w.waits, e) }

// held reports whether there is nothing to do for e but to wait. A Ready image is looked at all the same, and work under
// way goes on. The caller holds mu.
func (w *Worker) held(e *image) bool {
	return e.waits != "" || e.phase != report.ImageReady && e.phase != report.ImageResolving && w.waitsFor(e) != ""
}

// letUnwantedGo takes our pin off images that no image of the config is any more, or removes them, once all wanted ones
// are surely Ready: before, nobody can tell which those are, and the old version of a model should stay until the new
// one is there. Only one for which there is no room is not waited for: it may need the room of what goes. What a
// container uses keeps its pin, which is how it is found again, and is tried again later.
func (w *Worker) letUnwantedGo(ctx context.Context) {
	w.mu.Lock()
	puller, remove := w.wanted.Puller, w.wanted.WhenUnwanted == config.Delete
	todo := puller != nil && w.wanted.Waits == "" && !w.letGo && !time.Now().Before(w.letGoAt)
	wanted := make(map[string]bool) // image IDs, and whether they are to be pinned
	for _, e := range w.images {
		todo = todo && e.waits == "" && (e.phase == report.ImageReady && !e.unsure || e.lacksRoom()) && e.cancel == nil
		wanted[e.result.ConfigDigest] = wanted[e.result.ConfigDigest] || e.want.Pin
	}
	w.mu.Unlock()
	if !todo {
		return
	}
	asked, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	stay, err := w.letPinsGo(asked, puller, wanted, remove)
	if ctx.Err() != nil {
		return
	}
	complaint := ""
	if err != nil {
		complaint = err.Error()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.letGo = err == nil && len(stay) == 0
	w.letGoAt = time.Now().Add(recheckInterval)
	w.unwanted = stay
	if complaint != "" && complaint != w.complain {
		w.log.Warn("images that are not wanted any more stay pinned; trying again every minute", "err", err)
	}
	w.complain = complaint
}

// lacksRoom reports whether e has failed because others take the room. The caller holds mu.
func (e *image) lacksRoom() bool {
	return e.phase == report.ImageFailed && (e.reason == report.NoSpace || e.reason == report.TooMuchPinned)
}

// letPinsGo returns the images that have to stay, with the reason.
func (w *Worker) letPinsGo(ctx context.Context, puller Puller, wanted map[string]bool, remove bool) ([]report.Unwanted, error) {
	pins, err := puller.Pins(ctx)
	if err != nil {
		return nil, err
	}
	var stay []report.Unwanted
	var errs []error
	for _, pin := range pins {
		id := pin.ImageID.String()
		keep, known := wanted[id]
		switch {
		case keep:
		case remove && !known:
			err := puller.Remove(ctx, id)
			switch {
			case errors.Is(err, prefetch.ErrInUse):
				w.sayInUse(id, err)
				stay = append(stay, report.Unwanted{ImageID: id, Size: pin.Size, Message: err.Error()})
			case err != nil:
				errs = append(errs, fmt.Errorf("remove %s: %w", id, err))
			default:
				w.log.Info("removed: the config does not want it any more", "imageID", id)
			}
		default:
			if err := puller.Unpin(ctx, id); err != nil {
				errs = append(errs, fmt.Errorf("unpin %s: %w", id, err))
				continue
			}
			w.log.Info("unpinned: the config does not want it any more", "imageID", id)
		}
	}
	return stay, errors.Join(errs...)
}

// sayInUse logs once that an image has to stay.
func (w *Worker) sayInUse(id string, why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range w.unwanted {
		if u.ImageID == id {
			return
		}
	}
	w.log.Info("not wanted any more, but it has to stay; trying again every minute", "imageID", id, "why", why)
}
