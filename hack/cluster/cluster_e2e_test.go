//go:build e2e

package cluster

import (
	"context"
	"fmt"
	"maps"
	"math/rand"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

func newSource(seed int64) rand.Source { return rand.NewSource(seed) }

const pod = `
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  nodeName: NODE
  containers: [{name: model, image: IMAGE, command: [sleep, "1000"]}]
`

// TestCluster is the life of one installation, from helm install to helm uninstall.
func TestCluster(t *testing.T) {
	s := newSite(t, make([]rig.ClusterNodeConfig, 3)...)
	s.pushModel("llama:v1", 1)
	s.pushModel("whisper:v1", 2)
	before := s.files()
	if !s.row("helm install with nothing set: agents wait, nodes stay as they are", install) {
		t.FailNow()
	}
	s.row("a config: every node converges; a pod with the image starts without a pull and without a request", configured)
	s.row("a node annotated, wrongly annotated, and no more", annotated)
	s.row("a node joins with the startup taint, and a pod waits for it", joins)
	s.row("an invalid config: the old one stays in force", rejected)
	s.row("what an agent's token can do", tokens)
	s.row("helm test, upgrade and rollback: nodes are not touched", upgraded)
	s.longRow("agents with other rights: mayRestart false, publishOnly, privileged", rights)
	s.row("Secrets with a CA and a login are rotated", rotated)
	s.longRow("agent, leader, API and registry go away", away)
	s.row("kubectl hotplate: what a user can do by it", plugged)
	s.row("uninstall: nodes byte for byte as before, running pods untouched", func(s *site) string { return uninstall(s, before) })
}

func install(s *site) string {
	files, daemons := s.configuration(), s.daemons()
	s.helm(append([]string{"install", "hotplate", s.chart, "--wait", "--timeout", "3m"}, s.values()...)...)
	s.pass(10 * time.Second)
	if diff := cmp.Diff(files, s.configuration()); diff != "" {
		s.Errorf("files of nodes (-were +are):\n%s", diff)
	}
	s.sameDaemons(daemons)
	for _, n := range s.c.Nodes() {
		if got := s.kubectl("get", "node", n.Name, "-o", "jsonpath={.metadata.labels}{.metadata.annotations}{.spec.taints}{.status.conditions}"); strings.Contains(strings.ToLower(got), "hotplate") {
			s.Errorf("%s is marked: %s", n.Name, got)
		}
	}
	return "agents and coordinators are ready; files and containerd are as they were, and no Node is marked"
}

func configured(s *site) string {
	s.configMap("site-ca", map[string]string{"ca.crt": string(s.c.CA().PEM())})
	s.configure(fmt.Sprintf("[{name: llama, ref: %s/models/llama:v1}]", host))
	s.allBecome("True Ready: 1 of 1 images", "hotplate.dev/ready=true", "image.hotplate.dev/llama=ready")

	// The tag is resolved before, so what follows counts what pods cause.
	s.c.Front().Reset()
	for _, n := range s.c.Nodes() {
		name := s.runs(n.Name, host+"/models/llama:v1")
		if events := s.events("Pod", name); !strings.Contains(events, "already present on machine") || strings.Contains(events, "Pulling:") {
			s.Errorf("of the pod on %s is said\n%s", n.Name, events)
		}
	}
	asked := 0
	for _, r := range s.c.Front().Requests() {
		if r.Method == http.MethodGet && strings.Contains(r.Path, "/models/llama/blobs/") || strings.Contains(r.UserAgent, "containerd") {
			asked++
			s.Errorf("the registry was asked: %s %s by %s", r.Method, r.Path, r.UserAgent)
		}
	}
	return fmt.Sprintf("%d nodes Ready, %d pods started, %d requests for them", len(s.c.Nodes()), len(s.c.Nodes()), asked)
}

// runs starts a pod of the image llama on a node, waits until it is ready, and returns its name.
func (s *site) runs(node, image string) (name string) {
	s.Helper()
	name = "llama-" + node
	s.apply(pod, "NAME", name, "NODE", node, "IMAGE", image)
	if _, err := s.c.WaitPodReady(s.Context(), "default", name); err != nil {
		s.Fatal(err)
	}
	return name
}

// upgrade gives all agents and coordinators other values, and waits until they are ready and heard.
func (s *site) upgrade(values ...string) {
	s.Helper()
	args := []string{"upgrade", "hotplate", s.chart, "--wait", "--timeout", "3m", "--set", "agent.maxUnavailable=100%"}
	for _, value := range values {
		args = append(args, "--set", value)
	}
	s.helm(append(args, s.values()...)...)
	s.fresh()
}

// apply makes the objects of a text in which words are replaced.
func (s *site) apply(text string, replacements ...string) {
	s.Helper()
	s.kubectl("apply", "-f", s.write("objects.yaml", strings.NewReplacer(replacements...).Replace(text)))
}

// files are what is on each node where hotplate may write: path, mode, owner, target and sum of each. Lock files stay.
func (s *site) files() map[string]string {
	s.Helper()
	all := map[string]string{}
	for _, n := range s.c.Nodes() {
		out, err := n.Exec(s.Context(), "sh", "-c", `for dir in /etc/containerd /etc/systemd/system /var/lib/hotplate /run/hotplate; do
			[ ! -e $dir ] || find $dir -xdev ! -type d ! -path '/var/lib/hotplate/*lock' -printf '%p %M %U %G %l ' \( -type f -exec sha256sum {} \; -o -printf '\n' \); done`)
		if err != nil {
			s.Fatal(err)
		}
		all[n.Name] = out
	}
	return all
}

func upgraded(s *site) string {
	if out := s.helm("test", "hotplate", "--timeout", "2m"); !strings.Contains(out, "Succeeded") {
		s.Errorf("helm test says\n%s", out)
	}
	s.allBecome("True Ready: 1 of 1 images")
	files, since, daemons, pods := s.configuration(), s.transitions(), s.daemons(), s.pods()
	s.upgrade("agent.podLabels.version=two", "coordinator.logLevel=debug")
	s.helm("rollback", "hotplate", "1", "--wait", "--timeout", "3m")
	s.fresh()
	if diff := cmp.Diff(files, s.configuration()); diff != "" {
		s.Errorf("files of nodes (-were +are):\n%s", diff)
	}
	if now := s.transitions(); !maps.Equal(now, since) {
		s.Errorf("conditions have changed: %v, before %v", now, since)
	}
	s.sameDaemons(daemons)
	s.samePods(pods)
	return "agents and coordinators replaced twice; configuration, conditions, containerd and pods as before"
}

// rights installs agents with more and with fewer rights than by default. Each prepares an image that was not there before.
func rights(s *site) string {
	daemons, pods := s.daemons(), s.pods()
	for i, row := range []struct{ value, way string }{
		{"agent.mayRestart=false", "Direct"}, {"agent.publishOnly=true", "API"}, {"agent.privileged=true", "Direct"},
	} {
		name := fmt.Sprintf("phi-%d", i)
		s.pushModel(name+":v1", int64(100+i))
		s.upgrade(row.value)
		s.configure(fmt.Sprintf("[{name: llama, ref: %[1]s/models/llama:v1}, {name: %[2]s, ref: %[1]s/models/%[2]s:v1}]", host, name))
		s.allBecome("True Ready: 2 of 2 images", "image.hotplate.dev/"+name+"=ready")
		for _, n := range s.c.Nodes() {
			is, err := s.statusOf(n.Name)
			if j := slices.IndexFunc(is.Report.Images, func(img report.Image) bool { return img.Name == name }); err != nil || j < 0 ||
				is.Report.Images[j].Way != row.way {
				s.Errorf("%v: with %s, %s does not come by the way %s on %s: %+v", err, row.value, name, row.way, n.Name, is.Report.Images)
			}
		}
	}
	s.upgrade()
	s.configure(fmt.Sprintf("[{name: llama, ref: %s/models/llama:v1}]", host))
	s.allBecome("True Ready: 1 of 1 images")
	s.sameDaemons(daemons)
	s.samePods(pods)
	return "an image prepared with each on every node, with publishOnly by containerd itself; containerd and pods as before"
}

// configuration is what of files is in /etc: what agents keep for themselves changes.
func (s *site) configuration() map[string][]string {
	s.Helper()
	all := map[string][]string{}
	for node, text := range s.files() {
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "/etc/") {
				all[node] = append(all[node], line)
			}
		}
	}
	return all
}

func uninstall(s *site, before map[string]string) string {
	running := s.pods()
	out, err := s.c.Command(s.Context(), "helm", "uninstall", "hotplate", "--namespace", namespace, "--timeout", "4m").CombinedOutput()
	if err != nil {
		s.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "all nodes are as they were before hotplate: 3") {
		s.Errorf("helm says\n%s", out)
	}
	s.await("agents and coordinators to be gone", func(ctx context.Context) error {
		out, err := s.c.Kubectl(ctx, "get", "pods", "-n", namespace, "-o", "name", "--field-selector=status.phase=Running")
		if err == nil && out != "" {
			err = fmt.Errorf("%w: %s", errNotYet, out)
		}
		return err
	})
	for node, was := range before {
		if diff := cmp.Diff(strings.Split(was, "\n"), strings.Split(s.files()[node], "\n")); diff != "" {
			s.Errorf("files of %s (-was +is):\n%s", node, diff)
		}
		if is, err := s.node(s.Context(), node); err != nil || strings.Contains(fmt.Sprint(is.Labels, is.Annotations, is.Spec.Taints, is.Status.Conditions), "otplate") {
			s.Errorf("%v: marks are left on %s: %v %v %v", err, node, is.Labels, is.Annotations, is.Status.Conditions)
		}
	}
	s.samePods(running)
	return "3 nodes released; files, labels and conditions as before; the same containers run"
}
