package coordinator

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// fixed is a config that does not change.
type fixed struct {
	s    config.Snapshot
	told bool
}

func (f *fixed) Next(ctx context.Context) (config.Snapshot, error) {
	if f.told {
		<-ctx.Done()
		return config.Snapshot{}, ctx.Err()
	}
	f.told = true
	return f.s, nil
}

func (*fixed) Close() error { return nil }

// replica runs a Server until the test ends, or end is called.
func replica(t *testing.T, client *fake.Clientset, name string) (s *Server, end func()) {
	t.Helper()
	return urgentReplica(t, client, client, name)
}

// urgentReplica is one with a client of its own for what is urgent.
func urgentReplica(t *testing.T, client, urgent *fake.Clientset, name string) (s *Server, end func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free; it is listened on when the replica leads
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	document := config.Read("test", []byte("apiVersion: hotplate.dev/v1alpha1\nimages:\n- name: a\n  ref: registry.example.com/a:v1\n"), nil)
	if document.Err != nil {
		t.Fatal(document.Err)
	}
	s, err = NewServer(ServerConfig{Client: client, Urgent: urgent, Namespace: "hotplate", Pod: name, AgentAccount: "hotplate-agent", ConfigMap: "hotplate-config", URL: "https://" + address,
		Listen: address, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Source: func(context.Context) (ConfigSource, error) { return &fixed{s: document}, nil },
		Resolver: func(config.Snapshot) (func(context.Context, string) (string, error), error) {
			return func(context.Context, string) (string, error) { return someDigest, nil }, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	ended := false
	end = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(end)
	return s, end
}

// postReport posts as an agent does, to whoever is announced.
func postReport(t *testing.T, client *fake.Clientset, token string, r report.NodeReport) (report.Directive, int) {
	t.Helper()
	is, err := client.CoreV1().ConfigMaps("hotplate").Get(t.Context(), report.CoordinatorName, metav1.GetOptions{})
	if err != nil {
		return report.Directive{}, 0
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(is.Data[report.CAKey]))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: report.CoordinatorName}}
	defer transport.CloseIdleConnections()
	r.Node = strings.TrimPrefix(token, "agent-on-")
	body, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, is.Data[report.URLKey]+report.ReportPath, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return report.Directive{}, 0
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var d report.Directive
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(data, &d); err != nil {
			t.Fatal(err)
		}
	}
	return d, resp.StatusCode
}

func get(t *testing.T, s *Server, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

// TestAReplicaLeadsUntilItEnds: reports are answered, the Node is marked, and when the leader ends another replica goes on.
func TestAReplicaLeadsUntilItEnds(t *testing.T) {
	client := fake.NewClientset(joining())
	client.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		review := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview)
		out := review.DeepCopy()
		if node, ok := strings.CutPrefix(review.Spec.Token, "agent-on-"); ok {
			out.Status = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: review.Spec.Audiences,
				User: authenticationv1.UserInfo{Username: "system:serviceaccount:hotplate:hotplate-agent", Extra: map[string]authenticationv1.ExtraValue{
					podNameExtra: {"agent-x"}, podUIDExtra: {"u"}, nodeNameExtra: {node}}}}
		}
		return true, out, nil
	})
	first, end := replica(t, client, "one")
	var d report.Directive
	await(t, "the first replica answers, with the digest", func() bool {
		var code int
		d, code = postReport(t, client, "agent-on-gpu-1", healthy())
		return code == http.StatusOK && len(d.Images) == 1 && d.Images[0].Digest == someDigest
	})
	if !d.Pull.Granted || d.Restart.Granted {
		t.Errorf("%+v", d)
	}
	await(t, "the config in force is told", func() bool {
		all, err := client.EventsV1().Events("hotplate").List(t.Context(), metav1.ListOptions{})
		return err == nil && slices.ContainsFunc(all.Items, func(e eventsv1.Event) bool {
			return e.Reason == "HotplateConfigInForce" && e.Regarding.Name == "hotplate-config"
		})
	})
	second, _ := replica(t, client, "two")
	if _, code := postReport(t, client, "stolen", healthy()); code != http.StatusUnauthorized {
		t.Errorf("a stolen token: %d", code)
	}
	ready := healthy(report.Image{Name: "a", Target: someDigest, Phase: report.ImageReady})
	ready.Config.Hash = d.ConfigHash
	await(t, "the node is marked and the taint gone", func() bool {
		_, _ = postReport(t, client, "agent-on-gpu-1", ready)
		node, err := client.CoreV1().Nodes().Get(t.Context(), "gpu-1", metav1.GetOptions{})
		return err == nil && node.Labels[ReadyLabel] == "true" && node.Labels[ImageLabels+"a"] == "ready" && !tainted(node)
	})
	for path, says := range map[string]string{
		"/v1/nodes": `"node": "gpu-1"`, "/v1/nodes/gpu-1": `"conditions"`, "/v1/restarts": "{}", "/healthz": "ok", "/readyz": "ok",
		"/metrics": `hotplate_nodes{ready="True"} 1`,
	} {
		if code, body := get(t, first, path); code != 200 || !strings.Contains(body, says) {
			t.Errorf("%s: %d %s, want %q", path, code, body, says)
		}
	}
	if code, _ := get(t, first, "/v1/nodes/nobody"); code != http.StatusNotFound {
		t.Errorf("a node that is not known: %d", code)
	}
	if code, body := get(t, second, "/v1/nodes"); code != http.StatusServiceUnavailable || !strings.Contains(body, "does not lead") {
		t.Errorf("who does not lead says %d %s", code, body)
	}
	if _, body := get(t, second, "/metrics"); !strings.Contains(body, "hotplate_coordinator_leads 0") {
		t.Error(body)
	}
	end()
	began := time.Now()
	await(t, "the second replica answers", func() bool {
		_, code := postReport(t, client, "agent-on-gpu-1", ready)
		return code == http.StatusOK && second.leads.Load() != nil
	})
	t.Log(fmt.Sprint("the second replica answered after ", time.Since(began).Round(time.Millisecond)))
}

// TestTheLeaseAndReviewsHaveAClientOfTheirOwn: with thousands of Events and Nodes to write before them, the Lease would be lost.
func TestTheLeaseAndReviewsHaveAClientOfTheirOwn(t *testing.T) {
	client, urgent := fake.NewClientset(joining()), fake.NewClientset()
	urgent.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		return true, a.(clienttesting.CreateAction).GetObject(), nil // nobody's token
	})
	replicaOf, _ := urgentReplica(t, client, urgent, "one")
	await(t, "a report is refused", func() bool {
		_, code := postReport(t, client, "stolen", healthy())
		return code == http.StatusUnauthorized && replicaOf.leads.Load() != nil
	})
	resources := func(c *fake.Clientset) map[string]bool {
		all := map[string]bool{}
		for _, a := range c.Actions() {
			all[a.GetResource().Resource] = true
		}
		return all
	}
	if got := resources(urgent); !maps.Equal(got, map[string]bool{"leases": true, "tokenreviews": true}) {
		t.Errorf("what is urgent: %v", got)
	}
	if got := resources(client); got["leases"] || got["tokenreviews"] || !got["nodes"] {
		t.Errorf("the rest: %v", got)
	}
}

// Whoever leads next must not answer while the last answer of this leader is being given.
func TestTheLeaseIsGivenBackLast(t *testing.T) {
	client := fake.NewClientset(joining())
	asked := make(chan struct{}, 1)
	client.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		asked <- struct{}{}
		out := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		out.Status = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: out.Spec.Audiences, User: authenticationv1.UserInfo{
			Username: "system:serviceaccount:hotplate:hotplate-agent", Extra: map[string]authenticationv1.ExtraValue{
				podNameExtra: {"agent-x"}, podUIDExtra: {"u"}, nodeNameExtra: {"gpu-1"}}}}
		return true, out, nil
	})
	var leader atomic.Pointer[Server]
	var early, back atomic.Bool
	client.PrependReactor("update", "leases", func(a clienttesting.Action) (bool, runtime.Object, error) {
		lease := a.(clienttesting.UpdateAction).GetObject().(*coordinationv1.Lease)
		if holder := lease.Spec.HolderIdentity; holder == nil || *holder == "" {
			early.Store(leader.Load().leads.Load() != nil)
			back.Store(true)
		}
		return false, nil, nil
	})
	s, end := replica(t, client, "one")
	leader.Store(s)
	conn := dialReplica(t, s)
	defer conn.Close()
	// A report of which the end is not there yet.
	if _, err := io.WriteString(conn, "POST "+report.ReportPath+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nContent-Length: 2\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	<-asked
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		end()
	}()
	await(t, "it listens no more", func() bool {
		c, err := net.Dial("tcp", s.cfg.Listen)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if _, err := io.WriteString(conn, "}"); err != nil {
		t.Error(err)
	}
	<-ended
	if !back.Load() || early.Load() {
		t.Errorf("given back: %v; while it still led: %v", back.Load(), early.Load())
	}
}

// dialReplica connects with a replica when it answers.
func dialReplica(t *testing.T, s *Server) (conn net.Conn) {
	t.Helper()
	await(t, "it listens", func() bool {
		c, err := tls.Dial("tcp", s.cfg.Listen, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // who it is does not matter here
		if err == nil {
			conn = c
		}
		return err == nil
	})
	return conn
}

// TestALeaderThatCannotBegin gives the Lease back and tries again, and leads when it can.
func TestALeaderThatCannotBegin(t *testing.T) {
	bad := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: RolloutName, Namespace: "hotplate"}, Data: map[string]string{RolloutKey: "{"}}
	client := fake.NewClientset(joining(), bad)
	var reads atomic.Int32
	client.PrependReactor("get", "configmaps", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.(clienttesting.GetAction).GetName() == RolloutName {
			reads.Add(1)
		}
		return false, nil, nil
	})
	s, _ := replica(t, client, "one")
	await(t, "it tries again", func() bool { return reads.Load() >= 2 })
	if s.leads.Load() != nil {
		t.Error("it leads without knowing who restarts")
	}
	bad = bad.DeepCopy()
	bad.Data = nil
	if _, err := client.CoreV1().ConfigMaps("hotplate").Update(t.Context(), bad, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, "it leads", func() bool { return s.leads.Load() != nil })
}

// TestAServerThatFailsSaysSo, and is not waited for until everything ends.
func TestAServerThatFailsSaysSo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	srv := &http.Server{ReadHeaderTimeout: headerTimeout}
	if err := ServeUntil(t.Context(), srv, func() error { return srv.Serve(l) }); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Error(err)
	}
}
