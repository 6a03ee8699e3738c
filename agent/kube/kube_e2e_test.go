//go:build e2e

package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// wire is the agent's way to the API server. It counts what comes, and can be cut.
type wire struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	came atomic.Int64

	mu    sync.Mutex // guards what follows
	cut   bool
	conns map[*conn]bool
}

type conn struct {
	net.Conn
	wire *wire
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.wire.came.Add(int64(n))
	return n, err
}

func (c *conn) Close() error {
	c.wire.mu.Lock()
	delete(c.wire.conns, c)
	c.wire.mu.Unlock()
	return c.Conn.Close()
}

func (w *wire) connect(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return nil, errRefused
	}
	inner, err := w.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: inner, wire: w}
	w.conns[c] = true
	return c, nil
}

func (w *wire) away(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	if cut {
		for c := range w.conns {
			_ = c.Conn.Close() // as a network does that is gone
		}
	}
}

// real is a namespace of a real API server, with the agent's ServiceAccount and its Role as the chart has them.
func real(t *testing.T, c *rig.Cluster, namespace string) (*suite, *wire) {
	t.Helper()
	admin, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	meta := metav1.ObjectMeta{Name: "hotplate-agent", Namespace: namespace}
	core, rbac := admin.CoreV1(), admin.RbacV1()
	_, nsErr := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	_, saErr := core.ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	_, roleErr := rbac.Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""},
		Resources: []string{"configmaps", "secrets"}, Verbs: []string{"get", "list", "watch"}}}}, metav1.CreateOptions{})
	_, bindErr := rbac.RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta,
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: meta.Name, Namespace: namespace}}}, metav1.CreateOptions{})
	token, err := core.ServiceAccounts(namespace).CreateToken(ctx, meta.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err := errors.Join(nsErr, saErr, roleErr, bindErr, err); err != nil {
		t.Fatal(err)
	}
	w := &wire{dial: c.Dial, conns: make(map[*conn]bool)}
	cfg := c.RESTConfig()
	cfg.TLSClientConfig = rest.TLSClientConfig{CAData: cfg.CAData, CAFile: cfg.CAFile, ServerName: cfg.ServerName}
	cfg.BearerToken, cfg.Dial = token.Status.Token, w.connect
	agent, err := NewClient(cfg, "hotplate-agent/test")
	if err != nil {
		t.Fatal(err)
	}
	return &suite{t: t, admin: admin, agent: agent, namespace: namespace, away: w.away, patience: time.Minute, quiet: 10 * time.Second,
		runDir: filepath.Join(t.TempDir(), "run"), log: new(agenttest.Log)}, w
}

func TestSourceWithARealAPI(t *testing.T) {
	c := rigtest.Cluster(t, rig.ClusterConfig{})
	t.Run("rows", func(t *testing.T) {
		n := 0
		for name, row := range rows() {
			n++
			namespace := fmt.Sprintf("row-%d", n)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s, _ := real(t, c, namespace)
				began := time.Now()
				row(s)
				t.Logf("%s: %s", name, time.Since(began).Round(time.Millisecond))
			})
		}
	})
	t.Run("a change takes effect within seconds", func(t *testing.T) { quickly(t, c) })
	t.Run("what the agent may not do", func(t *testing.T) { mayNot(t, c) })
	t.Run("a namespace full of big ConfigMaps", func(t *testing.T) { crowded(t, c) })
	t.Run("the API server itself goes away and comes back", func(t *testing.T) { serverAway(t, c) })
}

func quickly(t *testing.T, c *rig.Cluster) {
	s, _ := real(t, c, "quickly")
	s.document(withImage("a"))
	source := s.source()
	s.next(source)
	var slowest time.Duration
	for i := range 10 {
		name := fmt.Sprintf("image-%d", i)
		began := time.Now()
		s.document(withImage(name))
		if got := s.next(source); image(got) != name {
			t.Fatalf("image %q, %v", image(got), got.Err)
		}
		slowest = max(slowest, time.Since(began))
	}
	t.Logf("the slowest of ten changes was seen after %s", slowest.Round(time.Millisecond))
	if slowest > 5*time.Second {
		t.Errorf("a change was seen after %s", slowest)
	}
}

// mayNot lists what the agent's token is refused, which is everything but to read two kinds of object of one namespace.
func mayNot(t *testing.T, c *rig.Cluster) {
	s, _ := real(t, c, "own")
	other, _ := real(t, c, "other")
	other.putSecret("theirs", map[string]string{"password": "hunter2"})
	ctx := t.Context()
	core := s.agent.CoreV1()
	one := metav1.ObjectMeta{Name: "mine"}
	for what, do := range map[string]func() error{
		"list ConfigMaps of another namespace": func() error { _, err := core.ConfigMaps("other").List(ctx, metav1.ListOptions{}); return err },
		"get a Secret of another namespace":    func() error { _, err := core.Secrets("other").Get(ctx, "theirs", metav1.GetOptions{}); return err },
		"list Secrets of kube-system":          func() error { _, err := core.Secrets("kube-system").List(ctx, metav1.ListOptions{}); return err },
		"list Secrets of all namespaces":       func() error { _, err := core.Secrets("").List(ctx, metav1.ListOptions{}); return err },
		"list Nodes":                           func() error { _, err := core.Nodes().List(ctx, metav1.ListOptions{}); return err },
		"list Pods":                            func() error { _, err := core.Pods("own").List(ctx, metav1.ListOptions{}); return err },
		"create a ConfigMap": func() error {
			_, err := core.ConfigMaps("own").Create(ctx, &corev1.ConfigMap{ObjectMeta: one}, metav1.CreateOptions{})
			return err
		},
		"create a Secret": func() error {
			_, err := core.Secrets("own").Create(ctx, &corev1.Secret{ObjectMeta: one}, metav1.CreateOptions{})
			return err
		},
		"delete a ConfigMap": func() error { return core.ConfigMaps("own").Delete(ctx, "kube-root-ca.crt", metav1.DeleteOptions{}) },
		"create a token": func() error {
			_, err := core.ServiceAccounts("own").CreateToken(ctx, "hotplate-agent", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			return err
		},
	} {
		err := do()
		if !apierrors.IsForbidden(err) {
			t.Errorf("the agent may %s: %v", what, err)
			continue
		}
		t.Logf("the agent may not %s", what)
	}
}

// crowded shows that what is not named costs nothing, neither on the wire nor in memory.
func crowded(t *testing.T, c *rig.Cluster) {
	s, w := real(t, c, "crowded")
	const size = 900 << 10
	for i := range 40 {
		s.put(fmt.Sprintf("big-%d", i), map[string]string{"x": strings.Repeat("x", size)})
	}
	s.document(withImage("a"))
	source := s.source()
	s.next(source)
	for i := range 10 {
		s.put(fmt.Sprintf("big-%d", i), map[string]string{"x": strings.Repeat("y", size)})
	}
	s.document(withImage("b"))
	if got := s.next(source); image(got) != "b" {
		t.Errorf("image %q, %v", image(got), got.Err)
	}
	came := w.came.Load()
	t.Logf("of 50 times %d bytes beside the document, the agent was sent %d bytes in all", size, came)
	if came > 100<<10 {
		t.Errorf("the agent was sent %d bytes", came)
	}
}

func serverAway(t *testing.T, c *rig.Cluster) {
	s, _ := real(t, c, "server-away")
	s.document(withImage("a"))
	source := s.source()
	s.next(source)
	if err := c.StopAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.none(source, "the API server is away")
	late := s.source()
	if got := s.next(late); image(got) != "a" {
		t.Errorf("started meanwhile: image %q, %v", image(got), got.Err)
	}
	if err := c.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s.document(withImage("b"))
	for _, source := range []*Source{source, late} {
		if got := s.next(source); image(got) != "b" {
			t.Errorf("image %q, %v", image(got), got.Err)
		}
	}
	t.Logf("a change after the API server was back is seen after %s", time.Since(began).Round(time.Millisecond))
}
