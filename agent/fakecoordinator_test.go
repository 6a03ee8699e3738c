package agent

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// fakeCoordinator answers when the test says so. It fails the test when it is talked to by two at once.
type fakeCoordinator struct {
	t       testing.TB
	one     oneAtATime
	answers chan report.Directive

	mu    sync.Mutex // guards what follows
	begun bool       // somebody has begun to report
	woken int
}

var _ Coordinator = (*fakeCoordinator)(nil)

func (c *fakeCoordinator) Run(ctx context.Context, _ func() report.NodeReport, took func(report.Directive)) {
	defer c.one.enter(c.t, "Coordinator.Run")()
	c.mu.Lock()
	c.begun = true
	c.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-c.answers:
			took(d)
		}
	}
}

func (c *fakeCoordinator) Wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.woken++
}

func (c *fakeCoordinator) reporting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.begun
}

// wokenBy is how often it was woken while f ran.
func (c *fakeCoordinator) wokenBy(f func()) int {
	c.mu.Lock()
	before := c.woken
	c.mu.Unlock()
	f()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.woken - before
}

// inCluster is a node of a cluster. start makes its agent, and another one for what that has left.
func inCluster(t *testing.T, f func(t *testing.T, n *node)) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.coordinator = &fakeCoordinator{t: t, answers: make(chan report.Directive)}
		n.start()
		f(t, n)
	})
}

// again ends the agent and starts another one with what it has left.
func (n *node) again() {
	n.t.Helper()
	if err := n.stop(); err != nil {
		n.t.Errorf("the agent ended with %v", err)
	}
	n.start()
	n.run()
	synctest.Wait()
}

// says lets the coordinator answer.
func (n *node) says(d report.Directive) {
	n.t.Helper()
	n.coordinator.answers <- d
	synctest.Wait()
}

// meaning is the digest that a test's coordinator finds for a name.
func meaning(name string) string { return digest.FromString(name).String() }

// directive grants all, and wants images by these names, each of its own digest.
func directive(hash string, names ...string) report.Directive {
	d := report.Directive{ConfigHash: hash, Pull: report.Leave{Granted: true}}
	for _, name := range names {
		d.Images = append(d.Images, report.WantedImage{Name: name, Ref: "quay.io/" + name + ":v1", Digest: meaning(name), Pin: true})
	}
	return d
}

// holds fails the test unless these are the images of the node, as "name phase".
func (n *node) holds(want ...string) {
	n.t.Helper()
	var got []string
	for _, i := range n.Report().Images {
		got = append(got, i.Name+" "+string(i.Phase))
	}
	if !slices.Equal(got, want) {
		n.t.Errorf("the node's images are %q, want %q", got, want)
	}
}

// soon is long enough for an image to become Ready.
const soon = 10 * time.Second
