//go:build e2e

package rig_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// kubectl runs kubectl, which is not to fail, and returns what it prints.
func kubectl(t *testing.T, c *rig.Cluster, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// apply creates the objects of a text of YAML, in which words are replaced.
func apply(t *testing.T, c *rig.Cluster, text string, replacements ...string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "objects.yaml")
	if err := os.WriteFile(path, []byte(strings.NewReplacer(replacements...).Replace(text)), 0o644); err != nil {
		t.Fatal(err)
	}
	kubectl(t, c, "apply", "-f", path)
}

// pushBusybox puts the test's image into the cluster's registry.
func pushBusybox(t *testing.T, c *rig.Cluster) (ref string) {
	t.Helper()
	img, err := rig.BusyboxImage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ref, _, err = c.Push(t.Context(), "test/busybox:v1", img)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func TestControlPlane(t *testing.T) {
	start := time.Now()
	c := rigtest.Cluster(t, rig.ClusterConfig{})
	t.Logf("the control plane was there after %s", time.Since(start).Round(time.Millisecond))
	var version struct {
		ServerVersion struct {
			GitVersion   string `json:"gitVersion"`
			Major, Minor string
		} `json:"serverVersion"`
		ClientVersion struct {
			GitVersion string `json:"gitVersion"`
		} `json:"clientVersion"`
	}
	if err := json.Unmarshal([]byte(kubectl(t, c, "version", "-o", "json")), &version); err != nil {
		t.Fatal(err)
	}
	if s := version.ServerVersion; s.GitVersion != "v1.36.3" || s.Major != "1" || s.Minor != "36" {
		t.Errorf("the server's version is %+v", s)
	}
	if v := version.ClientVersion.GitVersion; v != "v1.36.3" {
		t.Errorf("kubectl's version is %q", v)
	}

	t.Run("another one beside it", func(t *testing.T) {
		other := rigtest.Cluster(t, rig.ClusterConfig{})
		kubectl(t, other, "create", "namespace", "mine")
		if out, err := c.Kubectl(t.Context(), "get", "namespace", "mine"); err == nil {
			t.Errorf("an object of one cluster is in the other: %s", out)
		}
	})
	t.Run("the API goes away and comes back", func(t *testing.T) {
		kubectl(t, c, "create", "configmap", "kept")
		for range 2 {
			if err := c.StopAPIServer(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := c.Kubectl(t.Context(), "get", "configmap", "kept"); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("while it is away kubectl says %q, %v", out, err)
		}
		for range 2 {
			if err := c.StartAPIServer(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		kubectl(t, c, "get", "configmap", "kept")
	})
	t.Run("the registry counts", func(t *testing.T) {
		ref := pushBusybox(t, c)
		if got := c.Front().Requests(); len(got) == 0 {
			t.Error("a push is no request")
		}
		c.Front().Reset()
		if err := c.StopRegistry(); err != nil {
			t.Fatal(err)
		}
		img, err := rig.BusyboxImage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.Push(t.Context(), "test/other:v1", img); err == nil {
			t.Error("a push to a registry that is away is no error")
		}
		if err := c.StartRegistry(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.Push(t.Context(), "test/other:v1", img); err != nil {
			t.Error(err)
		}
		if !strings.HasPrefix(ref, c.Front().Host()+"/test/busybox") {
			t.Errorf("the reference is %q", ref)
		}
	})
	t.Run("helm", func(t *testing.T) {
		dir := t.TempDir()
		for name, text := range map[string]string{
			"Chart.yaml":        "apiVersion: v2\nname: small\nversion: 0.1.0\nkubeVersion: '>= 1.30.0'\n",
			"templates/cm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}'}\ndata: {minor: '{{ .Capabilities.KubeVersion.Minor }}'}\n",
		} {
			path := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Helm(t.Context(), "install", "mine", dir, "--wait"); err != nil {
			t.Fatal(err)
		}
		if got := kubectl(t, c, "get", "configmap", "mine", "-o", "jsonpath={.data.minor}"); got != "36" {
			t.Errorf("helm takes the server's minor version to be %q", got)
		}
	})
}

func TestCluster(t *testing.T) {
	dir := t.TempDir()
	start := time.Now()
	c := rigtest.Cluster(t, rig.ClusterConfig{
		Dir: dir, Nodes: make([]rig.ClusterNodeConfig, 3),
		// So that a node that is cut off is noticed sooner. Kubelets report every ten seconds.
		ControllerManagerArgs: []string{"--node-monitor-grace-period=16s", "--node-monitor-period=1s"},
	})
	t.Logf("three nodes were Ready after %s", time.Since(start).Round(time.Millisecond))
	image := pushBusybox(t, c)

	var names, machines []string
	for _, n := range c.Nodes() {
		names = append(names, n.Name)
		machines = append(machines, kubectl(t, c, "get", "node", n.Name, "-o", "jsonpath={.status.nodeInfo.machineID}"))
	}
	if want := []string{"node-1", "node-2", "node-3"}; !slices.Equal(names, want) {
		t.Fatalf("the nodes are %q, want %q", names, want)
	}
	slices.Sort(machines)
	if len(slices.Compact(machines)) != 3 {
		t.Errorf("the machine ids are %q", machines)
	}

	for _, tt := range []struct {
		name string
		f    func(*testing.T, *rig.Cluster, string)
	}{
		{"pods on every node with an image of the registry", podsOnEveryNode},
		{"a service reaches across nodes", serviceAcrossNodes},
		{"a token names node and pod", tokenNamesNodeAndPod},
		{"a registry that nodes do not trust", untrustedRegistry},
		{"a node joins with a taint", nodeJoinsTainted},
		{"a node powers off and returns", nodeReturns},
		{"a node is cut off and back", nodeCutOff},
		{"the API is away and back", apiAway},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			tt.f(t, c, image)
			t.Logf("took %s", time.Since(start).Round(10*time.Millisecond))
		})
	}
	closesCleanly(t, c, dir)
}

// daemonSet runs on every node of the first three and answers with the name of the pod.
const daemonSet = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: {image}
        command: [sh, -c, "mkdir /www; echo $(NODE) >/www/index.html; exec httpd -f -p 8080 -h /www"]
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        ports: [{containerPort: 8080, hostPort: 8081}]
        readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
        volumeMounts: [{name: token, mountPath: /token}]
      volumes:
      - name: token
        projected: {sources: [{serviceAccountToken: {audience: rig, path: token}}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
`

func podsOnEveryNode(t *testing.T, c *rig.Cluster, image string) {
	c.Front().Reset()
	apply(t, c, daemonSet, "{image}", image)
	pods, err := c.WaitPodsReady(t.Context(), "default", "app=web", 3)
	if err != nil {
		t.Fatal(err)
	}
	var on []string
	for _, p := range pods {
		on = append(on, p.Spec.NodeName)
	}
	slices.Sort(on)
	if want := []string{"node-1", "node-2", "node-3"}; !slices.Equal(on, want) {
		t.Errorf("pods are on %q, want %q", on, want)
	}
	blobs := 0
	for _, r := range c.Front().Requests() {
		if r.Method == http.MethodGet && strings.Contains(r.Path, "/blobs/") && r.Status == http.StatusOK {
			blobs++
		}
	}
	if blobs < 3 {
		t.Errorf("three nodes that pulled asked for %d blobs", blobs)
	}
	cri, err := c.Node("node-2").CRI(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer cri.Close()
	if img, err := cri.ImageStatus(t.Context(), image); err != nil || img == nil {
		t.Errorf("the node's containerd has of the image %v, %v", img, err)
	}
}

// podOn is the name of the web pod on a node.
func podOn(t *testing.T, c *rig.Cluster, node string) string {
	t.Helper()
	return kubectl(t, c, "get", "pods", "-l", "app=web", "--field-selector", "spec.nodeName="+node, "-o", "jsonpath={.items[0].metadata.name}")
}

func serviceAcrossNodes(t *testing.T, c *rig.Cluster, _ string) {
	pod := podOn(t, c, "node-1")
	names := kubectl(t, c, "exec", pod, "--", "nslookup", "web.default.svc.cluster.local")
	ip := kubectl(t, c, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	if !strings.Contains(names, ip) {
		t.Errorf("the name of the service, which is at %s, leads to\n%s", ip, names)
	}
	// kube-proxy is told a moment later.
	answers := map[string]bool{}
	err := c.Await(t.Context(), "every pod to answer on the service", func(ctx context.Context) error {
		out, err := c.Kubectl(ctx, "exec", pod, "--", "sh", "-c", `printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 5 `+ip+" 80")
		if err != nil {
			return err
		}
		_, body, _ := strings.Cut(out, "\r\n\r\n")
		answers[strings.TrimSpace(body)] = true
		if len(answers) < 3 {
			return fmt.Errorf("answers came from %v", answers)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes() {
		if got, err := httpGet(t, c, n.IP+":8081"); err != nil || got != n.Name {
			t.Errorf("the port of %s that leads to its pod says %q, %v", n.Name, got, err)
		}
	}
}

// httpGet asks a server on the cluster's network.
func httpGet(t *testing.T, c *rig.Cluster, host string) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: c.Dial}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(body)), err
}
