package daemon

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// reasonUnknown is CRI's for a container whose task is not there any more, and oomKilled for one that the kernel has
	// ended (internal/cri/server/helpers.go, unknownExitReason and oomExitReason, 2.4.2; the same in 1.6).
	reasonUnknown, oomKilled = "Unknown", "OOMKilled"
	// signalled is the exit code from which on a process did not end by itself: 128 and the number of the signal.
	signalled = 128
)

// Ended tells whether a task that ran, and is gone, has ended for a reason of its own: its process has ended by itself, or
// somebody has removed its container. What a restart of the daemon kills looks different: its record stays, and of how it has
// ended nothing is known, or that it was a signal. What the kubelet stops at that moment looks like that too.
func (c *Client) Ended(ctx context.Context, t Task) (bool, error) {
	_, err := c.ctrd.ContainerService().Get(namespaces.WithNamespace(ctx, t.Namespace), t.ID)
	switch {
	case errdefs.IsNotFound(err):
		return true, nil // the daemon itself removes none
	case err != nil:
		return false, fmt.Errorf("ask containerd for container %s/%s: %w", t.Namespace, t.ID, err)
	case t.Namespace != criNamespace:
		return false, nil
	}
	is, err := c.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: t.ID})
	switch {
	case status.Code(err) == codes.NotFound:
		return c.podEnded(ctx, t.ID)
	case err != nil:
		return false, fmt.Errorf("ask containerd's CRI plugin for container %s: %w", t.ID, err)
	}
	return ended(is.GetStatus()), nil
}

// ended tells whether a container of CRI's has ended by itself.
func ended(s *runtimeapi.ContainerStatus) bool {
	return s.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED && s.GetReason() != reasonUnknown &&
		(s.GetExitCode() < signalled || s.GetReason() == oomKilled)
}

// podEnded tells whether a pod's sandbox was stopped because its containers have ended by themselves.
func (c *Client) podEnded(ctx context.Context, id string) (bool, error) {
	list, err := c.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: id}})
	if err != nil {
		return false, fmt.Errorf("ask containerd's CRI plugin for the containers of pod %s: %w", id, err)
	}
	for _, one := range list.Containers {
		is, err := c.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: one.Id})
		if err != nil {
			return false, fmt.Errorf("ask containerd's CRI plugin for container %s: %w", one.Id, err)
		}
		if !ended(is.GetStatus()) {
			return false, nil
		}
	}
	return len(list.Containers) > 0, nil
}
