package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// completeTimeout is how long a person waits for the Tab key.
const completeTimeout = 3 * time.Second

// names asks the cluster. What goes wrong has no place to be told: then there are no names.
type names func(ctx context.Context, c cluster) []string

func (p *plugin) complete(of names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, completeTimeout)
		defer cancel()
		c, err := p.cluster()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return of(ctx, c), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFirst completes the first argument, and nothing after it.
func (p *plugin) completeFirst(of names) cobra.CompletionFunc {
	all := p.complete(of)
	return func(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return all(cmd, args, start)
	}
}

func (p *plugin) nodeNames(ctx context.Context, c cluster) (names []string) {
	list, err := c.api.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: pageSize})
	if err != nil {
		return nil
	}
	for _, n := range list.Items {
		names = append(names, n.Name)
	}
	return names
}

// imageRefs are those that some node should hold.
func imageRefs(ctx context.Context, c cluster) (refs []string) {
	all, err := c.heard(ctx)
	if err != nil {
		return nil
	}
	seen := map[string]bool{}
	for _, n := range all {
		for _, img := range n.Images {
			if !seen[img.Ref] {
				seen[img.Ref] = true
				refs = append(refs, img.Ref)
			}
		}
	}
	return refs
}
