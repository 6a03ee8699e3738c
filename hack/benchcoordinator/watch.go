package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
)

// watch is what is said on Nodes. It is safe for concurrent use.
type watch struct {
	factory informers.SharedInformerFactory

	mu      sync.Mutex
	nodes   map[string]marks // guarded by mu
	lost    map[string]bool  // that said of the first image that it was there, and then something else
	unknown map[string]bool
}

// marks are what a Node says of hotplate.
type marks struct {
	ready, first, second string
	tainted              bool
}

func marksOf(n *corev1.Node) marks {
	return marks{ready: n.Labels[coordinator.ReadyLabel], first: n.Labels[coordinator.ImageLabels+"first"],
		second:  n.Labels[coordinator.ImageLabels+"second"],
		tainted: slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == coordinator.StartupTaint })}
}

// done tells whether a Node says that all is there.
func (m marks) done(both bool) bool {
	return m.ready == "true" && m.first == "ready" && !m.tainted && (!both || m.second == "ready")
}

// startWatch follows the Nodes until stop.
func startWatch(ctx context.Context, client kubernetes.Interface) (*watch, error) {
	w := &watch{factory: informers.NewSharedInformerFactory(client, 0), nodes: map[string]marks{}, lost: map[string]bool{}, unknown: map[string]bool{}}
	nodes := w.factory.Core().V1().Nodes().Informer()
	saw := func(o any) {
		if n, ok := o.(*corev1.Node); ok {
			w.see(n.Name, marksOf(n))
		}
	}
	_, err := nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: saw, UpdateFunc: func(_, o any) { saw(o) }})
	light := func(o any) (any, error) {
		if n, ok := o.(*corev1.Node); ok {
			n.ManagedFields, n.Status.Images = nil, nil
		}
		return o, nil
	}
	if err := errors.Join(err, nodes.SetTransform(light)); err != nil {
		return nil, fmt.Errorf("watch nodes: %w", err)
	}
	w.factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), nodes.HasSynced) {
		return nil, fmt.Errorf("watch nodes: %w", ctx.Err())
	}
	return w, nil
}

// stop waits until nothing is watched any more. The context of startWatch must have ended.
func (w *watch) stop() { w.factory.Shutdown() }

func (w *watch) see(name string, is marks) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.nodes[name].first == "ready" && is.first != "ready" {
		w.lost[name] = true
	}
	if is.ready == "unknown" {
		w.unknown[name] = true
	}
	w.nodes[name] = is
}

// done is how many Nodes say that all is there.
func (w *watch) done(both bool) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for is := range maps.Values(w.nodes) {
		if is.done(both) {
			n++
		}
	}
	return n
}

// faults are how many Nodes have lost the first image, and how many were Unknown, at any time.
func (w *watch) faults() (lost, unknown int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.lost), len(w.unknown)
}
