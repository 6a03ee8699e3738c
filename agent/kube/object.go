package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// The kinds of object that are watched.
const (
	configMap = "ConfigMap"
	secret    = "Secret"
)

// ref names an object of the namespace.
type ref struct{ kind, name string }

func (r ref) String() string { return r.kind + " " + r.name }

// data is what an object holds, by key. It is not changed once it was read.
type data map[string][]byte

// object is one object as the API said last. It is the store of a Reflector, and safe for concurrent use.
type object struct {
	ref
	// changed is called, from the Reflector's goroutine, when there is something new to see.
	changed func()
	stop    context.CancelFunc // ends the Reflector

	mu    sync.Mutex // guards what follows
	known bool       // the API has said what it holds, or that it is not there
	data  data       // nil while it is not there
	err   error      // how the last question to the API ended
}

var _ cache.ReflectorStore = (*object)(nil)

// get returns what is known: nil data means that the object is not there.
func (o *object) get() (d data, known bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.data, o.known, o.err
}

// Add implements cache.ReflectorStore.
func (o *object) Add(obj any) error {
	if name, d := contents(obj); name == o.name {
		o.set(d)
	}
	return nil
}

// Update implements cache.ReflectorStore.
func (o *object) Update(obj any) error { return o.Add(obj) }

// Delete implements cache.ReflectorStore.
func (o *object) Delete(obj any) error {
	if name, _ := contents(obj); name == o.name {
		o.set(nil)
	}
	return nil
}

// Replace implements cache.ReflectorStore.
func (o *object) Replace(all []any, _ string) error {
	var is data
	for _, obj := range all {
		if name, d := contents(obj); name == o.name {
			is = d
		}
	}
	o.set(is)
	return nil
}

// Resync implements cache.ReflectorStore.
func (*object) Resync() error { return nil }

func (o *object) set(d data) {
	o.mu.Lock()
	o.known, o.data, o.err = true, d, nil
	o.mu.Unlock()
	o.changed()
}

// asked takes how a question to the API ended.
func (o *object) asked(err error) {
	o.mu.Lock()
	news := (err == nil) != (o.err == nil)
	o.err = err
	o.mu.Unlock()
	if news {
		o.changed()
	}
}

// contents is what of an object is kept. Whether it has any keys or not, the data are not nil.
func contents(obj any) (name string, d data) {
	d = make(data)
	switch o := obj.(type) {
	case *corev1.ConfigMap:
		for key, text := range o.Data {
			d[key] = []byte(text)
		}
		maps.Copy(d, o.BinaryData)
		return o.Name, d
	case *corev1.Secret:
		maps.Copy(d, o.Data)
		return o.Name, d
	}
	return "", nil
}

// follow keeps o up to date until ctx ends, and returns when its Reflector has ended.
func (o *object) follow(ctx context.Context, client kubernetes.Interface, namespace string, log klog.Logger) {
	lw, example := listWatch(client, namespace, o)
	r := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, client), example, o, cache.ReflectorOptions{
		Logger: &log, Name: o.String(),
		// As client-go's own, but for the cap: an agent should not be a minute late when the API is back.
		Backoff: &wait.Backoff{Duration: 800 * time.Millisecond, Factor: 2, Jitter: 1, Cap: retryMax, Steps: 100},
	})
	r.RunWithContext(klog.NewContext(ctx, log))
}

// retryMax is how long a Reflector waits at most, and up to as long again, before it asks an API that is away.
const retryMax = 10 * time.Second

// listWatch asks for o alone, and notes how that ends.
func listWatch(client kubernetes.Interface, namespace string, o *object) (*cache.ListWatch, runtime.Object) {
	only := fields.OneTermEqualSelector(metav1.ObjectNameField, o.name).String()
	lists := func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		return client.CoreV1().ConfigMaps(namespace).List(ctx, opts)
	}
	watches := func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
		return client.CoreV1().ConfigMaps(namespace).Watch(ctx, opts)
	}
	example := runtime.Object(&corev1.ConfigMap{})
	if o.kind == secret {
		lists = func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			return client.CoreV1().Secrets(namespace).List(ctx, opts)
		}
		watches = func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			return client.CoreV1().Secrets(namespace).Watch(ctx, opts)
		}
		example = &corev1.Secret{}
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			opts.FieldSelector = only
			list, err := lists(ctx, opts)
			if ctx.Err() == nil {
				o.asked(err)
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			opts.FieldSelector = only
			w, err := watches(ctx, opts)
			if ctx.Err() == nil && !apierrors.IsInvalid(err) { // a server that knows no streaming lists
				o.asked(err)
			}
			return w, err
		},
	}, example
}

// read asks for the object of r once.
func read(ctx context.Context, client kubernetes.Interface, namespace string, r ref) (d data, err error) {
	var obj runtime.Object
	if r.kind == secret {
		obj, err = client.CoreV1().Secrets(namespace).Get(ctx, r.name, metav1.GetOptions{})
	} else {
		obj, err = client.CoreV1().ConfigMaps(namespace).Get(ctx, r.name, metav1.GetOptions{})
	}
	switch {
	case apierrors.IsNotFound(err):
		return nil, absent(r, namespace)
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", r, err)
	}
	_, d = contents(obj)
	return d, nil
}

// errAbsent is the class of the error of an object that is not there.
var errAbsent = errors.New("create it there")

func absent(r ref, namespace string) error {
	return fmt.Errorf("%s does not exist in namespace %s; %w", r, namespace, errAbsent)
}

// refused reports whether the API has answered, and will not say what is asked: somebody has to change something.
func refused(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) }
