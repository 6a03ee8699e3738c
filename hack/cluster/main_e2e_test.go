//go:build e2e

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/hack/image/build"
	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

const (
	root      = "../.."
	namespace = "hotplate"
	// host is the registry that images name. Nobody resolves it: only the mirror can have them.
	host = "registry.example.com"
	// modelSize is that of the layer of weights of a model, in bytes.
	modelSize = 8 << 20
)

// site is a cluster in which hotplate is about to be installed, as its administrator sees it.
type site struct {
	*testing.T
	c      *rig.Cluster
	client kubernetes.Interface
	chart  string
	// image has the programs, as repository and digest.
	repository, digest string
}

// table is what all rows of a run showed.
type table struct {
	mu   sync.Mutex
	rows []string // guarded by mu
}

// shown is filled by all tests, one after the other, and written when they have ended.
var shown table

func (tb *table) add(what, happened string) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.rows = append(tb.rows, fmt.Sprintf("| %s | %s |\n", what, happened))
}

// write prints the table, and keeps it, of a run in which all went well, beside the file that rigtest.TableVariable names.
func (tb *table) write(well bool) error {
	text := "| what was done | what happened |\n|---|---|\n" + strings.Join(tb.rows, "")
	fmt.Print(text)
	beside := os.Getenv(rigtest.TableVariable)
	if beside == "" || len(tb.rows) == 0 || !well {
		return nil
	}
	about := fmt.Sprintf("# What was shown in a cluster\n\nWritten by `make e2e-full`; do not edit. %s. The cluster has a real control plane and three\n"+
		"nodes with systemd, containerd and a kubelet; hotplate is installed with helm. [cluster.md](cluster.md) says how it works.\n\n", rigtest.Machine())
	return os.WriteFile(filepath.Join(filepath.Dir(beside), "cluster-table.md"), []byte(about+text), 0o644)
}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := shown.write(code == 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// newSite starts a cluster whose registry has hotplate's image.
func newSite(t *testing.T, nodes ...rig.ClusterNodeConfig) *site {
	s := &site{T: t, c: rigtest.Cluster(t, rig.ClusterConfig{Nodes: nodes})}
	var err error
	if s.chart, err = filepath.Abs(filepath.Join(root, "manifests/chart")); err != nil {
		t.Fatal(err)
	}
	if s.client, err = kubernetes.NewForConfig(s.c.RESTConfig()); err != nil {
		t.Fatal(err)
	}
	s.pushPrograms()
	s.kubectl("create", "namespace", namespace)
	s.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged")
	t.Cleanup(func() {
		if t.Failed() {
			s.describe()
		}
	})
	return s
}

// pushPrograms builds the image of this tree, for this machine, and pushes it.
func (s *site) pushPrograms() {
	s.Helper()
	source, err := build.FromGit(s.Context(), root)
	if err != nil {
		s.Fatal(err)
	}
	platform := v1.Platform{OS: "linux", Architecture: "amd64"}
	built, err := build.Image(s.Context(), build.Config{Dir: root, Source: source, Platforms: []v1.Platform{platform},
		Builder: "https://builder.example.com/1"}, filepath.Join(s.TempDir(), "image"))
	if err != nil {
		s.Fatal(err)
	}
	img, err := built.Platform(platform)
	if err != nil {
		s.Fatal(err)
	}
	ref, digest, err := s.c.Push(s.Context(), "hotplate/hotplate:test", img)
	if err != nil {
		s.Fatal(err)
	}
	s.repository, s.digest = strings.TrimSuffix(ref, ":test"), digest
}

// pushModel pushes an image that can run and has weights, and returns its digest. The reference of pods is host/models/NAME.
func (s *site) pushModel(name string, seed int64) (digest string) {
	s.Helper()
	base, err := rig.BusyboxImage(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	weights, err := random.Layer(modelSize, types.DockerLayer, random.WithSource(newSource(seed)))
	if err != nil {
		s.Fatal(err)
	}
	img, err := mutate.AppendLayers(base, weights)
	if err != nil {
		s.Fatal(err)
	}
	_, digest, err = s.c.Push(s.Context(), "models/"+name, img)
	if err != nil {
		s.Fatal(err)
	}
	return digest
}

// longRow is a row that takes minutes, and so is run only with HOTPLATE_FULL=1.
func (s *site) longRow(what string, f func(s *site) (happened string)) bool {
	if !rigtest.Full() {
		s.Logf("left out, because it takes minutes; set HOTPLATE_FULL=1: %s", what)
		return true
	}
	return s.row(what, f)
}

// row runs one line of the table; happened is what to say of it when it went well.
func (s *site) row(what string, f func(s *site) (happened string)) bool {
	return s.Run(what, func(t *testing.T) {
		inner := *s
		inner.T = t
		start := time.Now()
		happened := f(&inner)
		if t.Failed() {
			happened = "FAILED"
		}
		shown.add(what, happened)
		t.Logf("%s (%s)", happened, time.Since(start).Round(time.Second))
	})
}

func (s *site) kubectl(args ...string) string {
	s.Helper()
	out, err := s.c.Kubectl(s.Context(), args...)
	if err != nil {
		s.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func (s *site) helm(args ...string) string {
	s.Helper()
	out, err := s.c.Helm(s.Context(), append(args, "--namespace", namespace)...)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// values are what every installation here sets: where the image is.
func (s *site) values() []string {
	return []string{"--set", "image.repository=" + s.repository, "--set", "image.digest=" + s.digest}
}

// configure edits the ConfigMap of nodes.
func (s *site) configure(images string) {
	s.Helper()
	s.config(fmt.Sprintf(`apiVersion: hotplate.dev/v1alpha1
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
cluster: {resolveInterval: 30s}
images: %s
`, host, s.c.Front().Host(), images))
}

// config writes the ConfigMap of nodes as it is given.
func (s *site) config(text string) {
	s.Helper()
	s.configMap("hotplate-config", map[string]string{"config.yaml": text})
}

func (s *site) configMap(name string, data map[string]string) {
	s.Helper()
	maps := s.client.CoreV1().ConfigMaps(namespace)
	is := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
	_, err := maps.Update(s.Context(), is, metav1.UpdateOptions{})
	if err != nil {
		_, err = maps.Create(s.Context(), is, metav1.CreateOptions{})
	}
	if err != nil {
		s.Fatal(err)
	}
}

// await waits until check is content.
func (s *site) await(what string, check func(ctx context.Context) error) {
	s.Helper()
	if err := s.c.Await(s.Context(), what, check); err != nil {
		s.Fatal(err)
	}
}

// awaitLong waits for what takes several restarts of containerd, with their soak times.
func (s *site) awaitLong(what string, check func(ctx context.Context) error) {
	s.Helper()
	end := time.Now().Add(6 * time.Minute)
	for {
		err := s.c.Await(s.Context(), what, check)
		if err == nil {
			return
		}
		if !time.Now().Before(end) {
			s.Fatal(err)
		}
	}
}

func (s *site) node(ctx context.Context, name string) (*corev1.Node, error) {
	return s.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
}

// says is what a Node says of a condition, as "Status Reason: Message".
func says(node *corev1.Node, condition string) string {
	for _, c := range node.Status.Conditions {
		if string(c.Type) == condition {
			return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
		}
	}
	return ""
}

// becomes waits until the condition HotplateReady of a node begins so, and its labels are these.
func (s *site) becomes(node, want string, labels ...string) {
	s.Helper()
	s.await(fmt.Sprintf("%s to become %s with %v", node, want, labels), func(ctx context.Context) error {
		is, err := s.node(ctx, node)
		if err != nil {
			return err
		}
		if got := says(is, "HotplateReady"); !strings.HasPrefix(got, want) {
			return fmt.Errorf("it says %q", got)
		}
		for _, label := range labels {
			key, value, _ := strings.Cut(label, "=")
			if got := is.Labels[key]; got != value {
				return fmt.Errorf("label %s is %q", key, got)
			}
		}
		return nil
	})
}

// allBecome waits for every node.
func (s *site) allBecome(want string, labels ...string) {
	s.Helper()
	for _, n := range s.c.Nodes() {
		s.becomes(n.Name, want, labels...)
	}
}

// describe logs what is known when a test has failed.
func (s *site) describe() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.Context()), time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"get", "nodes,pods", "-A", "-o", "wide"}, {"get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"logs", "-n", namespace, "-l", "app.kubernetes.io/component=coordinator", "--tail=60", "--prefix"},
		{"logs", "-n", namespace, "-l", "app.kubernetes.io/component=agent", "--tail=60", "--prefix"},
		{"get", "configmap", "-n", namespace, "-o", "yaml"},
	} {
		out, err := s.c.Kubectl(ctx, args...)
		s.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// write writes a file of the test's and returns its path.
func (s *site) write(name, text string) string {
	s.Helper()
	dir, err := os.MkdirTemp("", "cluster") // kubectl takes the comma in a test's name for the end of a path
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.Fatal(err)
	}
	return path
}

// askLeader asks the leader's status server, through the API server.
func (s *site) askLeader(ctx context.Context, path ...string) ([]byte, error) {
	name, err := s.leader(ctx)
	if err != nil {
		return nil, err
	}
	text, err := s.client.CoreV1().RESTClient().Get().Namespace(namespace).Resource("pods").Name(name + ":8080").SubResource("proxy").
		Suffix(path...).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the leader: %w", err)
	}
	return text, nil
}

// heard is when the leader heard each node last.
func (s *site) heard(ctx context.Context) (map[string]time.Time, error) {
	text, err := s.askLeader(ctx, "v1", "nodes")
	if err != nil {
		return nil, err
	}
	var nodes []coordinator.NodeStatus
	if err := json.Unmarshal(text, &nodes); err != nil {
		return nil, err
	}
	all := map[string]time.Time{}
	for _, n := range nodes {
		all[n.Node] = n.Heard
	}
	return all, nil
}

// events are what is said of a pod, in order.
func (s *site) events(kind, name string) string {
	s.Helper()
	return s.kubectl("get", "events", "-A", "--field-selector", "involvedObject.kind="+kind+",involvedObject.name="+name,
		"-o", `jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}`)
}

var errNotYet = errors.New("not yet")
