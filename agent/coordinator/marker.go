package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
)

const (
	// FieldManager owns what the coordinator writes.
	FieldManager = "hotplate-coordinator"
	// markers is how many Nodes are written at once.
	markers = 8
	// rewordAfter is how long a message stays before the same state is said in other words; rewordReady that of a node that is
	// Ready, which makes no progress: a person has just done something, such as to write a config that it rejects.
	rewordAfter = time.Minute
	rewordReady = 5 * time.Second
	// settleFor is how long a change waits for more changes of the same node.
	settleFor = 200 * time.Millisecond
	// seenAfter is how long what was written may take to be seen on the Node. If it is not there then, somebody has taken it away.
	seenAfter = 30 * time.Second
	// markTimeout bounds the writes of one node.
	markTimeout = 30 * time.Second
	// markRetryMin and markRetryMax are between tries to write a Node that could not be written.
	markRetryMin = time.Second
	markRetryMax = time.Minute
)

// MarkerConfig is what a Marker needs. All fields are required.
type MarkerConfig struct {
	Nodes corev1client.NodeInterface
	// Get is the Node as it was seen last; nil if there is none.
	Get func(name string) *corev1.Node
	// Conclude says what has become of a node; false if nothing can be said. had tells whether the Node has marks of ours.
	Conclude func(node *corev1.Node, had bool) (Conclusion, bool)
	// Ready is told when a node has become Ready, after how long.
	Ready  func(after time.Duration)
	Events events.EventRecorder
	Log    *slog.Logger
}

// Marker writes on Nodes what the coordinator concludes of them, and only what is new. Look may be called from any goroutine,
// Run once.
type Marker struct {
	cfg   MarkerConfig
	queue workqueue.TypedRateLimitingInterface[string]

	writes atomic.Int64

	mu   sync.Mutex
	last map[string]written // guarded by mu
}

// written is what was written on a Node last. The Node itself may be seen later.
type written struct {
	uid  types.UID
	is   marks
	when time.Time
}

// NewMarker returns a Marker that has nothing to do.
func NewMarker(cfg MarkerConfig) (*Marker, error) {
	if cfg.Nodes == nil || cfg.Get == nil || cfg.Conclude == nil || cfg.Ready == nil || cfg.Events == nil || cfg.Log == nil {
		return nil, errors.New("marker: all fields of MarkerConfig are required")
	}
	return &Marker{cfg: cfg, last: map[string]written{}, queue: workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](markRetryMin, markRetryMax))}, nil
}

// Look has a node looked at soon.
func (m *Marker) Look(node string) { m.queue.AddAfter(node, settleFor) }

// Close ends what is waiting. Run does it too.
func (m *Marker) Close() { m.queue.ShutDown() }

// Writes is how many requests have written to the API.
func (m *Marker) Writes() int64 { return m.writes.Load() }

// Run works until ctx ends.
func (m *Marker) Run(ctx context.Context) {
	var g sync.WaitGroup
	for range markers {
		g.Go(func() {
			for m.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	m.Close()
	g.Wait()
}

func (m *Marker) next(ctx context.Context) bool {
	name, ended := m.queue.Get()
	if ended {
		return false
	}
	defer m.queue.Done(name)
	one, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	again, err := m.mark(one, name)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		m.cfg.Log.Warn("the state of a node is not written on it; trying again", "node", name, "err", err)
		m.queue.AddRateLimited(name)
		return true
	case again > 0:
		m.queue.AddAfter(name, again)
	}
	m.queue.Forget(name)
	return true
}

// mark writes what is new of a node. again is when it must be looked at again; 0 if when something happens.
func (m *Marker) mark(ctx context.Context, name string) (again time.Duration, err error) {
	node := m.cfg.Get(name)
	if node == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.last, name)
		return 0, nil
	}
	is, when := m.seen(node)
	c, ok := m.cfg.Conclude(node, is.marked())
	if !ok {
		return 0, nil
	}
	want := marksOf(c)
	if !want.transition(is) {
		if want.status == is.status && sameConditions(want.conditions, is.conditions) {
			return 0, m.untaint(ctx, node, want)
		}
		after := rewordAfter
		if want.untaint {
			after = rewordReady
		}
		if wait := after - time.Since(when); wait > 0 {
			return wait, m.untaint(ctx, node, want)
		}
	}
	now, err := m.write(ctx, node, want, is)
	if err != nil {
		return 0, err
	}
	m.tell(node, want, is)
	return 0, m.untaint(ctx, now, want)
}

// seen is what the Node says, or will say when what was written is seen, and when that was written.
func (m *Marker) seen(node *corev1.Node) (marks, time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	last, ok := m.last[node.Name]
	switch {
	case !ok || last.uid != node.UID:
		is := ours(node)
		return is, is.written(time.Now())
	case time.Since(last.when) < seenAfter:
		return last.is, last.when
	}
	return ours(node), last.when
}

// write applies the marks, and returns the Node as it is then. The UID keeps a Node that is gone from being made anew.
func (m *Marker) write(ctx context.Context, node *corev1.Node, want, is marks) (*corev1.Node, error) {
	opts := metav1.ApplyOptions{FieldManager: FieldManager, Force: true}
	now := metav1.Now()
	status := applycorev1.NodeStatus()
	for i, c := range want.conditions {
		want.conditions[i].LastTransitionTime, want.conditions[i].LastHeartbeatTime = now, now
		for _, old := range is.conditions {
			if old.Type == c.Type && old.Status == c.Status && !old.LastTransitionTime.IsZero() {
				want.conditions[i].LastTransitionTime = old.LastTransitionTime
			}
		}
		c = want.conditions[i]
		status.WithConditions(applycorev1.NodeCondition().WithType(c.Type).WithStatus(c.Status).WithReason(c.Reason).
			WithMessage(c.Message).WithLastTransitionTime(c.LastTransitionTime).WithLastHeartbeatTime(c.LastHeartbeatTime))
	}
	m.writes.Add(1)
	if _, err := m.cfg.Nodes.ApplyStatus(ctx, applycorev1.Node(node.Name).WithUID(node.UID).WithStatus(status), opts); err != nil {
		return node, ignoreGone(fmt.Errorf("write conditions: %w", err))
	}
	m.writes.Add(1)
	meta := applycorev1.Node(node.Name).WithUID(node.UID).WithLabels(want.labels)
	if want.status != "" {
		meta.WithAnnotations(map[string]string{StatusAnnotation: want.status})
	}
	after, err := m.cfg.Nodes.Apply(ctx, meta, opts)
	if err != nil {
		return node, ignoreGone(fmt.Errorf("write labels: %w", err))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last[node.Name] = written{uid: node.UID, is: want, when: now.Time}
	return after, nil
}

// ignoreGone takes a Node that is gone for success: whoever deleted it wants nothing written on it.
func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// untaint removes the startup taint. Taints are one value as a whole, so that somebody else's change in between must be seen:
// the request fails then, and is tried again.
func (m *Marker) untaint(ctx context.Context, node *corev1.Node, want marks) error {
	if !want.untaint || !tainted(node) {
		return nil
	}
	taints := []corev1.Taint{}
	for _, t := range node.Spec.Taints {
		if t.Key != StartupTaint {
			taints = append(taints, t)
		}
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID, "resourceVersion": node.ResourceVersion},
		"spec":     map[string]any{"taints": taints},
	})
	if err != nil {
		return fmt.Errorf("encode taints: %w", err)
	}
	m.writes.Add(1)
	_, err = m.cfg.Nodes.Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: FieldManager})
	if apierrors.IsConflict(err) { // the newer Node is about to be seen
		m.queue.AddAfter(node.Name, settleFor)
		return nil
	}
	if err != nil {
		return ignoreGone(fmt.Errorf("remove the startup taint: %w", err))
	}
	m.cfg.Events.Eventf(node, nil, corev1.EventTypeNormal, "HotplateUntainted", "Untaint", "removed the startup taint: the node is Ready")
	return nil
}

// tell makes an Event of a transition.
func (m *Marker) tell(node *corev1.Node, want, is marks) {
	if !want.transition(is) {
		return
	}
	for _, c := range want.conditions {
		said := false
		for _, old := range is.conditions {
			said = said || old.Type == c.Type && old.Status == c.Status && old.Reason == c.Reason
			if c.Type == ConditionReady && old.Type == c.Type && c.Status == corev1.ConditionTrue && old.Status != c.Status {
				m.cfg.Ready(c.LastTransitionTime.Sub(old.LastTransitionTime.Time))
			}
		}
		if said {
			continue
		}
		level := corev1.EventTypeNormal
		if c.Status != corev1.ConditionTrue && c.Reason != ReasonPreparing {
			level = corev1.EventTypeWarning
		}
		m.cfg.Log.Info("node", "node", node.Name, "condition", string(c.Type), "status", string(c.Status), "reason", c.Reason, "message", c.Message)
		m.cfg.Events.Eventf(node, nil, level, eventReason(c), "Conclude", "%s", c.Message)
	}
}

// eventReason is what people filter Events by: HotplateReady, HotplateImageFailed, HotplatePreheatInvalid.
func eventReason(c corev1.NodeCondition) string {
	if c.Type == ConditionPreheat {
		return "HotplatePreheat" + c.Reason
	}
	return "Hotplate" + c.Reason
}
