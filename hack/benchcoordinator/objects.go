package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/v1/random"
	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/report"
)

const (
	namespace          = "hotplate"
	configMap          = "hotplate-config"
	agentAccount       = "hotplate-agent"
	coordinatorAccount = "hotplate-coordinator"
	// host is the registry that images name. Only the mirror, which is the cluster's registry, can have them.
	host = "registry.example.com"
	// makers is how many objects are made at once.
	makers = 16
	// tokenSeconds is how long tokens are valid: longer than the run.
	tokenSeconds = 4 * 3600
)

// prepare makes all that is there before the coordinator.
func (b *bench) prepare(ctx context.Context) error {
	if _, err := b.cluster.Kubectl(ctx, "create", "namespace", namespace); err != nil {
		return err
	}
	if err := b.applyRoles(ctx); err != nil {
		return err
	}
	if err := b.writeKubeconfig(ctx); err != nil {
		return err
	}
	for _, name := range []string{"first", "second"} {
		img, err := random.Image(1<<10, 1)
		if err != nil {
			return err
		}
		if _, _, err := b.cluster.Push(ctx, "models/"+name+":v1", img); err != nil {
			return err
		}
	}
	b.cluster.Front().Reset()
	if err := b.createMap(ctx, "site-ca", map[string]string{"ca.crt": string(b.cluster.CA().PEM())}); err != nil {
		return err
	}
	if err := b.createMap(ctx, configMap, map[string]string{"config.yaml": b.config("first")}); err != nil {
		return err
	}
	return b.makeNodes(ctx)
}

// config is the document that wants these images.
func (b *bench) config(images ...string) string {
	text := fmt.Sprintf(`apiVersion: hotplate.dev/v1alpha1
registries:
- host: %s
  upstream: Deny
  mirrors:
  - url: https://%s
    ca: [site]
certs:
  bundles:
  - name: site
    configMap: {name: site-ca}
cluster: {maxConcurrentNodes: %d}
images:
`, host, b.cluster.Front().Host(), b.pullers)
	for _, name := range images {
		text += fmt.Sprintf("- {name: %s, ref: %s/models/%s:v1}\n", name, host, name)
	}
	return text
}

func (b *bench) createMap(ctx context.Context, name string, data map[string]string) error {
	_, err := b.client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data},
		metav1.CreateOptions{})
	return err
}

// applyRoles makes what the chart gives to coordinator and agents.
func (b *bench) applyRoles(ctx context.Context) error {
	chart, err := filepath.Abs(filepath.Join(b.root, "manifests/chart"))
	if err != nil {
		return err
	}
	roles, err := b.cluster.Helm(ctx, "template", "hotplate", chart, "--namespace", namespace, "-s", "templates/agent-rbac.yaml",
		"-s", "templates/coordinator-rbac.yaml")
	if err != nil {
		return err
	}
	path := filepath.Join(b.dir, "roles.yaml")
	if err := writeFile(path, roles); err != nil {
		return err
	}
	_, err = b.cluster.Kubectl(ctx, "apply", "-f", path)
	return err
}

// writeKubeconfig lets the coordinator be its service account.
func (b *bench) writeKubeconfig(ctx context.Context) error {
	token, err := b.token(ctx, coordinatorAccount, authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(tokenSeconds))})
	if err != nil {
		return err
	}
	rest := b.cluster.RESTConfig()
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["rig"] = &clientcmdapi.Cluster{Server: rest.Host, CertificateAuthorityData: b.cluster.CA().PEM()}
	cfg.AuthInfos["coordinator"] = &clientcmdapi.AuthInfo{Token: token}
	cfg.Contexts["rig"] = &clientcmdapi.Context{Cluster: "rig", AuthInfo: "coordinator", Namespace: namespace}
	cfg.CurrentContext = "rig"
	return clientcmd.WriteToFile(*cfg, b.kubeconfig())
}

func (b *bench) kubeconfig() string { return filepath.Join(b.dir, "coordinator.conf") }

func (b *bench) token(ctx context.Context, account string, spec authenticationv1.TokenRequestSpec) (string, error) {
	is, err := b.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("make a token of %s: %w", account, err)
	}
	return is.Status.Token, nil
}

// makeNodes makes each node's objects and its agent.
func (b *bench) makeNodes(ctx context.Context) error {
	b.agents = make([]*agent, b.nodes)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(makers)
	for i := range b.nodes {
		g.Go(func() error {
			name := fmt.Sprintf("gpu-%04d", i)
			token, err := b.makeNode(ctx, name)
			if err != nil {
				return fmt.Errorf("make node %s: %w", name, err)
			}
			b.agents[i] = newAgent(b.fleet, name, token)
			return nil
		})
	}
	return g.Wait()
}

// makeNode makes a Node and a pod that is on it, and returns the token of that pod.
func (b *bench) makeNode(ctx context.Context, name string) (token string, err error) {
	if _, err := b.client.CoreV1().Nodes().Create(ctx, node(name), metav1.CreateOptions{}); err != nil {
		return "", err
	}
	pod, err := b.client.CoreV1().Pods(namespace).Create(ctx, agentPod(name), metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return b.token(ctx, agentAccount, authenticationv1.TokenRequestSpec{Audiences: []string{report.CoordinatorName},
		ExpirationSeconds: new(int64(tokenSeconds)),
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}})
}

// node is a Node as its kubelet keeps it.
func node(name string) *corev1.Node {
	now := metav1.Now()
	is := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name, "example.com/pool": "gpu"}},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: coordinator.StartupTaint, Effect: corev1.TaintEffectNoSchedule}}},
		Status: corev1.NodeStatus{
			Capacity: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("96"), corev1.ResourceMemory: resource.MustParse("768Gi"),
				corev1.ResourcePods: resource.MustParse("110"), "nvidia.com/gpu": resource.MustParse("8")},
			NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1.36.3", ContainerRuntimeVersion: "containerd://2.4.2", OperatingSystem: "linux", Architecture: "amd64"},
		}}
	is.Status.Allocatable = is.Status.Capacity
	for _, c := range []struct {
		of corev1.NodeConditionType
		is corev1.ConditionStatus
	}{{corev1.NodeReady, corev1.ConditionTrue}, {corev1.NodeMemoryPressure, corev1.ConditionFalse}, {corev1.NodeDiskPressure, corev1.ConditionFalse},
		{corev1.NodePIDPressure, corev1.ConditionFalse}} {
		is.Status.Conditions = append(is.Status.Conditions, corev1.NodeCondition{Type: c.of, Status: c.is, Reason: "KubeletSaysSo",
			LastHeartbeatTime: now, LastTransitionTime: now})
	}
	const images = 30 // as many as a kubelet tells, less twenty
	for i := range images {
		is.Status.Images = append(is.Status.Images, corev1.ContainerImage{SizeBytes: 1 << 30,
			Names: []string{fmt.Sprintf("registry.example.com/team/model-server-%02d:v1.2.3", i),
				fmt.Sprintf("registry.example.com/team/model-server-%02d@sha256:%064d", i, i)}})
	}
	return is
}

// agentPod is what the DaemonSet would make. Nobody runs it.
func agentPod(node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "hotplate-agent-" + node, Labels: map[string]string{"app.kubernetes.io/component": "agent"}},
		Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: agentAccount, AutomountServiceAccountToken: new(false),
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers:  []corev1.Container{{Name: "agent", Image: host + "/hotplate/hotplate:v1"}}}}
}
