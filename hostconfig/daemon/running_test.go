package daemon

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cri is what a CRI plugin says.
type cri struct {
	runtimeapi.RuntimeServiceClient
	pods       []*runtimeapi.PodSandbox
	containers []*runtimeapi.Container
	statuses   map[string]*runtimeapi.ContainerStatus
}

func (c cri) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest, ...grpc.CallOption) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{Items: c.pods}, nil
}

func (c cri) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest, _ ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	out := new(runtimeapi.ListContainersResponse)
	for _, one := range c.containers {
		if pod := r.GetFilter().GetPodSandboxId(); pod == "" || pod == one.PodSandboxId {
			out.Containers = append(out.Containers, one)
		}
	}
	return out, nil
}

func (c cri) ContainerStatus(_ context.Context, r *runtimeapi.ContainerStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ContainerStatusResponse, error) {
	if is := c.statuses[r.ContainerId]; is != nil {
		return &runtimeapi.ContainerStatusResponse{Status: is}, nil
	}
	return nil, status.Error(codes.NotFound, "no such container")
}

// TestTwoPodsOfOneName: CRI tells them apart by name, namespace, uid and attempt, and does not start with two of them.
func TestTwoPodsOfOneName(t *testing.T) {
	pod := func(id, name string, attempt uint32) *runtimeapi.PodSandbox {
		return &runtimeapi.PodSandbox{Id: id, Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "u", Attempt: attempt}}
	}
	c := &Client{runtime: cri{pods: []*runtimeapi.PodSandbox{pod("1", "one", 0), pod("2", "one", 1), pod("3", "twin", 0), pod("4", "twin", 0)}}}
	var r Running
	if err := c.sandboxes(t.Context(), &r, map[string]bool{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"default/twin (3 and 4)"}, r.Duplicates); diff != "" {
		t.Errorf("duplicates (-want +got):\n%s", diff)
	}
}

// TestPodEnded: a pod whose containers have ended by themselves has ended, too.
func TestPodEnded(t *testing.T) {
	before := Running{Tasks: []Task{{"k8s.io", "pod", 1}, {"k8s.io", "a", 2}, {"k8s.io", "b", 3}}}
	exited := func(code int32, reason string) *runtimeapi.ContainerStatus {
		return &runtimeapi.ContainerStatus{State: runtimeapi.ContainerState_CONTAINER_EXITED, ExitCode: code, Reason: reason}
	}
	for name, c := range map[string]struct {
		a, b  *runtimeapi.ContainerStatus
		ended bool
	}{
		"both by themselves":      {exited(0, "Completed"), exited(3, "Error"), true},
		"out of memory":           {exited(137, "OOMKilled"), exited(0, "Completed"), true},
		"one by a signal":         {exited(0, "Completed"), exited(137, "Error"), false},
		"nobody knows how":        {exited(255, "Unknown"), exited(0, "Completed"), false},
		"one runs, as CRI has it": {exited(0, "Completed"), &runtimeapi.ContainerStatus{State: runtimeapi.ContainerState_CONTAINER_RUNNING}, false},
	} {
		is := cri{statuses: map[string]*runtimeapi.ContainerStatus{"a": c.a, "b": c.b, "earlier": exited(137, "Error")}}
		for _, id := range []string{"a", "b", "earlier"} {
			is.containers = append(is.containers, &runtimeapi.Container{Id: id, PodSandboxId: "pod"})
		}
		if ended, err := (&Client{runtime: is}).podEnded(t.Context(), "pod", before); err != nil || ended != c.ended {
			t.Errorf("%s: %v, %v", name, ended, err)
		}
	}
}
