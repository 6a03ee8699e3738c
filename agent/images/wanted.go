package images

import (
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/prefetch"
)

// want is c for package prefetch, and the digest that its reference means, where that is known. Then the bytes are asked for by
// the digest, and the reference is one of the names that point at them.
func (c Image) want() (img prefetch.Image, means string) {
	img = prefetch.Image{Ref: c.Ref, Aliases: c.Aliases, Platform: c.Platform, Pin: c.Pin == nil || *c.Pin}
	ref, err := config.ParseRef(c.Ref)
	if err != nil {
		return img, "" // Ensure says what is wrong with it
	}
	if digested, ok := ref.(reference.Digested); ok {
		return img, digested.Digest().String()
	}
	d, err := digest.Parse(c.Digest)
	if err != nil {
		return img, ""
	}
	byDigest, err := reference.WithDigest(reference.TrimNamed(ref), d)
	if err != nil {
		return img, ""
	}
	img.Ref, img.Aliases = byDigest.String(), append([]string{c.Ref}, c.Aliases...)
	return img, d.String()
}

// SetLeave says why nothing may be fetched that is not under way already; empty if it may. Images that wait then say why.
func (w *Worker) SetLeave(why string) { w.hold(&w.noLeave, why) }

// maxThrottled bounds how many hosts are remembered that want to be left alone.
const maxThrottled = 100

// Throttle lets nobody ask these registry hosts, host[:port], for as long as given: they have asked others to be left alone.
func (w *Worker) Throttle(hosts map[string]time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for host, until := range w.throttle {
		if !time.Now().Before(until) {
			delete(w.throttle, host)
		}
	}
	for host, d := range hosts {
		if _, known := w.throttle[host]; d <= 0 || !known && len(w.throttle) >= maxThrottled {
			continue
		}
		w.throttle[host] = time.Now().Add(d)
		if w.wanted.Puller != nil {
			w.wanted.Puller.Throttle(host, d)
		}
	}
}

// Throttled are the registry hosts that have asked this node to be left alone, and for how much longer.
func (w *Worker) Throttled() map[string]time.Duration {
	w.mu.Lock()
	puller := w.wanted.Puller
	w.mu.Unlock()
	if puller == nil {
		return nil
	}
	return puller.Throttled()
}

// Plain are the images of a config as they stand there.
func Plain(images []config.Image) []Image {
	var out []Image
	for _, img := range images {
		out = append(out, Image{Image: img})
	}
	return out
}
