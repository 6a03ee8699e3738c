package rig

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CRI asks a container runtime for images the way the kubelet does. Its methods may be called concurrently.
type CRI struct {
	conn   *grpc.ClientConn
	images runtimeapi.ImageServiceClient
	// Runtime is the other CRI service, for what has no method here.
	Runtime runtimeapi.RuntimeServiceClient
}

// DialCRI connects to the socket at address, which is a path, and checks that CRI answers.
func DialCRI(ctx context.Context, address string) (*CRI, error) {
	conn, err := dialUnix(address)
	if err != nil {
		return nil, err
	}
	c := &CRI{
		conn:    conn,
		images:  runtimeapi.NewImageServiceClient(conn),
		Runtime: runtimeapi.NewRuntimeServiceClient(conn),
	}
	if _, err := c.Runtime.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		conn.Close()
		return nil, fmt.Errorf("ask %q for its CRI version: %w", address, err)
	}
	return c, nil
}

// PullImage pulls ref and returns the image's id. auth may be nil.
func (c *CRI) PullImage(ctx context.Context, ref string, auth *runtimeapi.AuthConfig) (id string, err error) {
	r, err := c.images.PullImage(ctx, &runtimeapi.PullImageRequest{
		Image: &runtimeapi.ImageSpec{Image: ref},
		Auth:  auth,
	})
	if err != nil {
		return "", fmt.Errorf("CRI pull of %s: %w", ref, err)
	}
	return r.GetImageRef(), nil
}

// ImageStatus returns what the runtime knows of ref, or nil when it has no such image.
func (c *CRI) ImageStatus(ctx context.Context, ref string) (*runtimeapi.Image, error) {
	r, err := c.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		return nil, fmt.Errorf("CRI status of %s: %w", ref, err)
	}
	return r.GetImage(), nil
}

// ListImages returns all images.
func (c *CRI) ListImages(ctx context.Context) ([]*runtimeapi.Image, error) {
	r, err := c.images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("CRI list of images: %w", err)
	}
	return r.GetImages(), nil
}

// RemoveImage removes ref. It is no error if there is none.
func (c *CRI) RemoveImage(ctx context.Context, ref string) error {
	_, err := c.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		return fmt.Errorf("CRI removal of %s: %w", ref, err)
	}
	return nil
}

// Close ends the connection.
func (c *CRI) Close() error { return c.conn.Close() }
