package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
)

func (p *plugin) newPause() *cobra.Command {
	return &cobra.Command{
		Use:   "pause [REASON]",
		Short: "Let no node restart containerd",
		Long: "pause gives no node the leave to restart containerd any more, until resume. A restart that has begun goes on to its end.\n" +
			"Registries, certificates and images are kept right as ever.",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.cluster()
			if err != nil {
				return err
			}
			reason := strings.TrimSpace(strings.Join(args, " "))
			if reason == "" {
				reason = "with kubectl hotplate pause, at " + p.now().UTC().Format(time.RFC3339)
			}
			if err := c.annotateRollout(cmd.Context(), map[string]*string{coordinator.PauseAnnotation: &reason}); err != nil {
				return err
			}
			fmt.Fprintf(p.Out, "restarts paused: %s\n", plain(reason))
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func (p *plugin) newResume() *cobra.Command {
	return &cobra.Command{
		Use:   "resume",
		Short: "Let nodes restart containerd again",
		Long: "resume takes back a pause, and lets restarts go on that have stopped by themselves, because a node rolled back or went\n" +
			"silent. See with restarts first why they stopped: the next node may end likewise. The node that rolled back stays as it is.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.cluster()
			if err != nil {
				return err
			}
			return p.resume(cmd.Context(), c)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func (p *plugin) resume(ctx context.Context, c cluster) error {
	is, r, err := c.rollout(ctx)
	if err != nil {
		return err
	}
	pause := is.Annotations[coordinator.PauseAnnotation]
	if pause == "" && r.Paused == nil {
		fmt.Fprintln(p.Out, "restarts were not paused")
		return nil
	}
	at := p.now()
	if r.Paused != nil && !at.After(r.Paused.Time) {
		at = r.Paused.Time // this machine's clock is behind the coordinator's
	}
	said := at.Add(time.Second).UTC().Format(time.RFC3339) // which drops what is less than a second
	if err := c.annotateRollout(ctx, map[string]*string{coordinator.PauseAnnotation: nil, coordinator.ResumeAnnotation: &said}); err != nil {
		return err
	}
	if pause != "" {
		fmt.Fprintf(p.Out, "restarts resumed; they were paused: %s\n", plain(pause))
	}
	if r.Paused != nil {
		fmt.Fprintf(p.Out, "restarts resumed; they had stopped because of %s: %s\n", r.Paused.Node, plain(r.Paused.Reason))
	}
	return nil
}

// rollout is which nodes restart, as the leader keeps it, and the ConfigMap in which it does; an empty one where there is none.
func (c cluster) rollout(ctx context.Context) (*corev1.ConfigMap, coordinator.Rollout, error) {
	is, err := c.api.CoreV1().ConfigMaps(c.namespace).Get(ctx, coordinator.RolloutName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return &corev1.ConfigMap{}, coordinator.Rollout{}, nil
	}
	if err != nil {
		return nil, coordinator.Rollout{}, fmt.Errorf("read which nodes restart: %w", err)
	}
	r, err := coordinator.ParseRollout(is)
	return is, r, err
}

// annotateRollout sets what people say of restarts; nil takes it off.
func (c cluster) annotateRollout(ctx context.Context, values map[string]*string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": values}})
	if err != nil {
		return fmt.Errorf("encode the annotation: %w", err)
	}
	_, err = c.api.CoreV1().ConfigMaps(c.namespace).Patch(ctx, coordinator.RolloutName, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("there is no configmap/%s in namespace %s: is hotplate installed there? Say where it is with --namespace",
			coordinator.RolloutName, c.namespace)
	}
	if err != nil {
		return fmt.Errorf("annotate configmap/%s: %w", coordinator.RolloutName, err)
	}
	return nil
}
