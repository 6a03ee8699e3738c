package daemon

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// reasonUnknown is CRI's for a container whose task is not there any more, and oomKilled for one that the kernel has
	// ended (internal/cri/server/helpers.go, unknownExitReason and oomExitReason, 2.4.2; the same in 1.6).
	reasonUnknown, oomKilled = "Unknown", "OOMKilled"
	// signalled is the exit code from which on a process did not end by itself: 128 and the number of the signal.
	signalled = 128
)

// Lost says what a restart of the daemon between before and now has cost: every task that is not the same any more, but for
// those that have ended for a reason of their own.
//
//   - Somebody has removed the container: the daemon itself removes no record.
//   - A container has ended, and its pod's sandbox runs on in the same process. So their shim lives, and of a living shim
//     the daemon ends nothing but Strays. How it has ended does not tell: from 1.7 on the exit code of what ends while
//     the daemon is away is not known to it.
//   - A pod has ended, and its containers that ran before have exit codes that say that they ended by themselves, or somebody has
//     removed them.
//
// A pod that the kubelet stops at that very moment, or of which a container has ended while the daemon was away, looks as
// if it were lost.
func (c *Client) Lost(ctx context.Context, before, now Running) (lost []Loss, err error) {
	for _, l := range before.Changed(now) {
		ended := false
		if l.Gone {
			if ended, err = c.ended(ctx, l.Task, before, now); err != nil {
				return nil, err
			}
		}
		if !ended {
			lost = append(lost, l)
		}
	}
	return lost, nil
}

// ended tells whether a task that is gone has ended for a reason of its own.
func (c *Client) ended(ctx context.Context, t Task, before, now Running) (bool, error) {
	_, err := c.ctrd.ContainerService().Get(namespaces.WithNamespace(ctx, t.Namespace), t.ID)
	switch {
	case errdefs.IsNotFound(err):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("ask containerd for container %s/%s: %w", t.Namespace, t.ID, err)
	case t.Namespace != criNamespace:
		return false, nil
	}
	list, err := c.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: t.ID}})
	switch {
	case err != nil:
		return false, fmt.Errorf("ask containerd's CRI plugin for container %s: %w", t.ID, err)
	case len(list.Containers) == 0:
		return c.podEnded(ctx, t.ID, before)
	}
	sandbox := list.Containers[0].GetPodSandboxId()
	if slices.ContainsFunc(before.Tasks, func(s Task) bool {
		return s.Namespace == criNamespace && s.ID == sandbox && slices.Contains(now.Tasks, s)
	}) {
		return true, nil
	}
	return c.podEnded(ctx, sandbox, before)
}

// podEnded tells whether a pod's sandbox was stopped because its containers that ran before had ended by themselves.
func (c *Client) podEnded(ctx context.Context, id string, before Running) (bool, error) {
	ran := before.criTasks()
	list, err := c.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: id}})
	if err != nil {
		return false, fmt.Errorf("ask containerd's CRI plugin for the containers of pod %s: %w", id, err)
	}
	for _, one := range list.Containers {
		if !ran[one.Id] {
			continue // it had ended before
		}
		is, err := c.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: one.Id})
		if err != nil {
			return false, fmt.Errorf("ask containerd's CRI plugin for container %s: %w", one.Id, err)
		}
		s := is.GetStatus()
		byItself := s.GetExitCode() < signalled || s.GetReason() == oomKilled
		if s.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || s.GetReason() == reasonUnknown || !byItself {
			return false, nil
		}
	}
	return true, nil
}
