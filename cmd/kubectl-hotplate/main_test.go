package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	k8stesting "k8s.io/client-go/testing"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	llama   = "registry.example.com/models/llama:v1"
	whisper = "registry.example.com/models/whisper:v1"
	digest  = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// desk is a cluster in memory, and a person before it. The API server's proxy, which the one in memory has not, answers by tells.
type desk struct {
	t      *testing.T
	client *fake.Clientset
	// tells is what the leader answers by path: a value, an error, or a function that returns either.
	tells map[string]any
	now   func() time.Time
}

func newDesk(t *testing.T, objects ...runtime.Object) *desk {
	d := &desk{t: t, client: fake.NewClientset(objects...), tells: map[string]any{}, now: func() time.Time { return noon }}
	d.client.AddProxyReactor("pods", func(action k8stesting.Action) (bool, rest.ResponseWrapper, error) {
		get, ok := action.(k8stesting.ProxyGetAction)
		if !ok || get.GetName() != "leader" || get.GetPort() != "8080" || get.GetNamespace() != "hotplate" {
			t.Errorf("somebody else is asked: %+v", action)
		}
		return true, answer{d, get.GetPath()}, nil
	})
	return d
}

// answer is one of the leader's.
type answer struct {
	desk *desk
	path string
}

func (a answer) DoRaw(context.Context) ([]byte, error) {
	is, ok := a.desk.tells[a.path]
	if f, isFunc := is.(func() any); isFunc {
		is = f()
	}
	if err, isErr := is.(error); isErr {
		return nil, err
	}
	if !ok {
		return nil, said404(strings.TrimPrefix(a.path, "v1/nodes/") + ": no report of this node")
	}
	return json.Marshal(is)
}

func (a answer) Stream(context.Context) (io.ReadCloser, error) {
	return nil, errors.New("nobody streams")
}

// said404 is what client-go makes of a text with that status.
func said404(text string) error {
	return apierrors.NewGenericServerResponse(http.StatusNotFound, "GET", schema.GroupResource{Resource: "pods"}, "leader:8080", text, 0, true)
}

// run runs a command and returns what it has written, and the error that the program would end with.
func (d *desk) run(args ...string) (out, errOut string, err error) {
	d.t.Helper()
	return d.runIn(d.t.Context(), args...)
}

func (d *desk) runIn(ctx context.Context, args ...string) (out, errOut string, err error) {
	var stdout, stderr bytes.Buffer
	p := &plugin{IOStreams: genericiooptions.IOStreams{In: strings.NewReader(""), Out: &stdout, ErrOut: &stderr},
		flags: genericclioptions.NewConfigFlags(true), connect: func() (kubernetes.Interface, error) { return d.client, nil },
		now: d.now, every: 2 * time.Second}
	cmd := p.command()
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(ctx)
	return stdout.String(), stderr.String(), err
}

// forbid lets nobody do something, as RBAC does.
func (d *desk) forbid(verb, resource string) {
	d.client.PrependReactor(verb, resource, func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", errors.New("no"))
	})
}

func lease(holder string) *coordinationv1.Lease {
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: coordinator.LeaseName, Namespace: "hotplate"},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder}}
}

func node(name string, labels map[string]string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

func configMap(name string, labels, annotations, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "hotplate", Labels: labels, Annotations: annotations}, Data: data}
}

func preheatRequest(name, document string) *corev1.ConfigMap {
	return configMap(name, map[string]string{coordinator.RequestLabel: "true"}, nil, map[string]string{coordinator.RequestKey: document})
}

func TestWrongCommandsAreTold(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"status a b", "accepts at most 1 arg"},
		{"status -o table", `--output "table": use one of json, yaml, wide`},
		{"restarts -o wide", `use one of json, yaml`},
		{"preheat " + llama, "at least one of the flags in the group [selector node all] is required"},
		{"preheat " + llama + " --all --node a", "if any flags in the group [selector node all] are set none of the others can be"},
		{"preheat llama --all", `image "llama" names no registry: write host/repository:tag`},
		{"preheat a.example.com/UPPER --all", "not an image reference"},
		{"preheat " + llama + " --all --alias a.example.com/B", "not an image reference"},
		{"preheat " + llama + " -l pool!=gpu", "write KEY=VALUE,KEY=VALUE"},
		{"preheat " + llama + " --node gpu-9", "there is no node gpu-9"},
		{"explain " + llama, `required flag(s) "node" not set`},
		{"explain " + llama + " --node gpu-9", "there is no node gpu-9"},
		{"nonsense", "unknown command"},
	} {
		_, _, err := newDesk(t).run(strings.Fields(c.args)...)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.args, err, c.says)
		}
	}
}

// TestTheNextStepIsTold, whatever is missing.
func TestTheNextStepIsTold(t *testing.T) {
	for _, c := range []struct {
		what string
		args string
		desk func(t *testing.T) *desk
		says string
	}{
		{"hotplate is not there", "status", func(t *testing.T) *desk { return newDesk(t) },
			"no coordinator leads in namespace hotplate: is hotplate installed there? Say where it is with --namespace"},
		{"nobody leads", "status", func(t *testing.T) *desk { return newDesk(t, lease("")) },
			"no coordinator leads now: try again in a moment, or look with kubectl hotplate doctor"},
		{"the leader says why", "status", func(t *testing.T) *desk {
			d := newDesk(t, lease("leader"))
			d.tells["v1/nodes"] = apierrors.NewGenericServerResponse(http.StatusServiceUnavailable, "GET", schema.GroupResource{}, "", "this replica does not lead", 0, true)
			return d
		}, "ask the coordinator that leads, leader, through the API server: the server is currently unable to handle the request: this replica does not lead"},
		{"no rights", "status", func(t *testing.T) *desk {
			d := newDesk(t, lease("leader"))
			d.forbid("get", "leases")
			return d
		}, "ask an administrator of the cluster for the rights in docs/kubectl.md"},
		{"no such node", "status gpu-9", func(t *testing.T) *desk { return newDesk(t, lease("leader")) },
			"node gpu-9: the coordinator has heard nothing of this node; kubectl get nodes says whether it is there"},
		{"another namespace", "restarts -n other", func(t *testing.T) *desk { return newDesk(t, lease("leader")) }, "no coordinator leads in namespace other"},
		{"nothing to pause", "pause", func(t *testing.T) *desk { return newDesk(t, lease("leader")) }, "there is no configmap/hotplate-rollout in namespace hotplate"},
		{"nothing to cancel", "cancel x", func(t *testing.T) *desk { return newDesk(t) }, "there are no preheat requests in namespace hotplate"},
	} {
		t.Run(c.what, func(t *testing.T) {
			_, _, err := c.desk(t).run(strings.Fields(c.args)...)
			if err == nil || !strings.Contains(hint(err), c.says) {
				t.Errorf("%s: %v, want %q", c.args, err, c.says)
			}
		})
	}
}

func TestCompletion(t *testing.T) {
	d := newDesk(t, lease("leader"), node("gpu-1", nil), node("gpu-2", nil), preheatRequest("preheat-x", `{"ref":"`+whisper+`"}`))
	d.tells["v1/nodes"] = []coordinator.NodeStatus{gpu1(), gpu2()}
	for args, want := range map[string]string{
		"status x":                           "gpu-1 gpu-2 :4",
		"status gpu-1 x":                     ":4",
		"cancel x":                           "preheat-x " + whisper + " :4",
		"explain x":                          llama + " " + whisper + " :4",
		"explain " + llama + " --node x":     "gpu-1 gpu-2 :4",
		"preheat " + llama + " --node x":     "gpu-1 gpu-2 :4",
		"status -o x":                        "json yaml wide :4",
		"preheat " + whisper + " --output x": "name json yaml :4",
	} {
		out, _, err := d.run(append([]string{"__complete"}, strings.Fields(args)...)...)
		if got := strings.Join(strings.Fields(out), " "); err != nil || got != want {
			t.Errorf("%s: %v, %q, want %q", args, err, got, want)
		}
	}
}

// TestNamesOfTheProgram: kubectl asks a second name for completions.
func TestNamesOfTheProgram(t *testing.T) {
	for _, c := range []struct{ argv, want []string }{
		{[]string{"/usr/local/bin/kubectl-hotplate", "status", "-w"}, []string{"status", "-w"}},
		{[]string{"/usr/local/bin/kubectl_complete-hotplate", "status", ""}, []string{"__complete", "status", ""}},
	} {
		if got := arguments(c.argv); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q", c.argv, got)
		}
	}
}
