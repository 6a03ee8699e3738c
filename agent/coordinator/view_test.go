package coordinator

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func pod(name, node string, phase corev1.PodPhase, waiting ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: "uid-1"}, Spec: corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{Phase: phase}}
	for _, reason := range waiting {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses,
			corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}})
	}
	return p
}

func viewOf(t *testing.T, client *fake.Clientset, changed, gone func(string)) *View {
	t.Helper()
	v, err := NewView(client, changed, gone)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() {
		cancel()
		v.Stop()
	})
	if err := v.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return v
}

func none(string) {}

func TestPodsThatKeepANodeFromRestarting(t *testing.T) {
	leaving := pod("leaving", "gpu-1", corev1.PodRunning)
	leaving.DeletionTimestamp, leaving.Finalizers = &metav1.Time{Time: noon}, []string{"example.com/x"}
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		says string
	}{
		"running":                 {pod("p", "gpu-1", corev1.PodRunning), ""},
		"done":                    {pod("p", "gpu-1", corev1.PodSucceeded), ""},
		"on another node":         {pod("p", "gpu-2", corev1.PodPending), ""},
		"not scheduled":           {pod("p", "", corev1.PodPending), ""},
		"being created":           {pod("p", "gpu-1", corev1.PodPending, "ContainerCreating"), "pod default/p is Pending"},
		"just scheduled":          {pod("p", "gpu-1", corev1.PodPending), "is Pending"},
		"terminating":             {leaving, "pod default/leaving is Terminating"},
		"cannot pull":             {pod("p", "gpu-1", corev1.PodPending, "ImagePullBackOff"), ""},
		"an init image is absent": {pod("p", "gpu-1", corev1.PodPending, "ErrImagePull", "PodInitializing"), ""},
		"one of two is created":   {pod("p", "gpu-1", corev1.PodPending, "ImagePullBackOff", "ContainerCreating"), "is Pending"},
	} {
		t.Run(name, func(t *testing.T) {
			v := viewOf(t, fake.NewClientset(c.pod), none, none)
			if got := v.Busy("gpu-1"); (got == "") != (c.says == "") || !strings.Contains(got, c.says) {
				t.Errorf("%q, want %q", got, c.says)
			}
		})
	}
}

func TestWhatAViewKeepsOfNodes(t *testing.T) {
	full := joining()
	full.Labels[controlPlaneLabel] = ""
	full.Annotations[PreheatAnnotation] = "llama"
	full.Status.Images = make([]corev1.ContainerImage, 50)
	full.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubelet"}}
	changed, gone := make(chan string, 10), make(chan string, 10)
	client := fake.NewClientset(full)
	v := viewOf(t, client, func(n string) { changed <- n }, func(n string) { gone <- n })
	node, ok := v.Node("gpu-1")
	if !ok || !node.ControlPlane || !node.Works || node.Preheat != "llama" || node.UID != "u1" || node.Labels["pool"] != "gpu" {
		t.Errorf("%+v", node)
	}
	light := v.Get("gpu-1")
	if len(light.Status.Images) != 0 || len(light.ManagedFields) != 0 || light.Annotations["theirs"] != "" || len(light.Spec.Taints) != 2 {
		t.Errorf("%+v", light)
	}
	if _, ok := v.Node("gpu-2"); ok || v.Get("gpu-2") != nil || len(v.Names()) != 1 || len(v.Down()) != 0 {
		t.Error("a node that is not there")
	}
	if got := <-changed; got != "gpu-1" {
		t.Error(got)
	}
	update := func(f func(*corev1.Node)) {
		t.Helper()
		f(full)
		if _, err := client.CoreV1().Nodes().Update(t.Context(), full, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// Our own labels and what kubelets say again and again are no news; a node that does not work any more is seen all the same.
	update(func(n *corev1.Node) { n.Labels[ReadyLabel] = "true" })
	update(func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionFalse })
	await(t, "the node is down", func() bool { return len(v.Down()) == 1 })
	if len(changed) != 0 {
		t.Error("no news is told")
	}
	update(func(n *corev1.Node) { n.Annotations[PreheatAnnotation] = "other" })
	if got := <-changed; got != "gpu-1" {
		t.Error(got)
	}
	if err := client.CoreV1().Nodes().Delete(t.Context(), "gpu-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := <-gone; got != "gpu-1" {
		t.Error(got)
	}
}

func TestWhereAPodRuns(t *testing.T) {
	v := viewOf(t, fake.NewClientset(pod("agent", "gpu-1", corev1.PodRunning)), none, none)
	if node, ok := v.NodeOfPod("default", "agent", "uid-1"); !ok || node != "gpu-1" {
		t.Error(node, ok)
	}
	if _, ok := v.NodeOfPod("default", "agent", "an earlier one"); ok {
		t.Error("another pod of this name is taken for it")
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: it did not come true", what)
		}
	}
}
