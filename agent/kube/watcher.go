package kube

import (
	"context"
	"log/slog"
	"sync"

	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

// watcher follows objects of one namespace, each by itself, until it is closed.
type watcher struct {
	client    kubernetes.Interface
	namespace string
	logs      klog.Logger
	ctx       context.Context // ends with Close
	end       context.CancelFunc
	work      *sync.WaitGroup // the Reflectors
}

func newWatcher(client kubernetes.Interface, namespace string, log *slog.Logger) watcher {
	w := watcher{client: client, namespace: namespace, logs: clientLogger(log), work: new(sync.WaitGroup)}
	w.ctx, w.end = context.WithCancel(context.Background())
	return w
}

// Close ends the watching, and all that waits for it, and waits for what was begun. It may be called more than once.
func (w watcher) Close() error {
	w.end()
	w.work.Wait()
	return nil
}

// watch begins to follow an object. What has changed is told to tell, which must have capacity 1.
func (w watcher) watch(r ref, tell chan<- struct{}) *object {
	ctx, cancel := context.WithCancel(w.ctx)
	o := &object{ref: r, stop: cancel, changed: func() {
		select {
		case tell <- struct{}{}:
		default:
		}
	}}
	w.work.Go(func() { o.follow(ctx, w.client, w.namespace, w.logs) })
	return o
}
