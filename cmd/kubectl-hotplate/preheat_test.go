package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/report"
)

func (d *desk) configMaps() (all []corev1.ConfigMap) {
	d.t.Helper()
	list, err := d.client.CoreV1().ConfigMaps("hotplate").List(d.t.Context(), metav1.ListOptions{})
	if err != nil {
		d.t.Fatal(err)
	}
	return list.Items
}

func TestPreheat(t *testing.T) {
	for args, want := range map[string]coordinator.RequestDocument{
		whisper + " --all":                   {Ref: whisper},
		whisper + " -l pool=gpu,zone=a":      {Ref: whisper, NodeSelector: map[string]string{"pool": "gpu", "zone": "a"}},
		whisper + " --node gpu-2,gpu-1":      {Ref: whisper, Nodes: []string{"gpu-1", "gpu-2"}},
		whisper + " --all --priority -3":     {Ref: whisper, Priority: -3},
		whisper + " --all --platform a/b":    {Ref: whisper, Platform: "a/b"},
		whisper + " --all --alias x.y/z:1":   {Ref: whisper, Aliases: []string{"x.y/z:1"}},
		whisper + "@" + digest + " -l pool=": {Ref: whisper + "@" + digest, NodeSelector: map[string]string{"pool": ""}},
	} {
		t.Run(args, func(t *testing.T) {
			d := newDesk(t, node("gpu-1", map[string]string{"pool": "gpu", "zone": "a"}), node("gpu-2", map[string]string{"pool": ""}))
			out, errOut, err := d.run(append([]string{"preheat"}, strings.Fields(args)...)...)
			if err != nil || errOut != "" {
				t.Fatal(err, errOut)
			}
			made := d.configMaps()
			if len(made) != 1 || made[0].Labels[coordinator.RequestLabel] != "true" || out != "configmap/"+made[0].Name+" created\n" ||
				!strings.HasPrefix(made[0].Name, "preheat-whisper-v1-") {
				t.Fatalf("%s: %+v", out, made)
			}
			var got coordinator.RequestDocument
			if err := json.Unmarshal([]byte(made[0].Data[coordinator.RequestKey]), &got); err != nil || !cmp.Equal(want, got) {
				t.Errorf("%v %s", err, cmp.Diff(want, got))
			}
			if out, _, err := d.run(append([]string{"preheat"}, strings.Fields(args)...)...); err != nil || out != "configmap/"+made[0].Name+" unchanged\n" {
				t.Errorf("again: %v %s", err, out)
			}
		})
	}
}

func TestPreheatPrintsForPrograms(t *testing.T) {
	d := newDesk(t)
	out, _, err := d.run("preheat", whisper, "--all", "-o", "name")
	if name := strings.TrimSpace(out); err != nil || name != "configmap/"+d.configMaps()[0].Name {
		t.Errorf("%v %q", err, out)
	}
	var is corev1.ConfigMap
	out, _, err = d.run("preheat", whisper, "--all", "-o", "json")
	if err = errors.Join(err, json.Unmarshal([]byte(out), &is)); err != nil || is.Kind != "ConfigMap" || is.Namespace != "hotplate" {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestPreheatWhereNoNodeIsYet(t *testing.T) {
	d := newDesk(t, node("gpu-1", nil))
	_, errOut, err := d.run("preheat", whisper, "-l", "pool=late")
	if err != nil || !strings.Contains(errOut, "note: no node has pool=late now; those that join with it will get the image") {
		t.Errorf("%v %s", err, errOut)
	}
	if _, _, err = d.run("preheat", whisper, "-l", "pool=late", "--wait"); !errors.Is(err, errNoNodes) {
		t.Errorf("nothing to wait for: %v", err)
	}
}

func TestARequestThatSomebodyHasEdited(t *testing.T) {
	d := newDesk(t)
	if _, _, err := d.run("preheat", whisper, "--all"); err != nil {
		t.Fatal(err)
	}
	is := d.configMaps()[0]
	is.Data[coordinator.RequestKey] = `{"ref":"` + llama + `"}`
	if _, err := d.client.CoreV1().ConfigMaps("hotplate").Update(t.Context(), &is, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.run("preheat", whisper, "--all"); err == nil || !strings.Contains(err.Error(), "kubectl hotplate cancel "+is.Name) {
		t.Error(err)
	}
}

// heardAs has the leader say of gpu-2, at each look, that whisper is as one of these says; the last one stays.
func heardAs(d *desk, states ...func(is *coordinator.NodeStatus)) {
	look := 0
	d.tells["v1/nodes"] = func() any {
		is := gpu2()
		states[min(look, len(states)-1)](&is)
		look++
		return []coordinator.NodeStatus{gpu1(), is}
	}
}

func notTaken(is *coordinator.NodeStatus) { is.Images = is.Images[:1] }
func preparing(is *coordinator.NodeStatus) {
	is.Ready, is.Reason, is.Message = report.False, coordinator.ReasonPreparing, "1 of 2"
}
func failed(is *coordinator.NodeStatus) {
	is.Images[1].State, is.Reason, is.Message = coordinator.ImageFailed, coordinator.ReasonFailed, "failed: whisper (PullFailed)"
}
func unresolved(is *coordinator.NodeStatus) {
	is.Images[1].Digest, is.Reason, is.Message = "", coordinator.ReasonUnresolved, "not resolved: whisper: 404"
}
func silent(is *coordinator.NodeStatus) {
	is.Ready, is.Reason, is.Message = report.Unknown, coordinator.ReasonSilent, "no report of the agent"
	is.Images[1].State = coordinator.ImageReady // as it was
}
func ready(is *coordinator.NodeStatus) { is.Images[1].State = coordinator.ImageReady }

func TestPreheatWaits(t *testing.T) {
	for _, c := range []struct {
		what   string
		states []func(*coordinator.NodeStatus)
		args   string
		says   string // of the error; empty for none
		took   time.Duration
		tells  string
	}{
		{"it is there", []func(*coordinator.NodeStatus){ready}, "", "", 0, "gpu-2: Ready\n1 node Ready\n"},
		{"it comes", []func(*coordinator.NodeStatus){notTaken, unresolved, preparing, ready}, "", "", 6 * time.Second,
			"gpu-2: the coordinator has not taken up the request\ngpu-2: not resolved: whisper: 404\ngpu-2: [###############-----]  75% 3.0 GiB of 4.0 GiB\ngpu-2: Ready\n1 node Ready\n"},
		{"it fails, and then comes", []func(*coordinator.NodeStatus){failed, failed, preparing, ready}, "", "", 6 * time.Second, ""},
		{"it fails", []func(*coordinator.NodeStatus){failed}, "", "1 node of 1 without the image: gpu-2. The request stays", time.Minute, "gpu-2: failed: whisper (PullFailed)\n"},
		{"nobody knows the tag", []func(*coordinator.NodeStatus){unresolved}, "", "1 node of 1 without the image: gpu-2", time.Minute, ""},
		{"its agent is silent", []func(*coordinator.NodeStatus){silent}, "", "without the image: gpu-2", time.Minute, "gpu-2: AgentSilent: no report of the agent\n"},
		{"nobody takes it up", []func(*coordinator.NodeStatus){notTaken}, "", "without the image: gpu-2", time.Minute, ""},
		{"it takes long", []func(*coordinator.NodeStatus){preparing}, " --timeout 10m", "timed out; without the image: gpu-2. The request preheat-", 10 * time.Minute, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := twoNodes(t)
				d.now = time.Now
				heardAs(d, c.states...)
				start := time.Now()
				_, errOut, err := d.run(strings.Fields("preheat " + whisper + " -l pool=gpu --wait" + c.args)...)
				if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v, want %q", err, c.says)
				}
				if took := time.Since(start); took != c.took {
					t.Errorf("it took %s, want %s", took, c.took)
				}
				if c.tells != "" && errOut != c.tells {
					t.Errorf("it tells\n%swant\n%s", errOut, c.tells)
				}
			})
		})
	}
}

// TestOneThatFailsDoesNotEndTheWaitForAnother that makes progress.
func TestOneThatFailsDoesNotEndTheWaitForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := twoNodes(t)
		d.now = time.Now
		start := time.Now()
		d.tells["v1/nodes"] = func() any {
			is, other := gpu2(), gpu2()
			other.Node = "gpu-1"
			failed(&other)
			is.Images[1].Done = int64(time.Since(start)) // it moves
			if time.Since(start) > 5*time.Minute {
				ready(&is)
			}
			return []coordinator.NodeStatus{other, is}
		}
		_, _, err := d.run("preheat", whisper, "--all", "--wait")
		if took := time.Since(start); err == nil || !strings.Contains(err.Error(), "1 node of 2 without the image: gpu-1") || took < 6*time.Minute || took > 7*time.Minute {
			t.Errorf("after %s: %v", took, err)
		}
	})
}

func TestTheWaitOutlivesALeaderAndEndsWithThePerson(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := twoNodes(t)
		d.now = time.Now
		look := 0
		d.tells["v1/nodes"] = func() any {
			if look++; look <= 100 {
				return errors.New("connection refused")
			}
			is := gpu2()
			ready(&is)
			return []coordinator.NodeStatus{is}
		}
		_, errOut, err := d.run("preheat", whisper, "--node", "gpu-2", "--wait")
		if err != nil || strings.Count(errOut, "connection refused") != 1 {
			t.Errorf("%v %s", err, errOut)
		}
		heardAs(d, preparing)
		ctx, end := context.WithCancel(t.Context())
		time.AfterFunc(5*time.Second, end)
		if _, _, err := d.runIn(ctx, "preheat", whisper, "--node", "gpu-2", "--wait"); err == nil || !strings.Contains(err.Error(), "interrupted; the request preheat-") {
			t.Error(err)
		}
		look = 0
		d.tells["v1/nodes"] = errors.New("connection refused")
		if _, _, err := d.run("preheat", whisper, "--node", "gpu-2", "--wait", "--timeout", "1m"); err == nil || !strings.Contains(err.Error(), "how far nodes are is not known") {
			t.Error(err)
		}
	})
}

func TestNodesWithoutAnAgent(t *testing.T) {
	if got := judge(coordinator.NodeStatus{}, false, whisper); got.fails != "the coordinator hears no agent there" {
		t.Errorf("%+v", got)
	}
}

func TestCancel(t *testing.T) {
	whispers := []string{"preheat-w1", "preheat-w2"}
	for _, c := range []struct{ what, out, says string }{
		{"preheat-w1", "configmap/preheat-w1 deleted\n", ""},
		{whisper, "configmap/preheat-w1 deleted\nconfigmap/preheat-w2 deleted\n", ""},
		{"broken", "configmap/broken deleted\n", ""},
		{"hotplate-config", "", `no preheat request is called "hotplate-config" or is for that image; there are broken (), preheat-w1 (` + whisper + "), preheat-w2"},
		{llama, "", "no preheat request is called"},
	} {
		d := newDesk(t, preheatRequest(whispers[0], `{"ref":"`+whisper+`"}`), preheatRequest(whispers[1], `{"ref":"`+whisper+`","nodes":["a"]}`),
			preheatRequest("broken", "{"), configMap("hotplate-config", nil, nil, nil))
		out, _, err := d.run("cancel", c.what)
		if out != c.out || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q, %v, want %q, %q", c.what, out, err, c.out, c.says)
		}
		if left := len(d.configMaps()); left != 4-strings.Count(c.out, "deleted") {
			t.Errorf("%s: %d are left", c.what, left)
		}
	}
}
