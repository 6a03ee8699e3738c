package coordinator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

const (
	byNode = "node"
	// controlPlaneLabel is that of kubeadm and of everybody since (k8s.io/kubernetes/cmd/kubeadm, LabelNodeRoleControlPlane).
	controlPlaneLabel = "node-role.kubernetes.io/control-plane"
)

// View is what the API says of Nodes and Pods, kept up to date. It is safe for concurrent use.
type View struct {
	factory informers.SharedInformerFactory
	nodes   cache.SharedIndexInformer
	pods    cache.SharedIndexInformer
}

var _ Nodes = (*View)(nil)

// NewView returns a View that knows nothing before Start. changed is called with each Node that is new or another one than
// before, gone with each that is no more, both from one goroutine.
func NewView(client kubernetes.Interface, changed, gone func(node string)) (*View, error) {
	f := informers.NewSharedInformerFactory(client, 0)
	v := &View{factory: f, nodes: f.Core().V1().Nodes().Informer(), pods: f.Core().V1().Pods().Informer()}
	_, err := v.nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { changed(nameOfObject(o)) },
		UpdateFunc: func(old, is any) {
			if relevant(old, is) {
				changed(nameOfObject(is))
			}
		},
		DeleteFunc: func(o any) { gone(nameOfObject(o)) },
	})
	if err = errors.Join(err, v.nodes.SetTransform(lightNode), v.pods.SetTransform(lightPod), v.pods.AddIndexers(cache.Indexers{
		byNode: func(o any) ([]string, error) {
			if pod, ok := o.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
				return []string{pod.Spec.NodeName}, nil
			}
			return nil, nil
		},
	})); err != nil {
		return nil, fmt.Errorf("watch nodes and pods: %w", err)
	}
	return v, nil
}

// Start begins to watch, and returns when everything was seen once.
func (v *View) Start(ctx context.Context) error {
	v.factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), v.nodes.HasSynced, v.pods.HasSynced) {
		return fmt.Errorf("watch nodes and pods: %w", ctx.Err())
	}
	return nil
}

// Stop waits until nothing is watched any more. The context of Start must have ended.
func (v *View) Stop() { v.factory.Shutdown() }

func nameOfObject(o any) string {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		return gone.Key // a Node has no namespace
	}
	if node, ok := o.(*corev1.Node); ok {
		return node.Name
	}
	return ""
}

// relevant tells whether something has changed that anything follows from. Kubelets say every few minutes that all is as it was.
func relevant(old, is any) bool {
	a, ok := old.(*corev1.Node)
	b, ok2 := is.(*corev1.Node)
	if !ok || !ok2 {
		return true
	}
	return a.UID != b.UID || a.Annotations[PreheatAnnotation] != b.Annotations[PreheatAnnotation] || tainted(a) != tainted(b) ||
		!sameLabels(a.Labels, b.Labels)
}

// lightNode leaves of a Node what the coordinator asks for: most of one is lists of images and of managers of fields.
func lightNode(o any) (any, error) {
	node, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	light := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion, Labels: node.Labels,
			Annotations: map[string]string{}},
		Spec: corev1.NodeSpec{Taints: node.Spec.Taints},
	}
	for _, key := range []string{PreheatAnnotation, StatusAnnotation} {
		if value, ok := node.Annotations[key]; ok {
			light.Annotations[key] = value
		}
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady || c.Type == ConditionReady || c.Type == ConditionPreheat {
			light.Status.Conditions = append(light.Status.Conditions, c)
		}
	}
	return light, nil
}

// lightPod leaves of a Pod where it is and whether it is on its way.
func lightPod(o any) (any, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	light := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			DeletionTimestamp: pod.DeletionTimestamp},
		Spec: corev1.PodSpec{NodeName: pod.Spec.NodeName}, Status: corev1.PodStatus{Phase: pod.Status.Phase},
	}
	if pod.Status.Phase == corev1.PodPending && waitsForImages(pod) {
		light.Status.Reason = waitingForImages
	}
	return light, nil
}

const waitingForImages = "hotplate.dev/waits-for-images"

// waitsForImages tells whether all that keeps a pod from running are images that cannot be pulled. It is created when they can
// be, which may be just what the restart is for; a restart interrupts nothing of it.
func waitsForImages(pod *corev1.Pod) bool {
	all := slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses)
	waits := false
	for _, c := range all {
		switch {
		case c.State.Waiting == nil:
		case slices.Contains([]string{"ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName"}, c.State.Waiting.Reason):
			waits = true
		case c.State.Waiting.Reason == "PodInitializing" && waits:
		default:
			return false
		}
	}
	return waits
}

// Get is a Node as it was seen last; nil if there is none. It must not be changed.
func (v *View) Get(name string) *corev1.Node {
	o, ok, err := v.nodes.GetStore().GetByKey(name)
	node, is := o.(*corev1.Node)
	if err != nil || !ok || !is {
		return nil
	}
	return node
}

// Names are those of all Nodes.
func (v *View) Names() []string { return v.nodes.GetStore().ListKeys() }

// Marked are the names of all Nodes that say something of hotplate.
func (v *View) Marked() (names []string) {
	for _, o := range v.nodes.GetStore().List() {
		if node, ok := o.(*corev1.Node); ok && ours(node).marked() {
			names = append(names, node.Name)
		}
	}
	return names
}

// Node implements Nodes.
func (v *View) Node(name string) (Node, bool) {
	node := v.Get(name)
	if node == nil {
		return Node{}, false
	}
	return nodeOf(node), true
}

func nodeOf(node *corev1.Node) Node {
	_, control := node.Labels[controlPlaneLabel]
	return Node{Name: node.Name, UID: string(node.UID), Labels: node.Labels, Preheat: node.Annotations[PreheatAnnotation],
		ControlPlane: control, Works: works(node)}
}

func works(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// Down implements Nodes.
func (v *View) Down() (down []string) {
	for _, o := range v.nodes.GetStore().List() {
		if node, ok := o.(*corev1.Node); ok && !works(node) {
			down = append(down, node.Name)
		}
	}
	slices.Sort(down)
	return down
}

// Busy implements Nodes.
func (v *View) Busy(node string) string {
	pods, err := v.pods.GetIndexer().ByIndex(byNode, node)
	if err != nil {
		return "its pods are not known: " + err.Error()
	}
	for _, o := range pods {
		pod, ok := o.(*corev1.Pod)
		switch {
		case !ok:
		case pod.DeletionTimestamp != nil:
			return fmt.Sprintf("pod %s/%s is Terminating", pod.Namespace, pod.Name)
		case pod.Status.Phase == corev1.PodPending && pod.Status.Reason != waitingForImages:
			return fmt.Sprintf("pod %s/%s is Pending", pod.Namespace, pod.Name)
		}
	}
	return ""
}

// NodeOfPod tells where a pod of the namespace runs.
func (v *View) NodeOfPod(namespace, name, uid string) (string, bool) {
	o, ok, err := v.pods.GetStore().GetByKey(namespace + "/" + name)
	pod, is := o.(*corev1.Pod)
	if err != nil || !ok || !is || string(pod.UID) != uid {
		return "", false
	}
	return pod.Spec.NodeName, true
}

// sameLabels compares labels without those that we write.
func sameLabels(a, b map[string]string) bool {
	theirs := func(labels map[string]string) map[string]string {
		out := map[string]string{}
		for key, value := range labels {
			if !isOurs(key) {
				out[key] = value
			}
		}
		return out
	}
	return maps.Equal(theirs(a), theirs(b))
}
