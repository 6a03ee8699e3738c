package coordinator

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/hotplate-dev/hotplate/agent/config"
)

const (
	// RequestLabel is, with the value true, on ConfigMaps of the own namespace that hold a preheat request. Who may make one is
	// who may make ConfigMaps there.
	RequestLabel = "hotplate.dev/preheat-request"
	// RequestKey holds the request, a RequestDocument as JSON.
	RequestKey = "request.json"
	// maxRequests bounds how many count, the oldest first.
	maxRequests = 1000
	// maxRequestNodes bounds how many nodes one may name.
	maxRequestNodes = 5000
)

// RequestDocument is what a ConfigMap with RequestLabel holds.
type RequestDocument struct {
	// Ref is the image as pods write it. Required.
	Ref string `json:"ref"`
	// Aliases, Platform and Priority are as in the config. Default: none, the node's, 0.
	Aliases  []string `json:"aliases,omitempty"`
	Platform string   `json:"platform,omitempty"`
	Priority int      `json:"priority,omitempty"`
	// NodeSelector and Nodes say where. Default: every node.
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	Nodes        []string          `json:"nodes,omitempty"`
}

// parseRequest reads a preheat request.
func parseRequest(is *corev1.ConfigMap) (Request, error) {
	dec := json.NewDecoder(bytes.NewReader([]byte(is.Data[RequestKey])))
	dec.DisallowUnknownFields()
	var d RequestDocument
	if err := dec.Decode(&d); err != nil {
		return Request{}, fmt.Errorf("key %s: %w", RequestKey, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Request{}, fmt.Errorf("key %s: there is something behind the request", RequestKey)
	}
	ref, err := config.ParseRef(d.Ref)
	if err != nil {
		return Request{}, fmt.Errorf("key %s: ref %w", RequestKey, err)
	}
	for _, alias := range d.Aliases {
		if _, err := config.ParseRef(alias); err != nil {
			return Request{}, fmt.Errorf("key %s: alias %w", RequestKey, err)
		}
	}
	if len(d.Nodes) > maxRequestNodes {
		return Request{}, fmt.Errorf("key %s: %d nodes are more than %d; use nodeSelector", RequestKey, len(d.Nodes), maxRequestNodes)
	}
	return Request{Name: is.Name, Selector: d.NodeSelector, Nodes: d.Nodes, Image: config.Image{Name: nameOf(ref), Ref: d.Ref,
		Aliases: d.Aliases, Platform: d.Platform, Priority: d.Priority, Pin: new(true)}}, nil
}

// requests watches preheat requests.
type requests struct {
	factory  informers.SharedInformerFactory
	informer cache.SharedIndexInformer
	log      *slog.Logger

	mu   sync.Mutex
	told map[string]string // what is wrong, as it was told last, by name; guarded by mu
}

// newRequests calls changed from one goroutine when there are others than before.
func newRequests(client kubernetes.Interface, namespace string, changed func(), log *slog.Logger) (*requests, error) {
	f := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = RequestLabel + "=true" }))
	r := &requests{factory: f, informer: f.Core().V1().ConfigMaps().Informer(), log: log, told: map[string]string{}}
	_, err := r.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { changed() }, UpdateFunc: func(any, any) { changed() }, DeleteFunc: func(any) { changed() },
	})
	if err != nil {
		return nil, fmt.Errorf("watch preheat requests: %w", err)
	}
	return r, nil
}

func (r *requests) start(ctx context.Context) error {
	r.factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), r.informer.HasSynced) {
		return fmt.Errorf("watch preheat requests: %w", ctx.Err())
	}
	return nil
}

func (r *requests) stop() { r.factory.Shutdown() }

// all are the requests that can be read, the oldest first. What is wrong with others is told once.
func (r *requests) all() (out []Request) {
	var maps []*corev1.ConfigMap
	for _, o := range r.informer.GetStore().List() {
		if is, ok := o.(*corev1.ConfigMap); ok && is.Labels[RequestLabel] == "true" {
			maps = append(maps, is)
		}
	}
	slices.SortFunc(maps, func(a, b *corev1.ConfigMap) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	wrong := map[string]string{}
	for i, is := range maps {
		request, err := parseRequest(is)
		if err == nil && i >= maxRequests {
			err = fmt.Errorf("%d requests are more than %d: delete those that are done", len(maps), maxRequests)
		}
		if err != nil {
			wrong[is.Name] = err.Error()
			continue
		}
		out = append(out, request)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, why := range wrong {
		if r.told[name] != why {
			r.log.Warn("preheat request is not followed", "configMap", name, "err", why)
		}
	}
	r.told = wrong
	return out
}
