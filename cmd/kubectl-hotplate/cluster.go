package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/report"
)

const (
	// statusPort is where the chart has coordinators tell what they know.
	statusPort = "8080"
	// pageSize is how many objects are asked for at once, maxAtOnce how many reports.
	pageSize  = 500
	maxAtOnce = 8
	// maxReports bounds how many nodes' reports are asked for, one by one.
	maxReports = 500
)

// errNoLeader is of a cluster in which no coordinator says what it knows.
var errNoLeader = errors.New("no coordinator leads")

// cluster is hotplate in one cluster, as the user may see it.
type cluster struct {
	api       kubernetes.Interface
	namespace string
	now       func() time.Time
}

// leader is the name of the pod that leads.
func (c cluster) leader(ctx context.Context) (string, error) {
	lease, err := c.api.CoordinationV1().Leases(c.namespace).Get(ctx, coordinator.LeaseName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", fmt.Errorf("%w in namespace %s: is hotplate installed there? Say where it is with --namespace", errNoLeader, c.namespace)
	case err != nil:
		return "", fmt.Errorf("read which coordinator leads: %w", err)
	case lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "":
		return "", fmt.Errorf("%w now: try again in a moment, or look with kubectl hotplate doctor", errNoLeader)
	}
	return *lease.Spec.HolderIdentity, nil
}

// errUnheard is of a node of which the leader knows nothing.
var errUnheard = errors.New("the coordinator has heard nothing of this node")

// ask asks the leader, through the API server.
func (c cluster) ask(ctx context.Context, path string, into any) error {
	pod, err := c.leader(ctx)
	if err != nil {
		return err
	}
	text, err := c.api.CoreV1().Pods(c.namespace).ProxyGet("", pod, statusPort, path, nil).DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("ask the coordinator that leads, %s, through the API server: %w", pod, told(err))
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("read the answer of %s (is it of another version?): %w", pod, err)
	}
	return nil
}

// told is an error with what the other side has said, which client-go hides.
func told(err error) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return err
	}
	for _, cause := range status.Status().Details.Causes {
		if cause.Type == metav1.CauseTypeUnexpectedServerResponse && cause.Message != "" {
			return fmt.Errorf("%w: %s", err, plain(cause.Message))
		}
	}
	return err
}

// heard is what the leader knows of all nodes.
func (c cluster) heard(ctx context.Context) (all []coordinator.NodeStatus, err error) {
	return all, c.ask(ctx, "v1/nodes", &all)
}

// node is what the leader knows of one node, with its report.
func (c cluster) node(ctx context.Context, name string) (is coordinator.NodeStatus, err error) {
	err = c.ask(ctx, "v1/nodes/"+name, &is)
	if err == nil && is.Report == nil {
		is.Report = &report.NodeReport{}
	}
	if unheard(err) {
		err = fmt.Errorf("node %s: %w; kubectl get nodes says whether it is there, kubectl hotplate doctor what is wrong", name, errUnheard)
	}
	return is, err
}

// unheard tells whether the leader has answered that it has no report of a node; the API server says NotFound of other things, too.
func unheard(err error) bool {
	return apierrors.IsNotFound(err) && strings.Contains(err.Error(), "no report of this node")
}

// reports are what these nodes said last. Those that cannot be had are missing.
func (c cluster) reports(ctx context.Context, nodes []coordinator.NodeStatus) (map[string]coordinator.NodeStatus, error) {
	var mu sync.Mutex
	all := map[string]coordinator.NodeStatus{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxAtOnce)
	for _, n := range nodes[:min(len(nodes), maxReports)] {
		g.Go(func() error {
			is, err := c.node(ctx, n.Node)
			if errors.Is(err, errUnheard) {
				return nil // it has gone meanwhile
			}
			mu.Lock()
			defer mu.Unlock()
			all[n.Node] = is
			return err
		})
	}
	return all, g.Wait()
}

// nodes are those that a selector matches, page by page.
func (c cluster) nodes(ctx context.Context, selector string) (all []corev1.Node, err error) {
	o := metav1.ListOptions{LabelSelector: selector, Limit: pageSize}
	for {
		page, err := c.api.CoreV1().Nodes().List(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("list nodes: %w", err)
		}
		all = append(all, page.Items...)
		if o.Continue = page.Continue; o.Continue == "" {
			return all, nil
		}
	}
}

// statuses are what is known of every node that has, or had, an agent. Where the leader cannot be asked, or has not heard a node,
// it is what Node objects say; note says so.
func (c cluster) statuses(ctx context.Context) (all []coordinator.NodeStatus, note string, err error) {
	all, askErr := c.heard(ctx)
	marked, listErr := c.nodes(ctx, coordinator.ReadyLabel)
	switch {
	case askErr != nil && (listErr != nil || len(marked) == 0):
		return nil, "", askErr
	case askErr != nil:
		note = "this is what Node objects say, without progress, because " + hint(askErr)
	case listErr != nil:
		return all, "nodes of which the coordinator has not heard yet are missing: " + hint(listErr), nil
	}
	return merge(all, marked), note, nil
}
