package store

import (
	"context"
	"fmt"
	"maps"
	"strconv"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// The labels of a pin. The first is CRI's (internal/cri/labels/labels.go, 2.4.2), the second says whose pin it is, the
// third how many bytes it keeps.
const (
	pinLabel   = "io.cri-containerd.pinned"
	pinValue   = "pinned"
	ownerLabel = "hotplate.dev/pinned-by"
	sizeLabel  = "hotplate.dev/size"
)

// Pin implements prefetch.Store. The label goes on the record that CRI names by the image ID: a CRI pull of a tag erases
// labels on the tag, and one of a digest those on the digest's record.
func (s *Store) Pin(ctx context.Context, id digest.Digest, size int64) (err error) {
	defer away(&err)
	ctx = s.in(ctx)
	img, err := s.client.ImageService().Get(ctx, id.String())
	if errdefs.IsNotFound(err) {
		err = s.pinArtifact(ctx, id, size)
		if err == nil {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("pin image %s: %w", id, err)
	}
	ours := map[string]string{pinLabel: pinValue, ownerLabel: s.cfg.Owner, sizeLabel: strconv.FormatInt(size, 10)}
	if img.Labels[pinLabel] == pinValue {
		if img.Labels[ownerLabel] != s.cfg.Owner || img.Labels[sizeLabel] == ours[sizeLabel] {
			return nil // someone else's, which stays theirs, or ours already
		}
	}
	return s.setPin(ctx, id, ours)
}

// Unpin implements prefetch.Store.
func (s *Store) Unpin(ctx context.Context, id digest.Digest) (err error) {
	defer away(&err)
	ctx = s.in(ctx)
	img, err := s.client.ImageService().Get(ctx, id.String())
	if errdefs.IsNotFound(err) {
		return s.unpinArtifact(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("unpin image %s: %w", id, err)
	}
	if img.Labels[ownerLabel] != s.cfg.Owner {
		return nil
	}
	err = s.setPin(ctx, id, nil)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// setPin replaces the labels of the pin. containerd drops those without a value.
func (s *Store) setPin(ctx context.Context, id digest.Digest, with map[string]string) error {
	all := map[string]string{pinLabel: "", ownerLabel: "", sizeLabel: ""}
	maps.Copy(all, with)
	_, err := s.client.ImageService().Update(ctx, images.Image{Name: id.String(), Labels: all},
		"labels."+pinLabel, "labels."+ownerLabel, "labels."+sizeLabel)
	if err != nil {
		return fmt.Errorf("label image %s: %w", id, err)
	}
	return nil
}

// Pins implements prefetch.Store.
func (s *Store) Pins(ctx context.Context) (pins []prefetch.Pin, err error) {
	defer away(&err)
	ctx = s.in(ctx)
	list, err := s.client.ImageService().List(ctx, fmt.Sprintf("labels.%q==%q", ownerLabel, s.cfg.Owner))
	if err != nil {
		return nil, fmt.Errorf("list pinned images: %w", err)
	}
	for _, img := range list {
		if id, ok := isImage(img); ok && img.Labels[pinLabel] == pinValue {
			size, _ := strconv.ParseInt(img.Labels[sizeLabel], 10, 64) // 0 is for what is not known
			pins = append(pins, prefetch.Pin{ImageID: id, Target: img.Target.Digest, Size: size})
		}
	}
	artifacts, err := s.artifacts(ctx)
	for _, a := range artifacts {
		if a.pin != nil {
			pins = append(pins, *a.pin)
		}
	}
	return pins, err
}
