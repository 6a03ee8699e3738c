package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// leads answers like a leader: with the next of these, each time it is looked.
func leads(t *testing.T, client *fake.Clientset, answers ...coordinator.Release) {
	maps := client.CoreV1().ConfigMaps("hotplate")
	for _, answer := range answers {
		time.Sleep(3 * time.Second)
		is, err := maps.Get(t.Context(), coordinator.RolloutName, metav1.GetOptions{})
		if err != nil {
			t.Error(err)
			return
		}
		answer.Asked = is.Annotations[coordinator.ReleaseAnnotation]
		text, err := json.Marshal(answer)
		if err != nil {
			t.Error(err)
		}
		is.Data = map[string]string{coordinator.ReleaseKey: string(text)}
		if _, err := maps.Update(t.Context(), is, metav1.UpdateOptions{}); err != nil {
			t.Error(err)
		}
	}
}

func TestRelease(t *testing.T) {
	begun := coordinator.Release{Nodes: 3, Released: 1, Waiting: map[string]string{"a": "containerd is away", "b": ""}}
	for name, c := range map[string]struct {
		answers []coordinator.Release
		err     string
		says    []string
	}{
		"all": {answers: []coordinator.Release{begun, {Nodes: 3, Released: 3, Done: true}},
			says: []string{"1 of 3 nodes are", "all nodes are as they were before hotplate: 3"}},
		"not reached": {answers: []coordinator.Release{begun, {Nodes: 3, Released: 2, Unreached: []string{"c"}, Done: true}},
			err: "1 of 3 are left", says: []string{"not reached: c: its agent says nothing"}},
		"too late": {answers: []coordinator.Release{begun}, err: "2 of 3 are left",
			says: []string{"not released: a: containerd is away", "not released: b: its agent has not begun"}},
		"many":      {answers: []coordinator.Release{{Nodes: 9, Released: 1, Unreached: []string{"c"}, Done: true}}, err: "8 of 9", says: []string{"and 7 more"}},
		"new":       {answers: []coordinator.Release{{Nodes: 1, Released: 1}}, err: "has just started"},
		"no leader": {err: "no coordinator has answered"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := fake.NewClientset()
				var out bytes.Buffer
				r := releasing{maps: client.CoreV1().ConfigMaps("hotplate"), out: &out}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				asked, err := r.ask(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if again, err := r.ask(ctx); err != nil || again != asked {
					t.Errorf("asked again it is %s, not %s, %v", again, asked, err)
				}
				go leads(t, client, c.answers...)
				err = r.summary(r.wait(ctx, asked))
				if c.err == "" && err != nil || c.err != "" && (!errors.Is(err, errLeft) || !strings.Contains(err.Error(), c.err)) {
					t.Errorf("it ends with %v", err)
				}
				for _, part := range c.says {
					if strings.Count(out.String(), part) != 1 {
						t.Errorf("%q is not said once:\n%s", part, out.String())
					}
				}
			})
		})
	}
}

func TestReleaseIsUndone(t *testing.T) {
	client := fake.NewClientset()
	maps := client.CoreV1().ConfigMaps("hotplate")
	r := releasing{maps: maps, out: new(bytes.Buffer)}
	if err := r.undo(t.Context()); err != nil {
		t.Errorf("where nobody asked: %v", err)
	}
	// A leader has made the ConfigMap.
	if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: coordinator.RolloutName}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	asked, err := r.ask(t.Context())
	if is, gerr := maps.Get(t.Context(), coordinator.RolloutName, metav1.GetOptions{}); errors.Join(err, gerr) != nil ||
		is.Annotations[coordinator.ReleaseAnnotation] != asked || asked == "" {
		t.Fatalf("asked %q, %v", asked, errors.Join(err, gerr))
	}
	if err := r.undo(t.Context()); err != nil {
		t.Error(err)
	}
	is, err := maps.Get(t.Context(), coordinator.RolloutName, metav1.GetOptions{})
	if _, there := is.Annotations[coordinator.ReleaseAnnotation]; err != nil || there {
		t.Errorf("the annotation is there: %v, %v", there, err)
	}
}

func TestCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var out bytes.Buffer
		fails := func(part string) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			out.Reset()
			if err := check(ctx, client, "hotplate", &out); err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%v, want %q", err, part)
			}
			if out.Len() > 0 {
				t.Errorf("it prints %s", out.String())
			}
		}
		fails("read its Lease")
		leases := client.CoordinationV1().Leases("hotplate")
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: coordinator.LeaseName}, Spec: coordinationv1.LeaseSpec{
			HolderIdentity: new("pod-1"), RenewTime: new(metav1.NewMicroTime(time.Now().Add(-time.Hour)))}}
		if _, err := leases.Create(t.Context(), lease, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		fails("nobody renews its Lease")
		lease.Spec.RenewTime = new(metav1.NowMicro())
		if _, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		fails("pod-1 leads, but has not said where it is")
		if _, err := client.CoreV1().ConfigMaps("hotplate").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: report.CoordinatorName},
			Data: map[string]string{report.URLKey: "https://192.0.2.1:8443"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		fails("has heard no node yet")
		done := make(chan error)
		out.Reset()
		go func() { done <- check(t.Context(), client, "hotplate", &out) }()
		time.Sleep(2 * time.Second)
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "gpu-1"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: coordinator.ConditionReady, Status: corev1.ConditionFalse, Reason: coordinator.ReasonPreparing, Message: "0 of 1"}}}}
		if _, err := client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || !strings.Contains(out.String(), "gpu-1   False   ImagesPreparing   0 of 1") {
			t.Errorf("%v\n%s", err, out.String())
		}
	})
}
