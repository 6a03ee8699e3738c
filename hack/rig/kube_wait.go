package rig

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// clusterWait bounds each wait for something in a cluster.
const clusterWait = 2 * time.Minute

// Await calls check until it returns nil. It gives up after two minutes, or when ctx ends; the error then has the last
// answer of check and what Describe says.
func (c *Cluster) Await(ctx context.Context, what string, check func(context.Context) error) error {
	const poll = 50 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, clusterWait)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // not what a check says that was interrupted
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; last answer: %w\n%s", what, ctx.Err(), last,
				c.Describe(context.WithoutCancel(ctx)))
		}
	}
}

// WaitNodesReady waits until the nodes are Ready, after their last boots, and pods can be scheduled on them as far as
// that is concerned.
func (c *Cluster) WaitNodesReady(ctx context.Context, names ...string) error {
	return c.Await(ctx, "nodes "+strings.Join(names, ", ")+" to be Ready", func(ctx context.Context) error {
		var errs []error
		for _, name := range names {
			errs = append(errs, c.nodeReady(ctx, name))
		}
		return errors.Join(errs...)
	})
}

// WaitNodeNotReady waits until the API says that the node is not Ready, or that nobody knows.
func (c *Cluster) WaitNodeNotReady(ctx context.Context, name string) error {
	return c.Await(ctx, "node "+name+" not to be Ready", func(ctx context.Context) error {
		node, err := c.nodeObject(ctx, name)
		if err != nil {
			return err
		}
		if status, _ := nodeCondition(node); status == corev1.ConditionTrue {
			return errors.New("it is Ready")
		}
		return nil
	})
}

func (c *Cluster) nodeObject(ctx context.Context, name string) (*corev1.Node, error) {
	var node corev1.Node
	return &node, c.get(ctx, "/api/v1/nodes/"+name, &node)
}

func (c *Cluster) nodeReady(ctx context.Context, name string) error {
	node, err := c.nodeObject(ctx, name)
	if err != nil {
		return err
	}
	if n := c.Node(name); n != nil {
		if id, err := n.BootID(); err != nil || id != node.Status.NodeInfo.BootID {
			return errors.Join(fmt.Errorf("%s has not reported since it booted", name), err)
		}
	}
	if status, message := nodeCondition(node); status != corev1.ConditionTrue {
		return fmt.Errorf("the condition Ready of %s is %s: %s", name, status, message)
	}
	for _, taint := range node.Spec.Taints {
		if taint.Key == corev1.TaintNodeNotReady || taint.Key == corev1.TaintNodeUnreachable {
			return fmt.Errorf("%s is tainted with %s", name, taint.Key)
		}
	}
	return nil
}

func nodeCondition(node *corev1.Node) (status corev1.ConditionStatus, message string) {
	for _, cond := range node.Status.Conditions {
		if cond.Type == corev1.NodeReady {
			return cond.Status, cond.Message
		}
	}
	return corev1.ConditionUnknown, "there is none"
}

// WaitPodsReady waits until there are at least that many pods with these labels, as "app=x", and all of them are Ready.
// It returns them.
func (c *Cluster) WaitPodsReady(ctx context.Context, namespace, selector string, count int) ([]corev1.Pod, error) {
	var pods corev1.PodList
	err := c.Await(ctx, fmt.Sprintf("%d pods %s to be Ready", count, selector), func(ctx context.Context) error {
		pods = corev1.PodList{}
		err := c.get(ctx, "/api/v1/namespaces/"+namespace+"/pods?labelSelector="+url.QueryEscape(selector), &pods)
		if err != nil {
			return err
		}
		if len(pods.Items) < count {
			return fmt.Errorf("there are %d", len(pods.Items))
		}
		for i := range pods.Items {
			if err := podReady(&pods.Items[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return pods.Items, err
}

// WaitPodReady waits until the pod is Ready, and returns it.
func (c *Cluster) WaitPodReady(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	var pod corev1.Pod
	err := c.Await(ctx, "pod "+name+" to be Ready", func(ctx context.Context) error {
		pod = corev1.Pod{}
		if err := c.get(ctx, "/api/v1/namespaces/"+namespace+"/pods/"+name, &pod); err != nil {
			return err
		}
		return podReady(&pod)
	})
	return &pod, err
}

func podReady(pod *corev1.Pod) error {
	for _, cond := range pod.Status.Conditions {
		if cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("pod %s is %s and not Ready", pod.Name, pod.Status.Phase)
}

// Describe is what a person would look at first when something does not come: nodes, pods, events, and the ends of logs.
func (c *Cluster) Describe(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var b strings.Builder
	for _, args := range [][]string{
		{"get", "nodes", "-o", "wide"}, {"get", "pods", "-A", "-o", "wide"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
	} {
		out, err := c.Kubectl(ctx, append(args, "--request-timeout=5s")...)
		fmt.Fprintf(&b, "--- kubectl %s:\n%s", strings.Join(args, " "), lastLines(out, 40))
		if err != nil {
			fmt.Fprintf(&b, "%v\n", err)
		}
	}
	for _, path := range c.LogPaths() {
		fmt.Fprintf(&b, "--- end of %s:\n%s\n", filepath.Base(filepath.Dir(path))+"/"+filepath.Base(path), tail(path))
	}
	return b.String()
}

func lastLines(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
