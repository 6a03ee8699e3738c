package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// Remove implements prefetch.Store. It does what the kubelet does to collect an image, after a look at who needs it;
// as there, a container that is made between the look and the removal keeps its snapshot and loses only the image.
func (s *Store) Remove(ctx context.Context, id digest.Digest) (err error) {
	defer away(&err)
	ctx = s.in(ctx)
	if artifact, err := s.removeArtifact(ctx, id); artifact || err != nil {
		return err
	}
	records, err := s.recordsOf(ctx, id)
	if err != nil {
		return err
	}
	var names []string
	for _, r := range records {
		names = append(names, r.Name)
		if r.Labels[pinLabel] == pinValue && r.Labels[ownerLabel] != s.cfg.Owner {
			return fmt.Errorf("remove image %s: %w: someone else has pinned it as %s", id, prefetch.ErrInUse, r.Name)
		}
	}
	user, err := s.userOf(ctx, id, names)
	if err != nil {
		return err
	}
	if user != "" {
		return fmt.Errorf("remove image %s: %w: %s uses it", id, prefetch.ErrInUse, user)
	}
	_, err = s.cri.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: id.String()}})
	if err != nil {
		return fmt.Errorf("remove image %s by CRI: %w", id, err)
	}
	// CRI follows the records by events, so that it may not have known of all.
	var errs []error
	for _, name := range names {
		if err := s.client.ImageService().Delete(ctx, name); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("remove image record %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// recordsOf are the image records of the image with this ID: those that CRI counts to it, and those that point at the
// same manifest or index as the one that is named by the ID.
func (s *Store) recordsOf(ctx context.Context, id digest.Digest) ([]images.Image, error) {
	resp, err := s.cri.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: id.String()}})
	if err != nil {
		return nil, fmt.Errorf("ask containerd's CRI for image %s: %w", id, err)
	}
	names := append([]string{id.String()}, resp.GetImage().GetRepoTags()...)
	names = append(names, resp.GetImage().GetRepoDigests()...)
	all, err := s.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list image records: %w", err)
	}
	var targets []digest.Digest
	for _, r := range all {
		if slices.Contains(names, r.Name) {
			targets = append(targets, r.Target.Digest)
		}
	}
	return slices.DeleteFunc(all, func(r images.Image) bool { return !slices.Contains(targets, r.Target.Digest) }), nil
}

// userOf names a container that uses the image, or nothing. containerd's containers name the image that they were made
// from, CRI's the ID that it had. Sandboxes are among the former.
func (s *Store) userOf(ctx context.Context, id digest.Digest, names []string) (string, error) {
	containers, err := s.client.ContainerService().List(ctx)
	if err != nil {
		return "", fmt.Errorf("list containers: %w", err)
	}
	for _, c := range containers {
		if c.Image == id.String() || slices.Contains(names, c.Image) {
			return "container " + c.ID, nil
		}
	}
	resp, err := runtimeapi.NewRuntimeServiceClient(s.conn).ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return "", fmt.Errorf("list CRI's containers: %w", err)
	}
	for _, c := range resp.GetContainers() {
		used := []string{c.GetImageRef(), c.GetImageId(), c.GetImage().GetImage()}
		if slices.Contains(used, id.String()) || slices.ContainsFunc(used, func(n string) bool {
			return slices.Contains(names, n)
		}) {
			return "container " + strings.TrimSpace(c.GetMetadata().GetName()+" "+c.GetId()), nil
		}
	}
	return "", nil
}
