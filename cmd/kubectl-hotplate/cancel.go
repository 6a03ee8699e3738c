package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
)

func (p *plugin) newCancel() *cobra.Command {
	return &cobra.Command{
		Use:   "cancel NAME|IMAGE",
		Short: "Take back requests for an image on nodes",
		Long: "cancel deletes the request of that NAME, as preheat has printed it, or all requests for an IMAGE. Nodes then let go of the\n" +
			"image, unless the config or an annotation wants it, too: as prefetch.whenUnwanted of the config says, it stays until the\n" +
			"kubelet needs the room, or is removed.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.cluster()
			if err != nil {
				return err
			}
			return p.cancel(cmd.Context(), c, args[0])
		},
		ValidArgsFunction: p.completeFirst(func(ctx context.Context, c cluster) (names []string) {
			all, err := c.requests(ctx)
			if err != nil {
				return nil
			}
			for _, r := range all {
				names = append(names, r.name, r.Ref)
			}
			return names
		}),
	}
}

// request is a preheat request as its ConfigMap has it.
type request struct {
	coordinator.RequestDocument
	name string
	uid  *metav1.Preconditions
	err  error // why it cannot be read
}

// requests are all that are there.
func (c cluster) requests(ctx context.Context) (all []request, err error) {
	list, err := c.api.CoreV1().ConfigMaps(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: coordinator.RequestLabel + "=true"})
	if err != nil {
		return nil, fmt.Errorf("list preheat requests: %w", err)
	}
	for _, is := range list.Items {
		all = append(all, readRequest(is))
	}
	return all, nil
}

func readRequest(is corev1.ConfigMap) request {
	r := request{name: is.Name, uid: &metav1.Preconditions{UID: &is.UID}}
	if r.err = json.Unmarshal([]byte(is.Data[coordinator.RequestKey]), &r.RequestDocument); r.err == nil {
		r.err = checkImage(r.Ref)
	}
	return r
}

func (p *plugin) cancel(ctx context.Context, c cluster, what string) error {
	all, err := c.requests(ctx)
	if err != nil {
		return err
	}
	var names []string
	n := 0
	for _, r := range all {
		names = append(names, fmt.Sprintf("%s (%s)", r.name, r.Ref))
		if r.name != what && (r.err != nil || !same(r.Ref, what)) {
			continue
		}
		err := c.api.CoreV1().ConfigMaps(c.namespace).Delete(ctx, r.name, metav1.DeleteOptions{Preconditions: r.uid})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete configmap/%s: %w", r.name, err)
		}
		fmt.Fprintf(p.Out, "configmap/%s deleted\n", r.name)
		n++
	}
	switch {
	case n > 0:
		return nil
	case len(names) == 0:
		return fmt.Errorf("there are no preheat requests in namespace %s; what the config or an annotation wants, is changed there", c.namespace)
	}
	return fmt.Errorf("no preheat request is called %q or is for that image; there are %s", what, few(names))
}
