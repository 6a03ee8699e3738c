package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// resting is a coordinator that is told how a node that it released gets on, and answers each time.
type resting struct {
	answers chan report.Directive
	asks    chan chan report.NodeReport
	woken   chan struct{}
}

func (c *resting) Run(ctx context.Context, state func() report.NodeReport, took func(report.Directive)) {
	for {
		select {
		case <-ctx.Done():
			return
		case ask := <-c.asks:
			ask <- state()
		case d := <-c.answers:
			took(d)
		}
	}
}

func (c *resting) Wake() {
	select {
	case c.woken <- struct{}{}:
	default:
	}
}

// told is what it is told now.
func (c *resting) told() report.NodeReport {
	ask := make(chan report.NodeReport, 1)
	c.asks <- ask
	return <-ask
}

// The listener is a real one, and so is the time.
func TestANodeThatIsReleasedRests(t *testing.T) {
	c := &resting{answers: make(chan report.Directive), asks: make(chan chan report.NodeReport), woken: make(chan struct{}, 1)}
	log := new(agenttest.Log)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	fails := errors.New("containerd is away")
	listen := freePort(t)
	cfg := RestConfig{Node: "gpu-7", Version: "v1", Listen: listen, Coordinator: c, Log: log.Logger(),
		Release: func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			return fails
		}}
	ended := make(chan error, 1)
	go func() { ended <- Rest(ctx, cfg) }()
	<-c.woken
	r := c.told()
	if is := r.Condition(report.Released); r.Released || r.Node != "gpu-7" || is.Status != report.False || is.Message != "containerd is away" {
		t.Errorf("it reports %+v", r)
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		resp, err := http.Get("http://" + listen + path)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %v, %v", path, resp, err)
		}
		resp.Body.Close()
	}
	c.answers <- report.Directive{Release: true}
	mu.Lock()
	fails = nil
	mu.Unlock()
	<-c.woken // after a few seconds
	if r := c.told(); !r.Released || r.Condition(report.Released).Status != report.True {
		t.Errorf("then it reports %+v", r)
	}
	c.answers <- report.Directive{Release: true}
	select {
	case err := <-ended:
		t.Fatalf("it ended with %v", err)
	default:
	}
	c.answers <- report.Directive{}
	if err := <-ended; err != nil || ctx.Err() != nil {
		t.Errorf("it ended with %v", err)
	}
	for _, part := range []string{"not all taken back", "as it was before hotplate", "wants this node again"} {
		if got := log.Lines(part); len(got) != 1 {
			t.Errorf("%q is told %d times", part, len(got))
		}
	}
	// A program that is asked to end does.
	go func() { ended <- Rest(ctx, cfg) }()
	c.told()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	if err := Rest(t.Context(), RestConfig{}); err == nil || !strings.Contains(err.Error(), "required") {
		t.Errorf("without anything: %v", err)
	}
	http.DefaultClient.CloseIdleConnections()
}

// freePort is a loopback address that nobody listens on now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
