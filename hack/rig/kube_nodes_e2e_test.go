//go:build e2e

package rig_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
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

func untrustedRegistry(t *testing.T, c *rig.Cluster, _ string) {
	const behind, front = "127.0.0.1:5001", "10.77.0.1:5443"
	registry, err := c.StartOtherRegistry(t.Context(), rig.RegistryConfig{
		Dir: t.TempDir(), Addr: behind, Users: map[string]string{"robot": "secret"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close()
	ca := rigtest.CA(t)
	cert, key, err := ca.Issue(front)
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := c.StartProxy(rig.ProxyConfig{Upstream: registry.URL(), Addr: front, CertPEM: cert, KeyPEM: key})
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	img, err := rig.BusyboxImage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ref := front + "/private/busybox:v1"
	options := rig.PushOptions{CA: ca.PEM(), Username: "robot", Password: "secret", Dial: c.Dial}
	if _, err := rig.Push(t.Context(), ref, img, options); err != nil {
		t.Fatal(err)
	}
	n := c.Node("node-1")
	cri, err := n.CRI(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer cri.Close()
	auth := &runtimeapi.AuthConfig{Username: "robot", Password: "secret"}
	if _, err := cri.PullImage(t.Context(), ref, auth); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("a pull from a registry of an unknown CA: %v", err)
	}
	dir := n.Path(rig.NodeHostsDir + "/" + front)
	hosts := "server = \"https://" + front + "\"\n[host.\"https://" + front + "\"]\nca = \"ca.pem\"\n"
	err = errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "ca.pem"), ca.PEM(), 0o644),
		os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cri.PullImage(t.Context(), ref, nil); err == nil {
		t.Error("a pull without a password is no error")
	}
	if _, err := cri.PullImage(t.Context(), ref, auth); err != nil {
		t.Error(err)
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
	if err := n.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	if c.Node(n.Name) != nil {
		t.Error("the cluster has a node that was removed")
	}
	if out := kubectl(t, c, "get", "nodes,pods", "-o", "name"); strings.Contains(out, n.Name) || strings.Contains(out, "late") {
		t.Errorf("after the node was removed there are\n%s", out)
	}
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
		start := time.Now()
		if err := again.f(t.Context()); err != nil {
			t.Fatalf("%s: %v", again.name, err)
		}
		booted := time.Since(start)
		if err := c.WaitNodesReady(t.Context(), n.Name); err != nil {
			t.Fatalf("%s: %v", again.name, err)
		}
		ready := time.Since(start)
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
		t.Logf("%s: booted after %s, Ready after %s, the pod after %s", again.name, booted.Round(time.Millisecond),
			ready.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
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
	for _, p := range pods {
		if got, err := httpGet(t, c, p.Status.PodIP+":8080"); err != nil || got != p.Spec.NodeName {
			t.Errorf("while the API is away the pod on %s says %q, %v", p.Spec.NodeName, got, err)
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

func TestKilledProcessLeavesNothingOfACluster(t *testing.T) {
	if dir := os.Getenv(childDir); dir != "" {
		c, err := rig.StartCluster(t.Context(), rig.ClusterConfig{Dir: dir, Nodes: make([]rig.ClusterNodeConfig, 1)})
		if err != nil {
			t.Fatal(err)
		}
		in, err := c.Exec(t.Context(), "readlink", "/proc/self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		told := fmt.Sprintf("%s %d", strings.TrimSpace(in), c.Nodes()[0].Leader())
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "new"), []byte(told), 0o644),
			os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "told"))); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	rigtest.RequireRoot(t)
	dir := t.TempDir()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), childDir+"="+dir)
	var out strings.Builder
	child.Stdout, child.Stderr = &out, &out
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = child.Wait() // it is killed
	}()
	var network string
	var leader int
	for network == "" {
		if text, err := os.ReadFile(filepath.Join(dir, "told")); err == nil {
			if _, err := fmt.Sscanf(string(text), "%s %d", &network, &leader); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-ended:
			t.Fatalf("the child ended by itself:\n%s", out.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	in, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", leader))
	if err != nil {
		t.Fatal(err)
	}
	networks := []string{network, in}
	if users := usersOf(t, networks, dir); len(users) < 10 {
		t.Errorf("of a cluster that runs there is only %q", users)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	eventually(t, "the cluster to end", func() bool { return len(usersOf(t, networks, dir)) == 0 })
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
