//go:build e2e

package main

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

const namespace = "hotplate"

// clustered is an agent in a cluster, as a process of its own on the control plane's network, and the coordinator that it
// talks with, which says what the test wants.
type clustered struct {
	t                             *testing.T
	c                             *rig.Cluster
	admin                         kubernetes.Interface
	bin, hosts, state, run, token string
	account                       string // the directory of the pod's ServiceAccount
	containerd                    *rig.Containerd
	log                           *os.File
	cmd                           *exec.Cmd

	mu     sync.Mutex // guards what follows
	answer func(r report.NodeReport) report.Directive
	heard  []report.NodeReport
}

func newClustered(t *testing.T) *clustered {
	rigtest.RequireRoot(t)
	dir := t.TempDir()
	n := &clustered{t: t, c: rigtest.Cluster(t, rig.ClusterConfig{}), bin: filepath.Join(dir, "hotplate-agent"),
		hosts: filepath.Join(dir, "certs.d"), state: filepath.Join(dir, "state"), run: filepath.Join(dir, "run"),
		token: filepath.Join(dir, "token"), account: filepath.Join(dir, "account")}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", n.bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, path := range []string{n.hosts, n.account} {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n.containerd = rigtest.Containerd(t, rig.ContainerdConfig{Line: "2.4", HostsDir: n.hosts})
	var err error
	if n.admin, err = kubernetes.NewForConfig(n.c.RESTConfig()); err != nil {
		t.Fatal(err)
	}
	n.install()
	n.coordinate()
	if n.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.stop()
		if text, err := os.ReadFile(n.log.Name()); t.Failed() {
			t.Logf("the agent says (%v)\n%s", err, text)
		}
		n.log.Close()
	})
	return n
}

// install makes the namespace with the agent's ServiceAccount and Role, and the files of its pod.
func (n *clustered) install() {
	n.t.Helper()
	ctx, core, rbac := n.t.Context(), n.admin.CoreV1(), n.admin.RbacV1()
	meta := metav1.ObjectMeta{Name: "hotplate-agent", Namespace: namespace}
	_, nsErr := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	_, saErr := core.ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	_, roleErr := rbac.Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""},
		Resources: []string{"configmaps", "secrets"}, Verbs: []string{"get", "list", "watch"}}}}, metav1.CreateOptions{})
	_, bindErr := rbac.RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta,
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: meta.Name, Namespace: namespace}}}, metav1.CreateOptions{})
	token, err := core.ServiceAccounts(namespace).CreateToken(ctx, meta.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err := errors.Join(nsErr, saErr, roleErr, bindErr, err); err != nil {
		n.t.Fatal(err)
	}
	for path, text := range map[string]string{
		filepath.Join(n.account, "token"): token.Status.Token, filepath.Join(n.account, "ca.crt"): string(n.c.CA().PEM()),
		filepath.Join(n.account, "namespace"): namespace, n.token: "one",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			n.t.Fatal(err)
		}
	}
}

// coordinate serves and announces the coordinator.
func (n *clustered) coordinate() {
	n.t.Helper()
	address := n.c.IP() + ":8443"
	l, err := n.c.Listen(address)
	if err != nil {
		n.t.Fatal(err)
	}
	certPEM, keyPEM, err := n.c.CA().Issue(report.CoordinatorName)
	if err != nil {
		n.t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		n.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(n.serve), ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}}))
	}()
	n.t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	n.put("hotplate-coordinator", map[string]string{"url": "https://" + address, "ca.crt": string(n.c.CA().PEM())})
}

func (n *clustered) serve(w http.ResponseWriter, req *http.Request) {
	var r report.NodeReport
	zip, err := gzip.NewReader(req.Body)
	if err == nil {
		err = json.NewDecoder(zip).Decode(&r)
	}
	if err != nil || req.URL.Path != report.ReportPath || req.Header.Get("Authorization") != "Bearer one" {
		n.t.Errorf("%s with %q: %v", req.URL.Path, req.Header, err)
	}
	n.mu.Lock()
	n.heard = append(n.heard, r)
	answer := n.answer
	n.mu.Unlock()
	if answer == nil {
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	_ = json.NewEncoder(w).Encode(answer(r))
}

// says lets the coordinator answer so from now on; nil lets it answer nothing. What it has heard is forgotten.
func (n *clustered) says(answer func(r report.NodeReport) report.Directive) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answer, n.heard = answer, nil
}

// hears waits until a report is as wanted.
func (n *clustered) hears(what string, wanted func(r report.NodeReport) bool) report.NodeReport {
	n.t.Helper()
	var last report.NodeReport
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		n.mu.Lock()
		heard := slices.Clone(n.heard)
		n.mu.Unlock()
		for _, r := range heard {
			if last = r; wanted(r) {
				return r
			}
		}
	}
	n.t.Fatalf("the coordinator has not heard that %s; the last report is\n%s", what, last.Text(time.Now()))
	return last
}

// put writes a ConfigMap.
func (n *clustered) put(name string, data map[string]string) {
	n.t.Helper()
	_, err := n.admin.CoreV1().ConfigMaps(namespace).Create(n.t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Data: data}, metav1.CreateOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
}

// start starts the agent, with the files of its pod where the kubelet puts them.
func (n *clustered) start() {
	n.t.Helper()
	n.cmd = n.c.Command(context.Background(), "unshare", "--mount", "sh", "-ec",
		`mount -t tmpfs tmpfs /run; mkdir -p /run/secrets/kubernetes.io; cp -r "$1" /run/secrets/kubernetes.io/serviceaccount; shift; exec "$@"`,
		"sh", n.account, n.bin, "--config-map=hotplate-config", "--coordinator-token="+n.token, "--run-dir="+n.run,
		"--address="+n.containerd.Address(), "--hosts-dir="+n.hosts, "--state-dir="+n.state)
	host, port, _ := strings.Cut(strings.TrimPrefix(n.c.RESTConfig().Host, "https://"), ":")
	n.cmd.Env = append(n.cmd.Env, "KUBERNETES_SERVICE_HOST="+host, "KUBERNETES_SERVICE_PORT="+port, "NODE_NAME=gpu-7",
		"HTTPS_PROXY=http://127.0.0.1:9") // which is for registries
	n.cmd.Env = append(n.cmd.Env, "NO_PROXY="+n.c.Front().Host())
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
}

// stop asks the agent to end.
func (n *clustered) stop() {
	n.t.Helper()
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	if err := n.cmd.Wait(); err != nil {
		n.t.Errorf("the agent ended with %v", err)
	}
	n.cmd = nil
}

func (n *clustered) logged(part string) bool {
	text, err := os.ReadFile(n.log.Name())
	return err == nil && strings.Contains(string(text), part)
}

// files are all in a directory; none if it is not there.
func files(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			all = append(all, rel)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// The program itself, from an empty cluster until the node is released and wanted again.
func TestTheAgentInACluster(t *testing.T) {
	n := newClustered(t)
	img, err := rig.BuildModelImage(rig.ModelSpec{Seed: 1, RawSize: 1 << 20, GzipLayers: 1, GzipSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	ref, digest, err := n.c.Push(t.Context(), "models/llama:v1", img)
	if err != nil {
		t.Fatal(err)
	}
	wants := func(r report.NodeReport) report.Directive {
		return report.Directive{ConfigHash: r.Config.Hash, Pull: report.Leave{Granted: true}, NextReport: time.Second,
			Images: []report.WantedImage{{Name: "llama", Ref: ref, Digest: digest, Pin: true}}}
	}
	holds := func(r report.NodeReport) bool {
		return len(r.Images) == 1 && r.Images[0].Phase == report.ImageReady && r.Images[0].Target == digest && r.Images[0].Ref == ref
	}
	n.says(wants)
	n.start()
	r := n.hears("there is no config", func(r report.NodeReport) bool { return len(r.Config.Rejected) > 0 })
	if r.Node != "gpu-7" || r.Config.Source != "ConfigMap hotplate/hotplate-config" ||
		!strings.Contains(r.Config.Rejected[0], "kubectl --namespace hotplate create configmap hotplate-config") {
		t.Errorf("it reports %+v of %s", r.Config, r.Node)
	}

	n.put("registry-ca", map[string]string{"ca.crt": string(n.c.CA().PEM())})
	n.put("hotplate-config", map[string]string{"config.yaml": fmt.Sprintf("apiVersion: hotplate.dev/v1alpha1\n"+
		"registries: [{host: %q, tls: {ca: [registry]}}]\ncerts: {bundles: [{name: registry, configMap: {name: registry-ca}}]}\n"+
		"restart: {policy: Never}\n", n.c.Front().Host())})
	r = n.hears("the image is Ready", holds)
	if r.Condition(report.ConfigValid).Status != report.True || r.Condition(report.RegistriesConfigured).Status != report.True {
		t.Errorf("it reports %+v", r.Conditions)
	}
	if got := files(t, n.run); !slices.Equal(got, []string{"api-answer.json"}) {
		t.Errorf("in the run directory are %q", got)
	}

	t.Run("started while API and coordinator are away", func(t *testing.T) {
		n.stop()
		if err := n.c.StopAPIServer(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.says(nil)
		n.start()
		for end := time.Now().Add(time.Minute); !n.logged("using what the Kubernetes API said before"); time.Sleep(50 * time.Millisecond) {
			if !time.Now().Before(end) {
				t.Fatal("it does not start from what it has kept")
			}
		}
		if err := n.c.StartAPIServer(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.says(wants)
		n.hears("the image is Ready still", holds)
	})

	release := func(report.NodeReport) report.Directive {
		return report.Directive{Release: true, NextReport: time.Second}
	}
	t.Run("released", func(t *testing.T) {
		n.says(release)
		r := n.hears("the node is released", func(r report.NodeReport) bool { return r.Released })
		if r.Node != "gpu-7" || r.Condition(report.Released).Status != report.True {
			t.Errorf("it reports %+v", r)
		}
		for _, dir := range []string{n.hosts, n.run} {
			if got := files(t, dir); len(got) != 0 {
				t.Errorf("left in %s: %q", filepath.Base(dir), got)
			}
		}
		for _, path := range files(t, n.state) {
			if strings.HasPrefix(path, "last-") || strings.HasSuffix(path, ".sock") {
				t.Errorf("left in the state directory: %s", path)
			}
		}
		if !n.logged("unpinned sha256:") || !n.logged("this node is as it was before hotplate") {
			t.Error("the log does not say what was done")
		}
	})
	t.Run("restarted while it is released", func(t *testing.T) {
		n.stop()
		n.says(release)
		n.start()
		n.hears("the node is released still", func(r report.NodeReport) bool { return r.Released })
		if got := files(t, n.hosts); len(got) != 0 {
			t.Errorf("in the hosts directory is %q", got)
		}
	})
	t.Run("wanted again", func(t *testing.T) {
		n.says(wants)
		n.hears("the image is Ready again", holds)
		if got := files(t, n.hosts); len(got) == 0 {
			t.Error("the hosts directory is empty")
		}
	})
}
