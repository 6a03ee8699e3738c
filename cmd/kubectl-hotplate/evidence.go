package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// componentLabel says of a pod of the chart's what it is.
const (
	componentLabel = "app.kubernetes.io/component"
	agentComponent = "agent"
	coordComponent = "coordinator"
)

// evidence is all that doctor looks at. It concludes by this alone.
type evidence struct {
	now       time.Time
	namespace string
	// leader is the pod that holds the Lease; leadErr why there is none, askErr why it does not answer.
	leader          string
	leadErr, askErr error
	heard           []coordinator.NodeStatus
	// reports have what of the nodes in heard could be had; unasked are so many.
	reports map[string]coordinator.NodeStatus
	unasked int
	nodes   []corev1.Node
	pods    []corev1.Pod // of hotplate's namespace
	podsErr error
	// warnings are the newest of the kubelet's about pods that do not get on, by pod.
	warnings map[string]string
	server   string // the API server's version
	// config is nil if nobody has written one.
	config    *corev1.ConfigMap
	configErr error
	// announced is where agents find the coordinator; nil if it is not there.
	announced    *corev1.ConfigMap
	announcedErr error
	rollout      *corev1.ConfigMap
	restarts     coordinator.Rollout
	requests     []request
	// unseen are what could not be looked at, and why.
	unseen []error
}

// examine looks at everything.
func (c cluster) examine(ctx context.Context) *evidence {
	e := &evidence{now: c.now(), namespace: c.namespace}
	see := func(err error) {
		if err != nil {
			e.unseen = append(e.unseen, err)
		}
	}
	if e.leader, e.leadErr = c.leader(ctx); e.leadErr == nil {
		e.heard, e.askErr = c.heard(ctx)
	} else if !errors.Is(e.leadErr, errNoLeader) {
		see(e.leadErr)
		e.leadErr = nil
	}
	slices.SortStableFunc(e.heard, func(a, b coordinator.NodeStatus) int { // who is not well is asked first
		return cmp.Compare(wellness(a), wellness(b))
	})
	var err error
	e.unasked = max(len(e.heard)-maxReports, 0)
	e.reports, err = c.reports(ctx, e.heard)
	see(err)
	e.nodes, err = c.nodes(ctx, "")
	see(err)
	pods, err := c.api.CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{})
	if err == nil {
		e.pods = pods.Items
	} else {
		e.podsErr = fmt.Errorf("list pods: %w", err)
		see(e.podsErr)
	}
	e.warnings, err = c.warnings(ctx, e.pods)
	see(err)
	if v, err := c.api.Discovery().ServerVersion(); err != nil {
		see(fmt.Errorf("ask the API server for its version: %w", err))
	} else {
		e.server = v.GitVersion
	}
	e.config, e.configErr = c.configMap(ctx, configName)
	see(e.configErr)
	e.announced, e.announcedErr = c.configMap(ctx, report.CoordinatorName)
	see(e.announcedErr)
	e.rollout, e.restarts, err = c.rollout(ctx)
	see(err)
	e.requests, err = c.requests(ctx)
	see(err)
	return e
}

// creating is what the kubelet says of a container as long as a volume is missing; an Event says which.
const creating = "ContainerCreating"

// warnings are asked for where only they say why a pod does not get on.
func (c cluster) warnings(ctx context.Context, pods []corev1.Pod) (map[string]string, error) {
	if !slices.ContainsFunc(pods, func(pod corev1.Pod) bool { return trouble(pod) == creating }) {
		return nil, nil
	}
	events, err := c.api.CoreV1().Events(c.namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Pod,type=Warning"})
	if err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	slices.SortStableFunc(events.Items, func(a, b corev1.Event) int { return a.LastTimestamp.Compare(b.LastTimestamp.Time) })
	newest := map[string]string{}
	for _, is := range events.Items {
		if is.InvolvedObject.Kind == "Pod" && is.Type == corev1.EventTypeWarning {
			newest[is.InvolvedObject.Name] = is.Reason + ": " + is.Message
		}
	}
	return newest, nil
}

func wellness(n coordinator.NodeStatus) int {
	if n.Ready == report.True {
		return 1
	}
	return 0
}

// configMap is nil where there is none.
func (c cluster) configMap(ctx context.Context, name string) (*corev1.ConfigMap, error) {
	is, err := c.api.CoreV1().ConfigMaps(c.namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read configmap/%s: %w", name, err)
	}
	return is, nil
}

// agentOn is the agent's pod on a node.
func (e *evidence) agentOn(node string) *corev1.Pod {
	for i, pod := range e.pods {
		if pod.Labels[componentLabel] == agentComponent && pod.Spec.NodeName == node && pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded {
			return &e.pods[i]
		}
	}
	return nil
}

// trouble is what keeps a pod from being ready; empty if it is.
func trouble(pod corev1.Pod) string {
	if pod.Status.Phase == corev1.PodFailed {
		return fmt.Sprintf("Failed, %s: %s", pod.Status.Reason, pod.Status.Message)
	}
	for _, c := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		if w := c.State.Waiting; w != nil {
			s := w.Reason
			if w.Message != "" {
				s += ": " + w.Message
			}
			if last := c.LastTerminationState.Terminated; last != nil {
				s += fmt.Sprintf(" (it ended with code %d)", last.ExitCode)
			}
			return s
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return "not scheduled: " + c.Message
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status != corev1.ConditionTrue {
			return "not ready"
		}
	}
	return ""
}
