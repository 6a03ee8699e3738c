package store

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// The labels of a pin. The first is CRI's (internal/cri/labels/labels.go, 2.4.2), the second says whose pin it is.
const (
	pinLabel   = "io.cri-containerd.pinned"
	pinValue   = "pinned"
	ownerLabel = "hotplate.dev/pinned-by"
)

// Pin implements prefetch.Store. The label goes on the record that CRI names by the image ID: a CRI pull of a tag erases
// labels on the tag, and one of a digest those on the digest's record.
func (s *Store) Pin(ctx context.Context, id digest.Digest, _ int64) error {
	ctx = s.in(ctx)
	img, err := s.client.ImageService().Get(ctx, id.String())
	if err != nil {
		return fmt.Errorf("pin image %s: %w", id, err)
	}
	if img.Labels[pinLabel] == pinValue {
		return nil // ours already, or someone else's, which stays theirs
	}
	return s.setPin(ctx, id, pinValue, s.cfg.Owner)
}

// Unpin implements prefetch.Store.
func (s *Store) Unpin(ctx context.Context, id digest.Digest) error {
	ctx = s.in(ctx)
	img, err := s.client.ImageService().Get(ctx, id.String())
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("unpin image %s: %w", id, err)
	}
	if img.Labels[ownerLabel] != s.cfg.Owner {
		return nil
	}
	err = s.setPin(ctx, id, "", "") // containerd drops labels without a value
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

func (s *Store) setPin(ctx context.Context, id digest.Digest, pin, owner string) error {
	_, err := s.client.ImageService().Update(ctx,
		images.Image{Name: id.String(), Labels: map[string]string{pinLabel: pin, ownerLabel: owner}},
		"labels."+pinLabel, "labels."+ownerLabel)
	if err != nil {
		return fmt.Errorf("label image %s: %w", id, err)
	}
	return nil
}

// Pins implements prefetch.Store.
func (s *Store) Pins(ctx context.Context) ([]prefetch.Pin, error) {
	list, err := s.client.ImageService().List(s.in(ctx), fmt.Sprintf("labels.%q==%q", ownerLabel, s.cfg.Owner))
	if err != nil {
		return nil, fmt.Errorf("list pinned images: %w", err)
	}
	var pins []prefetch.Pin
	for _, img := range list {
		if id, ok := isImage(img); ok && img.Labels[pinLabel] == pinValue {
			pins = append(pins, prefetch.Pin{ImageID: id, Target: img.Target.Digest})
		}
	}
	return pins, nil
}
