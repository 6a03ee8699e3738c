//go:build e2e

package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

const preheat = "hotplate.dev/preheat"

func annotated(s *site) string {
	whisper := host + "/models/whisper:v1"
	s.kubectl("annotate", "node", "node-2", preheat+"="+whisper)
	s.becomes("node-2", "True Ready: 2 of 2 images", "hotplate.dev/ready=true")
	s.becomes("node-1", "True Ready: 1 of 1 images")

	s.kubectl("annotate", "--overwrite", "node", "node-2", preheat+"=nonsense,"+whisper)
	s.await("the fault to be told on the node", func(ctx context.Context) error {
		is, err := s.node(ctx, "node-2")
		if err != nil {
			return err
		}
		if got := says(is, "HotplatePreheatValid"); !strings.HasPrefix(got, "False Invalid:") || !strings.Contains(got, `"nonsense"`) {
			return fmt.Errorf("it says %q", got)
		}
		if got := says(is, "HotplateReady"); !strings.HasPrefix(got, "True Ready: 2 of 2") {
			return fmt.Errorf("it says %q", got)
		}
		return nil
	})
	s.await("an Event about it", func(ctx context.Context) error {
		out, err := s.c.Kubectl(ctx, "events", "-A", "--for", "node/node-2")
		if err == nil && !strings.Contains(out, "HotplatePreheatInvalid") {
			err = fmt.Errorf("there are only\n%s", out)
		}
		return err
	})

	s.kubectl("annotate", "node", "node-2", preheat+"-")
	s.becomes("node-2", "True Ready: 1 of 1 images")
	s.await("what was said of the annotation to go", func(ctx context.Context) error {
		is, err := s.node(ctx, "node-2")
		if err != nil {
			return err
		}
		if got := says(is, "HotplatePreheatValid"); got != "" || len(imageLabels(is.Labels)) != 1 {
			return fmt.Errorf("it says %q, and has labels %q", got, imageLabels(is.Labels))
		}
		return nil
	})
	return "2 of 2 images there; a wrong entry is told by condition and Event, the other proceeds; then 1 of 1 again"
}

func imageLabels(labels map[string]string) (names []string) {
	for name := range labels {
		if strings.HasPrefix(name, "image.hotplate.dev/") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func joins(s *site) string {
	n, err := s.c.AddNode(s.Context(), rig.ClusterNodeConfig{
		KubeletArgs: []string{"--register-with-taints=hotplate.dev/not-ready=:NoSchedule", "--node-labels=pool=late"}})
	if err != nil {
		s.Fatal(err)
	}
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: waits, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  nodeSelector: {pool: late}
  containers: [{name: model, image: IMAGE, command: [sleep, "1000"]}]
`, "IMAGE", host+"/models/llama:v1")
	if _, err := s.c.WaitPodReady(s.Context(), "default", "waits"); err != nil {
		s.Fatal(err)
	}
	s.becomes(n.Name, "True Ready: 1 of 1 images", "image.hotplate.dev/llama=ready")
	is, err := s.node(s.Context(), n.Name)
	if err != nil || len(is.Spec.Taints) != 0 {
		s.Errorf("%v, taints %v", err, is.Spec.Taints)
	}
	if events := s.events("Pod", "waits"); !strings.Contains(events, "already present on machine") || strings.Contains(events, "Pulling:") {
		s.Errorf("of the pod is said\n%s", events)
	}
	s.kubectl("delete", "pod", "waits", "--wait")
	if err := n.Remove(s.Context()); err != nil {
		s.Error(err)
	}
	return "configured, preheated, untainted; the pod that waited started without a pull"
}

func rejected(s *site) string {
	s.config("apiVersion: hotplate.dev/v1alpha1\nregistries: [{host: \"not a host\"}]\n")
	for _, n := range s.c.Nodes() {
		s.await(n.Name+" to say so", func(ctx context.Context) error {
			is, err := s.node(ctx, n.Name)
			if got := says(is, "HotplateReady"); err == nil && !strings.Contains(got, "a newer config is rejected") {
				err = fmt.Errorf("it says %q", got)
			} else if err == nil && !strings.HasPrefix(got, "True Ready") {
				s.Errorf("%s says %q: the old config is not in force", n.Name, got)
			}
			return err
		})
	}
	s.await("an Event on the ConfigMap", func(ctx context.Context) error {
		out, err := s.c.Kubectl(ctx, "events", "-n", namespace, "--for", "configmap/hotplate-config")
		if err == nil && !strings.Contains(out, "HotplateConfigRejected") {
			err = fmt.Errorf("there are only\n%s", out)
		}
		return err
	})
	for _, component := range []string{"agent", "coordinator"} {
		if out := s.kubectl("logs", "-n", namespace, "-l", "app.kubernetes.io/component="+component, "--tail=-1"); !strings.Contains(strings.ToLower(out), "rejected") {
			s.Errorf("the log of the %s says nothing of it", component)
		}
	}
	s.configure(fmt.Sprintf("[{name: llama, ref: %s/models/llama:v1}]", host))
	for _, n := range s.c.Nodes() {
		s.await(n.Name+" to be well again", func(ctx context.Context) error {
			is, err := s.node(ctx, n.Name)
			if got := says(is, "HotplateReady"); err == nil && (strings.Contains(got, "rejected") || !strings.HasPrefix(got, "True Ready")) {
				err = fmt.Errorf("it says %q", got)
			}
			return err
		})
	}
	return "nodes stay Ready and say what is wrong, so do logs and an Event; healed when fixed"
}

// tokens tries what a stolen token of an agent can do.
func tokens(s *site) string {
	pods, err := s.c.WaitPodsReady(s.Context(), namespace, "app.kubernetes.io/component=agent", len(s.c.Nodes()))
	if err != nil {
		s.Fatal(err)
	}
	bound := func(audiences []string, ref *authenticationv1.BoundObjectReference) string {
		s.Helper()
		token, err := s.client.CoreV1().ServiceAccounts(namespace).CreateToken(s.Context(), "hotplate-agent", &authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{Audiences: audiences, BoundObjectRef: ref}}, metav1.CreateOptions{})
		if err != nil {
			s.Fatal(err)
		}
		return token.Status.Token
	}
	pod := &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pods[0].Name, UID: pods[0].UID}
	is, err := s.node(s.Context(), pods[0].Spec.NodeName)
	if err != nil {
		s.Fatal(err)
	}
	node := &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: is.Name, UID: is.UID}
	ours := []string{report.CoordinatorName}
	other := "node-1"
	if is.Name == other {
		other = "node-2"
	}
	for _, row := range []struct {
		what, token, node string
		want              int
	}{
		{"its own node", bound(ours, pod), is.Name, http.StatusOK},
		{"another node", bound(ours, pod), other, http.StatusForbidden},
		{"a token for the API", bound(nil, pod), is.Name, http.StatusUnauthorized},
		{"a token of no pod", bound(ours, nil), is.Name, http.StatusUnauthorized},
		{"a token of the Node alone", bound(ours, node), is.Name, http.StatusUnauthorized},
		{"no token", "", is.Name, http.StatusUnauthorized},
		{"nonsense", "abc", is.Name, http.StatusUnauthorized},
	} {
		if got, body := s.post(row.token, report.NodeReport{Node: row.node}); got != row.want {
			s.Errorf("%s: %d %s, want %d", row.what, got, body, row.want)
		}
	}
	may := s.kubectl("auth", "can-i", "--list", "-n", namespace, "--as", "system:serviceaccount:"+namespace+":hotplate-agent", "--no-headers")
	for line := range strings.Lines(may) {
		if strings.HasPrefix(line, "configmaps ") || strings.HasPrefix(line, "secrets ") {
			if !strings.Contains(line, "[get list watch]") {
				s.Errorf("an agent may do more: %s", line)
			}
		} else if !strings.Contains(line, "selfsubject") && !strings.HasPrefix(line, " ") {
			s.Errorf("an agent may do something else, too: %s", line)
		}
	}
	forbidden := s.triedBy("system:serviceaccount:"+namespace+":hotplate-agent", is.Name, pods[0].Name)
	return "reads ConfigMaps and Secrets of its namespace; forbidden: " + forbidden + "; reports for its own node only; other tokens are refused"
}

// triedBy tries what an agent may not do, as a user, and says what that was. Requests that would change something are patches, for
// which nothing is read before.
func (s *site) triedBy(user, node, pod string) string {
	s.Helper()
	cfg := s.c.RESTConfig()
	cfg.Impersonate.UserName = user
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		s.Fatal(err)
	}
	core, patch := client.CoreV1(), []byte(`{"metadata":{"labels":{"tried":"yes"}}}`)
	var tried []string
	for _, try := range []struct {
		what string
		do   func(ctx context.Context) error
	}{
		{"list nodes", func(ctx context.Context) error { _, err := core.Nodes().List(ctx, metav1.ListOptions{}); return err }},
		{"list pods", func(ctx context.Context) error {
			_, err := core.Pods(namespace).List(ctx, metav1.ListOptions{})
			return err
		}},
		{"list Secrets elsewhere", func(ctx context.Context) error {
			_, err := core.Secrets("kube-system").List(ctx, metav1.ListOptions{})
			return err
		}},
		{"patch a Node", func(ctx context.Context) error {
			_, err := core.Nodes().Patch(ctx, node, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		}},
		{"patch a Node's status", func(ctx context.Context) error {
			_, err := core.Nodes().Patch(ctx, node, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
			return err
		}},
		{"patch a ConfigMap", func(ctx context.Context) error {
			_, err := core.ConfigMaps(namespace).Patch(ctx, "hotplate-config", types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		}},
		{"patch a Secret", func(ctx context.Context) error {
			_, err := core.Secrets(namespace).Patch(ctx, "any", types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		}},
		{"delete a pod", func(ctx context.Context) error { return core.Pods(namespace).Delete(ctx, pod, metav1.DeleteOptions{}) }},
		{"make a token", func(ctx context.Context) error {
			_, err := core.ServiceAccounts(namespace).CreateToken(ctx, "hotplate-coordinator", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			return err
		}},
	} {
		if err := try.do(s.Context()); !apierrors.IsForbidden(err) {
			s.Errorf("to %s is not forbidden: %v", try.what, err)
		}
		tried = append(tried, try.what)
	}
	return strings.Join(tried, ", ")
}

// post reports as an agent does.
func (s *site) post(token string, r report.NodeReport) (int, string) {
	s.Helper()
	where, err := s.client.CoreV1().ConfigMaps(namespace).Get(s.Context(), "hotplate-coordinator", metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(where.Data["ca.crt"]))
	transport := &http.Transport{DialContext: s.c.Dial, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: report.CoordinatorName}}
	defer transport.CloseIdleConnections()
	body, err := json.Marshal(r)
	if err != nil {
		s.Fatal(err)
	}
	req, err := http.NewRequestWithContext(s.Context(), http.MethodPost, where.Data["url"]+report.ReportPath, bytes.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	_, err = text.ReadFrom(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(text.String())
}
