//go:build e2e

package rig_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

func tokenNamesNodeAndPod(t *testing.T, c *rig.Cluster, _ string) {
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	pod := podOn(t, c, "node-2")
	token := kubectl(t, c, "exec", pod, "--", "cat", "/token/token")
	for audience, want := range map[string]bool{"rig": true, "another": false} {
		review := &authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{audience}},
		}
		review, err := client.AuthenticationV1().TokenReviews().Create(t.Context(), review, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if review.Status.Authenticated != want {
			t.Errorf("for audience %q: authenticated is %t, want %t: %s", audience, review.Status.Authenticated, want, review.Status.Error)
		}
		if !want {
			continue
		}
		for name, value := range map[string]string{"node-name": "node-2", "pod-name": pod} {
			got := review.Status.User.Extra["authentication.kubernetes.io/"+name]
			if !slices.Equal(got, []string{value}) {
				t.Errorf("the token's %s is %q, want %q", name, got, value)
			}
		}
	}
}

const podOfPool = `
apiVersion: v1
kind: Pod
metadata: {name: late}
spec:
  terminationGracePeriodSeconds: 1
  nodeSelector: {pool: late}
  containers: [{name: late, image: {image}, command: [sleep, "1000"]}]
`

func nodeJoinsTainted(t *testing.T, c *rig.Cluster, image string) {
	n, err := c.AddNode(t.Context(), rig.ClusterNodeConfig{
		KubeletArgs: []string{"--register-with-taints=example.com/starting=:NoSchedule", "--node-labels=pool=late"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WaitNodesReady(t.Context(), n.Name); err != nil {
		t.Fatal(err)
	}
	apply(t, c, podOfPool, "{image}", image)
	err = c.Await(t.Context(), "the scheduler to find no node for the pod", func(ctx context.Context) error {
		out, err := c.Kubectl(ctx, "get", "pod", "late", "-o", `jsonpath={.status.conditions[?(@.type=="PodScheduled")].message}`)
		if err == nil && !strings.Contains(out, "1 node(s) had untolerated taint") {
			err = fmt.Errorf("the scheduler says %q", out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, c, "taint", "node", n.Name, "example.com/starting-")
	pod, err := c.WaitPodReady(t.Context(), "default", "late")
	if err != nil {
		t.Fatal(err)
	}
	if pod.Spec.NodeName != n.Name {
		t.Errorf("the pod is on %s, want %s", pod.Spec.NodeName, n.Name)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if c.Node(n.Name) != nil {
		t.Error("the cluster has a node that was closed")
	}
	kubectl(t, c, "delete", "node", n.Name)
	kubectl(t, c, "delete", "pod", "late", "--force", "--ignore-not-found")
	if _, err := c.WaitPodsReady(t.Context(), "default", "app=web", 3); err != nil {
		t.Error(err)
	}
}

// restarts is how often the web pod on a node began anew.
func restarts(ctx context.Context, c *rig.Cluster, node string) (int, error) {
	pods, err := c.WaitPodsReady(ctx, "default", "app=web", 3)
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Spec.NodeName == node })
	if i < 0 {
		return 0, errors.New("there is no web pod on " + node)
	}
	return int(pods[i].Status.ContainerStatuses[0].RestartCount), nil
}

func nodeReturns(t *testing.T, c *rig.Cluster, _ string) {
	n := c.Node("node-2")
	for i, again := range []struct {
		name string
		f    func(context.Context) error
	}{
		{"powered off, and missed", func(ctx context.Context) error {
			return errors.Join(n.PowerOff(ctx), c.WaitNodeNotReady(ctx, n.Name), n.Boot(ctx))
		}},
		{"power lost", func(ctx context.Context) error { return errors.Join(n.Kill(), n.Boot(ctx)) }},
		{"rebooted", func(ctx context.Context) error { return n.Reboot(ctx) }},
	} {
		if err := again.f(t.Context()); err != nil {
			t.Fatalf("%s: %v", again.name, err)
		}
		if err := c.WaitNodesReady(t.Context(), n.Name); err != nil {
			t.Fatalf("%s: %v", again.name, err)
		}
		err := c.Await(t.Context(), "the pod to be started again", func(ctx context.Context) error {
			got, err := restarts(ctx, c, n.Name)
			if err == nil && got != i+1 {
				err = fmt.Errorf("it was started again %d times, want %d", got, i+1)
			}
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v", again.name, err)
		}
	}
	serviceAcrossNodes(t, c, "")
}

func nodeCutOff(t *testing.T, c *rig.Cluster, _ string) {
	n := c.Node("node-3")
	before, err := restarts(t.Context(), c, n.Name)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.CutOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitNodeNotReady(t.Context(), n.Name); err != nil {
		t.Fatal(err)
	}
	if state := onNode(t, n.Node, "systemctl", "is-active", "kubelet"); state != "active" {
		t.Errorf("the kubelet of a node that is cut off is %q", state)
	}
	if err := n.Reconnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitNodesReady(t.Context(), n.Name); err != nil {
		t.Fatal(err)
	}
	if after, err := restarts(t.Context(), c, n.Name); err != nil || after != before {
		t.Errorf("the pod was started again %d times, %v, before %d", after, err, before)
	}
	serviceAcrossNodes(t, c, "")
}

func apiAway(t *testing.T, c *rig.Cluster, _ string) {
	pods, err := c.WaitPodsReady(t.Context(), "default", "app=web", 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.StopAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: c.Dial}
	defer transport.CloseIdleConnections()
	for _, p := range pods {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.Status.PodIP+":8080", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Errorf("while the API is away a pod says %v", err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if got := strings.TrimSpace(string(body)); err != nil || got != p.Spec.NodeName {
			t.Errorf("the pod on %s says %q, %v", p.Spec.NodeName, got, err)
		}
	}
	if err := c.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A new object goes through all programs.
	kubectl(t, c, "rollout", "restart", "daemonset/web")
	kubectl(t, c, "rollout", "status", "daemonset/web", "--timeout=90s")
}

// closesCleanly closes the cluster and looks for what is left.
func closesCleanly(t *testing.T, c *rig.Cluster, dir string) {
	in, err := c.Exec(t.Context(), "readlink", "/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	networks := []string{strings.TrimSpace(in)}
	var cgroups []string
	for _, n := range c.Nodes() {
		cgroups = append(cgroups, cgroupOf(t, n.Leader()))
		in, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", n.Leader()))
		if err != nil {
			t.Fatal(err)
		}
		networks = append(networks, in)
	}
	if users := usersOf(t, networks, dir); len(users) < 10 {
		t.Fatalf("of a cluster that runs there is only %q", users)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for _, cgroup := range cgroups {
		if left := leftOf(t, cgroup, dir); len(left) > 0 {
			t.Errorf("Close left %q", left)
		}
	}
	if left := usersOf(t, networks, dir); len(left) > 0 {
		t.Errorf("Close left %q", left)
	}
}

// usersOf lists the processes that are in one of the networks, keep one open, or have the directory in their arguments.
func usersOf(t *testing.T, networks []string, dir string) []string {
	t.Helper()
	var users []string
	for _, pattern := range []string{"/proc/[0-9]*/ns/net", "/proc/[0-9]*/task/*/ns/net", "/proc/[0-9]*/fd/*"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if in, err := os.Readlink(path); err == nil && slices.Contains(networks, in) {
				users = append(users, path)
			}
		}
	}
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if args, err := os.ReadFile(path); err == nil && strings.Contains(string(args), dir) {
			users = append(users, path)
		}
	}
	return users
}
