package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/kube"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// maxNodes bounds how many Nodes check reads.
const maxNodes = 500

type checkOptions struct {
	api     api
	timeout time.Duration
}

func newCheck() *cobra.Command {
	var o checkOptions
	cmd := &cobra.Command{
		Use:   "check",
		Short: "See that a coordinator leads and hears nodes, for helm test",
		Long: "check waits until a coordinator leads, has said where it is and has heard a node, and prints what it says of nodes. That\n" +
			"they are not Ready yet is no failure: images take their time.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	o.api.bind(cmd.Flags())
	cmd.Flags().DurationVar(&o.timeout, "timeout", time.Minute, "how long to wait")
	return cmd
}

func (o *checkOptions) run(ctx context.Context, out io.Writer) error {
	client, err := o.api.connect()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	return check(ctx, client, o.api.namespace, out)
}

func check(ctx context.Context, client kubernetes.Interface, namespace string, out io.Writer) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		err := look(ctx, client, namespace, out)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}

// look prints what is said of nodes, or returns what is missing.
func look(ctx context.Context, client kubernetes.Interface, namespace string, out io.Writer) error {
	lease, err := client.CoordinationV1().Leases(namespace).Get(ctx, coordinator.LeaseName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("no coordinator leads: read its Lease: %w", err)
	}
	holder, renewed := lease.Spec.HolderIdentity, lease.Spec.RenewTime
	if holder == nil || *holder == "" || renewed == nil || time.Since(renewed.Time) > 2*coordinator.LeaseDuration {
		return errors.New("no coordinator leads: nobody renews its Lease")
	}
	is, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, report.CoordinatorName, metav1.GetOptions{})
	if err != nil || is.Data[report.URLKey] == "" {
		return fmt.Errorf("%s leads, but has not said where it is: %w", *holder, errors.Join(err, kube.ErrNoCoordinator))
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: maxNodes})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	var rows []string
	for _, node := range nodes.Items {
		if c, ok := condition(&node); ok {
			rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\n", node.Name, c.Status, c.Reason, c.Message))
		}
	}
	if len(rows) == 0 {
		return fmt.Errorf("%s leads, but has heard no node yet; look at an agent's log: kubectl logs -l app.kubernetes.io/component=agent", *holder)
	}
	fmt.Fprintf(out, "%s leads, at %s\n", *holder, is.Data[report.URLKey])
	text := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprint(text, "NODE\tREADY\tREASON\tMESSAGE\n", strings.Join(rows, ""))
	return text.Flush()
}

func condition(node *corev1.Node) (corev1.NodeCondition, bool) {
	for _, c := range node.Status.Conditions {
		if c.Type == coordinator.ConditionReady {
			return c, true
		}
	}
	return corev1.NodeCondition{}, false
}
