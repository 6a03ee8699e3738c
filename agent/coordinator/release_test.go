package coordinator

import (
	"encoding/json"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// resting is what a node reports that is asked to become as it was; message says why it is not yet.
func resting(message string) report.NodeReport {
	is := report.Condition{Type: report.Released, Status: report.False, Message: message}
	if message == "" {
		is.Status = report.True
	}
	return report.NodeReport{Released: message == "", Conditions: []report.Condition{is}}
}

func TestNodesAreReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		if d := c.report("gpu-0", report.NodeReport{}); d.Release {
			t.Error("released before anybody asked")
		}
		c.report("gpu-2", report.NodeReport{})
		time.Sleep(SilentAfter)
		c.report("gpu-0", report.NodeReport{})
		c.report("gpu-1", report.NodeReport{})
		if _, asked := c.Releasing(nil); asked {
			t.Error("a release is under way that nobody asked for")
		}
		c.changed = map[string]int{}
		c.SetRelease("now", Release{})
		if c.changed["gpu-0"] == 0 {
			t.Error("nodes are not looked at again")
		}
		if d := c.report("gpu-0", report.NodeReport{}); !d.Release || d.NextReport != workInterval {
			t.Errorf("%+v", d)
		}
		c.concluded("gpu-0", report.False, ReasonReleasing, false)
		c.report("gpu-0", resting("containerd is away"))
		c.report("gpu-1", resting(""))
		c.concluded("gpu-1", "", "", true)
		c.concluded("gpu-2", "", "", true) // it is silent, and its marks must not stay
		c.concluded("gpu-3", "", "", true) // it has never had an agent, but may have the taint
		marked := []string{"gpu-0", "gpu-4"}
		want := Release{Asked: "now", Nodes: 4, Released: 1, Waiting: map[string]string{"gpu-0": "containerd is away"},
			Unreached: []string{"gpu-2", "gpu-4"}}
		if is, asked := c.Releasing(marked); !asked || !is.same(want) {
			t.Errorf("%+v, want %+v", is, want)
		}
		if d := c.report("gpu-0", resting("")); !d.Release || d.NextReport != idleInterval {
			t.Errorf("%+v", d)
		}
		want.Released, want.Waiting, want.Done = 2, nil, true
		if is, _ := c.Releasing(nil); !is.same(want) {
			t.Errorf("%+v, want %+v", is, want)
		}

		// Another leader goes on, but is not done before it has heard everybody.
		before := want
		c.lead()
		c.SetRelease("now", before)
		if is, _ := c.Releasing([]string{"gpu-5"}); is.Done || !slices.Equal(is.Unreached, before.Unreached) {
			t.Errorf("a new leader says: %+v", is)
		}
		if _, known := c.Conclude(c.nodes["gpu-0"], true); known {
			t.Error("a new leader concludes of a node that it has not heard")
		}
		time.Sleep(SilentAfter)
		c.report("gpu-0", resting(""))
		c.report("gpu-1", resting(""))
		if is, _ := c.Releasing(nil); !is.same(want) {
			t.Errorf("%+v, want %+v", is, want)
		}

		c.SetRelease("", Release{})
		if d := c.report("gpu-0", resting("")); d.Release {
			t.Error("it is not wanted again")
		}
	})
}

// concluded fails the test unless that is what a node comes to.
func (c *cluster) concluded(node string, status report.ConditionStatus, reason string, released bool) {
	c.Helper()
	is, known := c.Conclude(c.nodes[node], false)
	if !known || is.Status != status || is.Reason != reason || is.Released != released {
		c.Errorf("%s: %v, %+v", node, known, is)
	}
}

func TestAReleaseIsAskedForInTheConfigMap(t *testing.T) {
	client := fake.NewClientset()
	maps := client.CoreV1().ConfigMaps("hotplate")
	k := newKeeper(t, client, "")
	if err := k.Keep(t.Context(), Rollout{Proven: "h"}); err != nil {
		t.Fatal(err)
	}
	is, err := maps.Get(t.Context(), RolloutName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	is.Annotations = map[string]string{ReleaseAnnotation: "noon"}
	if _, err := maps.Update(t.Context(), is, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, said, err := k.Rollout(t.Context()); err != nil || said.Release != "noon" || said.Released != nil {
		t.Errorf("%+v, %v", said, err)
	}
	want := Release{Asked: "noon", Nodes: 3, Unreached: []string{"gpu-1"}}
	if err := k.KeepRelease(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	r, said, err := newKeeper(t, client, "").Rollout(t.Context())
	if err != nil || r.Proven != "h" || said.Released == nil || !said.Released.same(want) {
		t.Errorf("%+v, %+v, %v", r, said.Released, err)
	}

	// When everything is deleted, nodes stay released, and nothing is made anew.
	if err := maps.Delete(t.Context(), RolloutName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, said, err := k.Rollout(t.Context()); err != nil || said.Release != "noon" {
		t.Errorf("%+v, %v", said, err)
	}
	if err := k.KeepRelease(t.Context(), want); err != nil {
		t.Error(err)
	}
	if all, err := maps.List(t.Context(), metav1.ListOptions{}); err != nil || len(all.Items) != 0 {
		t.Errorf("%d ConfigMaps, %v", len(all.Items), err)
	}
}

// What is named is bounded: the object must not grow with the cluster.
func TestAReleaseNamesTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.SetRelease("now", Release{})
		long := make([]byte, 2<<10)
		for i := range long {
			long[i] = 'x'
		}
		var marked []string
		for _, name := range manyNames(2 * maxUnreached) {
			c.nodes["w"+name] = Node{Name: "w" + name}
			c.report("w"+name, resting(string(long)))
			marked = append(marked, "s"+name)
		}
		time.Sleep(SilentAfter - time.Second)
		for name := range c.nodes {
			if name[0] == 'w' {
				c.report(name, resting(string(long)))
			}
		}
		time.Sleep(time.Second)
		is, _ := c.Releasing(marked)
		if is.Nodes != 4*maxUnreached || len(is.Waiting) != maxWaiting || len(is.Unreached) != maxUnreached || !slices.IsSorted(is.Unreached) {
			t.Errorf("%d nodes, %d waiting, %d unreached", is.Nodes, len(is.Waiting), len(is.Unreached))
		}
		if text, err := json.Marshal(is); err != nil || len(text) > 512<<10 {
			t.Errorf("it takes %d bytes, %v", len(text), err)
		}
	})
}

func manyNames(n int) (all []string) {
	for i := range n {
		all = append(all, string(rune('a'+i/676%26))+string(rune('a'+i/26%26))+string(rune('a'+i%26)))
	}
	return all
}
