package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/events"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// marking is a Marker with an API server in memory and conclusions that a test draws.
type marking struct {
	*testing.T
	*Marker
	client *fake.Clientset
	events *events.FakeRecorder

	mu    sync.Mutex
	is    Conclusion
	known bool
	fails error
	stale *corev1.Node // what the cache has, where that is not the newest
	took  []time.Duration
}

func startMarking(t *testing.T, nodes ...runtime.Object) *marking {
	t.Helper()
	m := &marking{T: t, client: fake.NewClientset(nodes...), events: events.NewFakeRecorder(1000), known: true}
	apply := clienttesting.ObjectReaction(m.client.Tracker())
	m.client.PrependReactor("patch", "nodes", func(action clienttesting.Action) (bool, runtime.Object, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.fails != nil {
			return true, nil, m.fails
		}
		// An API server keeps apart what one manager owns of an object and of its status.
		patch := action.(clienttesting.PatchActionImpl)
		patch.PatchOptions.FieldManager += patch.Subresource
		return apply(patch)
	})
	var err error
	m.Marker, err = NewMarker(MarkerConfig{Nodes: m.client.CoreV1().Nodes(), Events: m.events, Log: slog.New(slog.DiscardHandler),
		Get: m.get, Ready: func(after time.Duration) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.took = append(m.took, after)
		},
		Conclude: func(*corev1.Node, bool) (Conclusion, bool) {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.is, m.known
		}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		m.Marker.Run(ctx)
		close(done)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return m
}

func (m *marking) get(name string) *corev1.Node {
	m.mu.Lock()
	stale := m.stale
	m.mu.Unlock()
	if stale != nil {
		return stale
	}
	node, err := m.client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return node
}

// conclude lets the Marker see a conclusion, and returns how often it wrote.
func (m *marking) conclude(status report.ConditionStatus, reason, message string, images map[string]ImageState) int64 {
	m.Helper()
	before := m.Writes()
	m.mu.Lock()
	m.is = Conclusion{Status: status, Reason: reason, Message: message, Images: images}
	m.mu.Unlock()
	m.Look("gpu-1")
	time.Sleep(time.Second)
	synctest.Wait()
	return m.Writes() - before
}

func (m *marking) told() (all []string) {
	for {
		select {
		case e := <-m.events.Events:
			all = append(all, e)
		default:
			return all
		}
	}
}

func joining() *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "gpu-1", UID: "u1", Labels: map[string]string{"pool": "gpu"}, Annotations: map[string]string{"theirs": "1"}},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: StartupTaint, Effect: corev1.TaintEffectNoSchedule},
			{Key: "theirs", Effect: corev1.TaintEffectNoSchedule}}},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}
}

func TestHowLongANodeWasNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMarking(t, joining())
		m.conclude(report.False, ReasonPreparing, "", nil)
		time.Sleep(time.Minute)
		m.conclude(report.False, ReasonFailed, "", nil) // which is still not Ready
		time.Sleep(time.Minute)
		m.conclude(report.True, ReasonReady, "", nil)
		m.conclude(report.True, ReasonReady, "in other words", nil)
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.took) != 1 || m.took[0].Round(10*time.Second) != 2*time.Minute {
			t.Errorf("it took %v", m.took)
		}
	})
}

func TestANodeIsMarkedOnTransitionsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMarking(t, joining())
		pending, ready := map[string]ImageState{"a": ImagePending}, map[string]ImageState{"a": ImageReady}
		if n := m.conclude(report.False, ReasonPreparing, "0 of 1; preparing: a", pending); n != 2 {
			t.Errorf("%d writes", n)
		}
		node := m.get("gpu-1")
		if node.Labels[ReadyLabel] != "false" || node.Labels[ImageLabels+"a"] != "pending" || node.Labels["pool"] != "gpu" ||
			node.Annotations["theirs"] != "1" || !strings.Contains(node.Annotations[StatusAnnotation], `"reason":"ImagesPreparing"`) {
			t.Errorf("%v %v", node.Labels, node.Annotations)
		}
		if len(node.Spec.Taints) != 2 || len(node.Status.Conditions) != 2 {
			t.Errorf("%v %v", node.Spec.Taints, node.Status.Conditions)
		}
		since := condition(node, ConditionReady).LastTransitionTime
		if n := m.conclude(report.False, ReasonPreparing, "0 of 1; preparing: a", pending); n != 0 {
			t.Errorf("the same is written again: %d", n)
		}
		// The same in other words waits for a minute.
		if n := m.conclude(report.False, ReasonPreparing, "more than 25 %", pending); n != 0 {
			t.Errorf("%d writes", n)
		}
		before := m.Writes()
		time.Sleep(rewordAfter)
		synctest.Wait()
		if is := condition(m.get("gpu-1"), ConditionReady); m.Writes()-before != 2 || is.Message != "more than 25 %" || !is.LastTransitionTime.Equal(&since) {
			t.Errorf("%d writes, %+v", m.Writes()-before, is)
		}
		if n := m.conclude(report.True, ReasonReady, "1 of 1 images", ready); n != 3 {
			t.Errorf("%d writes", n)
		}
		node = m.get("gpu-1")
		if len(node.Spec.Taints) != 1 || node.Spec.Taints[0].Key != "theirs" || node.Labels[ReadyLabel] != "true" {
			t.Errorf("%v %v", node.Spec.Taints, node.Labels)
		}
		// Of a node that is Ready other words are news.
		m.conclude(report.True, ReasonReady, "1 of 1 images; a newer config is rejected", ready)
		time.Sleep(rewordReady)
		synctest.Wait()
		if is := condition(m.get("gpu-1"), ConditionReady); !strings.Contains(is.Message, "rejected") {
			t.Errorf("%+v", is)
		}
		// An image that is not wanted any more has no label.
		m.conclude(report.True, ReasonReady, "no images", nil)
		if _, has := m.get("gpu-1").Labels[ImageLabels+"a"]; has {
			t.Error("a label stays")
		}
		m.conclude(report.Unknown, ReasonSilent, "no report", nil)
		want := []string{"HotplateImagesPreparing", "HotplateReady", "HotplateUntainted", "HotplateAgentSilent"}
		if got := m.told(); !slices.EqualFunc(got, want, strings.Contains) {
			t.Errorf("events %q, want %q", got, want)
		}
	})
}

func condition(node *corev1.Node, t corev1.NodeConditionType) corev1.NodeCondition {
	for _, c := range node.Status.Conditions {
		if c.Type == t {
			return c
		}
	}
	return corev1.NodeCondition{}
}

// TestANewLeaderWritesNothing when the Node says already what it concludes.
func TestANewLeaderWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMarking(t, joining())
		m.conclude(report.True, ReasonReady, "1 of 1 images", map[string]ImageState{"a": ImageReady})
		next := startMarking(t, m.get("gpu-1"))
		if n := next.conclude(report.True, ReasonReady, "1 of 1 images", map[string]ImageState{"a": ImageReady}); n != 0 {
			t.Errorf("%d writes", n)
		}
	})
}

// TestANewLeaderIsNoReasonForOtherWords: thousands of nodes that make progress would all be written when it begins.
func TestANewLeaderIsNoReasonForOtherWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMarking(t, joining())
		m.conclude(report.False, ReasonPreparing, "more than 25 %", nil)
		next := startMarking(t, m.get("gpu-1"))
		if n := next.conclude(report.False, ReasonPreparing, "more than 50 %", nil); n != 0 {
			t.Errorf("%d writes", n)
		}
		time.Sleep(rewordAfter)
		synctest.Wait()
		if is := condition(next.get("gpu-1"), ConditionReady); is.Message != "more than 50 %" {
			t.Errorf("%+v", is)
		}
	})
}

// TestTheCacheIsBehind: what was just written is not written again because it is not seen yet; what somebody takes away comes
// back.
func TestTheCacheIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMarking(t, joining())
		m.stale = m.get("gpu-1")
		m.conclude(report.False, "Away", "", nil)
		if n := m.conclude(report.False, "Away", "", nil); n != 0 {
			t.Errorf("%d writes", n)
		}
		time.Sleep(seenAfter)
		if n := m.conclude(report.False, "Away", "", nil); n != 2 {
			t.Errorf("%d writes", n)
		}
	})
}

// TestTheTaintGoesAtOnce: what was written just before made the Node another version than the cache has.
func TestTheTaintGoesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMarking(t, joining())
		m.stale = m.get("gpu-1")
		apply := clienttesting.ObjectReaction(m.client.Tracker())
		m.client.PrependReactor("patch", "nodes", func(action clienttesting.Action) (bool, runtime.Object, error) {
			patch := action.(clienttesting.PatchActionImpl)
			if patch.GetPatchType() != types.MergePatchType {
				patch.PatchOptions.FieldManager += patch.Subresource
				_, o, err := apply(patch)
				o.(*corev1.Node).ResourceVersion = "newest"
				return true, o, err
			}
			if !strings.Contains(string(patch.GetPatch()), `"resourceVersion":"newest"`) {
				return true, nil, apierrors.NewConflict(corev1.Resource("nodes"), "gpu-1", errors.New("it is another version"))
			}
			return false, nil, nil
		})
		if n := m.conclude(report.True, ReasonReady, "", nil); n != 3 {
			t.Errorf("%d writes, want one for the condition, one for labels and one for the taint", n)
		}
	})
}

func TestTheAPIIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMarking(t, joining())
		m.mu.Lock()
		m.fails = errors.New("connection refused")
		m.mu.Unlock()
		m.conclude(report.True, ReasonReady, "", nil)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := m.Writes(); n < 5 || n > 30 {
			t.Errorf("%d tries in ten minutes", n)
		}
		m.mu.Lock()
		m.fails = nil
		m.mu.Unlock()
		time.Sleep(markRetryMax)
		synctest.Wait()
		if node := m.get("gpu-1"); node.Labels[ReadyLabel] != "true" || tainted(node) {
			t.Errorf("%v %v", node.Labels, node.Spec.Taints)
		}
	})
}

func TestAReleasedNodeBearsNoMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMarking(t, joining())
		m.conclude(report.False, ReasonPreparing, "", map[string]ImageState{"a": ImagePending})
		m.mu.Lock()
		m.is = Conclusion{Released: true}
		m.mu.Unlock()
		m.Look("gpu-1")
		time.Sleep(time.Second)
		synctest.Wait()
		node := m.get("gpu-1")
		if ours(node).marked() || tainted(node) || node.Labels["pool"] != "gpu" || len(node.Spec.Taints) != 1 || len(node.Status.Conditions) != 1 {
			t.Errorf("%v %v %v %v", node.Labels, node.Annotations, node.Spec.Taints, node.Status.Conditions)
		}
	})
}

func TestNothingIsSaidOfWhatIsNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMarking(t, joining())
		m.known = false
		if n := m.conclude(report.True, ReasonReady, "", nil); n != 0 {
			t.Errorf("%d writes", n)
		}
		m.Look("gone")
		time.Sleep(time.Second)
		synctest.Wait()
		if m.Writes() != 0 {
			t.Error("a node that is gone is written")
		}
	})
}

func TestMarksAreBounded(t *testing.T) {
	c := Conclusion{Status: report.False, Reason: ReasonFailed, Message: strings.Repeat("ä", 10_000), Images: map[string]ImageState{},
		Faults: []string{strings.Repeat("x", 10_000)}}
	for i := range 1000 {
		c.Images[fmt.Sprintf("image-%d", i)] = ImageReady
	}
	m := marksOf(c)
	if len(m.labels) != 1+maxImageLabels || len(m.status) > 8<<10 {
		t.Errorf("%d labels, %d bytes", len(m.labels), len(m.status))
	}
	for _, is := range m.conditions {
		if len(is.Message) > maxMessage+8 {
			t.Errorf("%s has %d bytes", is.Type, len(is.Message))
		}
	}
	if m.conditions[1].Type != ConditionPreheat || m.conditions[1].Status != corev1.ConditionFalse {
		t.Errorf("%+v", m.conditions[1])
	}
}
