package coordinator

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// What the coordinator writes on a Node.
const (
	// ConditionReady is the type of the condition that says whether the node holds what it should. ConditionPreheat says
	// whether its annotation could be read; it is there only where there is one.
	ConditionReady   = "HotplateReady"
	ConditionPreheat = "HotplatePreheatValid"
	// ReadyLabel is true, false or unknown. ImageLabels with the name of an image behind it is its ImageState.
	ReadyLabel  = "hotplate.dev/ready"
	ImageLabels = "image.hotplate.dev/"
	// StatusAnnotation is a Summary.
	StatusAnnotation = "hotplate.dev/status"
	// StartupTaint keeps pods away from a node that joins, until it is Ready for the first time.
	StartupTaint = "hotplate.dev/not-ready"

	// maxMessage bounds a condition's message, in bytes. Kubernetes allows 32 KiB.
	maxMessage = 1024
	// maxImageLabels bounds how many images have a label of their own.
	maxImageLabels = 64
)

// Summary is what StatusAnnotation holds, as JSON.
type Summary struct {
	Ready   string                `json:"ready"`
	Reason  string                `json:"reason"`
	Message string                `json:"message,omitempty"`
	Images  map[string]ImageState `json:"images,omitempty"`
}

// marks are what a Node object should say.
type marks struct {
	labels     map[string]string
	status     string // the annotation
	conditions []corev1.NodeCondition
	// untaint tells that the startup taint is to go.
	untaint bool
}

// marksOf is what a conclusion is to be seen by.
func marksOf(c Conclusion) marks {
	if c.Released {
		return marks{labels: map[string]string{}, untaint: true}
	}
	m := marks{labels: map[string]string{ReadyLabel: strings.ToLower(string(c.Status))}, untaint: c.Status == report.True}
	summary := Summary{Ready: string(c.Status), Reason: c.Reason, Message: cut(c.Message), Images: map[string]ImageState{}}
	for i, name := range slices.Sorted(maps.Keys(c.Images)) {
		if i == maxImageLabels {
			break
		}
		state := c.Images[name]
		if c.Status != report.Unknown { // nobody knows it then
			m.labels[ImageLabels+name] = string(state)
		}
		summary.Images[name] = state
	}
	text, err := json.Marshal(summary)
	if err != nil {
		panic(fmt.Sprintf("encode a summary: %v", err)) // it has strings only
	}
	m.status = string(text)
	m.conditions = []corev1.NodeCondition{{Type: ConditionReady, Status: corev1.ConditionStatus(c.Status), Reason: c.Reason, Message: cut(c.Message)}}
	if len(c.Faults) > 0 {
		m.conditions = append(m.conditions, corev1.NodeCondition{Type: ConditionPreheat, Status: corev1.ConditionFalse, Reason: "Invalid",
			Message: cut("annotation " + PreheatAnnotation + ": " + strings.Join(c.Faults, "; "))})
	}
	return m
}

// cut shortens what is too long for a condition.
func cut(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	return strings.ToValidUTF8(s[:maxMessage], "") + " …"
}

// ours are the marks that a Node has.
func ours(node *corev1.Node) marks {
	m := marks{labels: map[string]string{}, status: node.Annotations[StatusAnnotation]}
	for key, value := range node.Labels {
		if isOurs(key) {
			m.labels[key] = value
		}
	}
	for _, c := range node.Status.Conditions {
		if c.Type == ConditionReady || c.Type == ConditionPreheat {
			m.conditions = append(m.conditions, c)
		}
	}
	return m
}

// written is when the conditions were written, by whoever led then; zero if there are none. The clock was another machine's: what
// would be in the future counts for nothing.
func (m marks) written(now time.Time) (last time.Time) {
	for _, c := range m.conditions {
		if c.LastHeartbeatTime.After(last) && !c.LastHeartbeatTime.After(now) {
			last = c.LastHeartbeatTime.Time
		}
	}
	return last
}

// isOurs tells whether a label is one that we write.
func isOurs(label string) bool { return label == ReadyLabel || strings.HasPrefix(label, ImageLabels) }

// marked tells whether anything of ours is on a Node.
func (m marks) marked() bool { return len(m.labels) > 0 || m.status != "" || len(m.conditions) > 0 }

// sameConditions compares what is said, and not when.
func sameConditions(a, b []corev1.NodeCondition) bool {
	byType := func(x, y corev1.NodeCondition) int { return strings.Compare(string(x.Type), string(y.Type)) }
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, byType)
	slices.SortFunc(b, byType)
	return slices.EqualFunc(a, b, func(x, y corev1.NodeCondition) bool {
		return x.Type == y.Type && x.Status == y.Status && x.Reason == y.Reason && x.Message == y.Message
	})
}

// transition tells whether m says something new, and not only the same in other words.
func (m marks) transition(is marks) bool {
	if !maps.Equal(m.labels, is.labels) || len(m.conditions) != len(is.conditions) {
		return true
	}
	for _, c := range m.conditions {
		i := slices.IndexFunc(is.conditions, func(o corev1.NodeCondition) bool { return o.Type == c.Type })
		if i < 0 || is.conditions[i].Status != c.Status || is.conditions[i].Reason != c.Reason {
			return true
		}
	}
	return false
}

// tainted tells whether a Node has the startup taint.
func tainted(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == StartupTaint })
}
