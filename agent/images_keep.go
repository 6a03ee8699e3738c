package agent

import (
	"context"
	"fmt"
	"maps"

	"github.com/distribution/reference"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig"
)

// setWaits says, by registry host of the config, why the images of a registry must wait; empty for one that is applied.
// Prefetch follows the hosts directory, and where somebody else's content is in force there, it would go where the
// config forbids.
func (im *images) setWaits(waits map[string]string) {
	im.mu.Lock()
	changed := !maps.Equal(im.waits, waits)
	im.waits = waits
	im.mu.Unlock()
	if changed {
		im.wake()
		im.changed()
	}
}

// waitsFor is why e must wait for its registry, or empty. The caller holds mu.
func (im *images) waitsFor(e *image) string {
	ref, err := reference.ParseDockerRef(e.want.Ref)
	if err != nil {
		return "" // Ensure says what is wrong with it
	}
	why, ok := im.waits[reference.Domain(ref)]
	if !ok {
		why = im.waits[hostconfig.DefaultHost]
	}
	return why
}

// held reports whether there is nothing to do for e but to wait. A Ready image is looked at all the same, and work under
// way goes on. The caller holds mu.
func (im *images) held(e *image) bool {
	return e.phase != report.ImageReady && e.progress == nil && im.waitsFor(e) != ""
}

// unpin takes our pin off images that no image of the config is any more, once all wanted ones are Ready: before, nobody
// can tell which those are, and the old version of a model should stay until the new one is there.
func (im *images) unpin(ctx context.Context) {
	im.mu.Lock()
	puller, ready := im.puller, im.known && !im.letGo
	wanted := make(map[string]bool)
	for _, e := range im.wanted {
		ready = ready && e.phase == report.ImageReady
		if e.want.Pin {
			wanted[e.result.ConfigDigest] = true
		}
	}
	im.letGo = im.letGo || ready
	im.mu.Unlock()
	if !ready {
		return
	}
	if err := im.unpinOthers(ctx, puller, wanted); err != nil && ctx.Err() == nil {
		im.log.Warn("pins that are not wanted any more stay until the config or an image changes", "err", err)
	}
}

func (im *images) unpinOthers(ctx context.Context, puller Puller, wanted map[string]bool) error {
	pins, err := puller.Pins(ctx)
	if err != nil {
		return err
	}
	for _, pin := range pins {
		id := pin.ImageID.String()
		if wanted[id] {
			continue
		}
		if err := puller.Unpin(ctx, id); err != nil {
			return fmt.Errorf("unpin %s: %w", id, err)
		}
		im.log.Info("unpinned: the config does not want it any more", "imageID", id)
	}
	return nil
}
