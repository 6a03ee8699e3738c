package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
)

// poll is how often a command looks at what others write.
const poll = time.Second

// errLeft means that nodes are left that are not as they were before hotplate.
var errLeft = errors.New("not every node is as it was before hotplate")

type releaseOptions struct {
	api      api
	timeout  time.Duration
	tolerate bool
	undo     bool
}

func newRelease() *cobra.Command {
	var o releaseOptions
	cmd := &cobra.Command{
		Use:   "release",
		Short: "Put every node back as it was before hotplate, and wait for it",
		Long: "release asks the leading coordinator to have every agent take back what hotplate did to its node, and waits. Nothing\n" +
			"is restarted, and pods go on running. Nodes stay so, until hotplate is installed anew or release --undo is asked for.\n" +
			"Nodes that could not be reached are named.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	o.api.bind(cmd.Flags())
	cmd.Flags().DurationVar(&o.timeout, "timeout", 4*time.Minute, "how long to wait")
	cmd.Flags().BoolVar(&o.tolerate, "tolerate-unreached", false, "end with success also if nodes are left")
	cmd.Flags().BoolVar(&o.undo, "undo", false, "let hotplate have the nodes again")
	return cmd
}

func (o *releaseOptions) run(ctx context.Context, out io.Writer) error {
	client, err := o.api.connect()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	r := releasing{maps: client.CoreV1().ConfigMaps(o.api.namespace), out: out}
	if o.undo {
		return r.undo(ctx)
	}
	asked, err := r.ask(ctx)
	if err != nil {
		return err
	}
	if err = r.summary(r.wait(ctx, asked)); errors.Is(err, errLeft) && o.tolerate {
		fmt.Fprintln(out, err)
		return nil
	}
	return err
}

// releasing talks with the leader through the ConfigMap of the rollout.
type releasing struct {
	maps corev1client.ConfigMapInterface
	out  io.Writer
}

// annotate sets the annotation, or takes it off where value is nil.
func (r releasing) annotate(ctx context.Context, value *string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]*string{coordinator.ReleaseAnnotation: value}}})
	if err != nil {
		return fmt.Errorf("encode the annotation: %w", err)
	}
	_, err = r.maps.Patch(ctx, coordinator.RolloutName, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// ask asks for a release, or joins one that was asked for, and returns by what it is known.
func (r releasing) ask(ctx context.Context) (asked string, err error) {
	asked = time.Now().UTC().Format(time.RFC3339)
	is, err := r.maps.Get(ctx, coordinator.RolloutName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = r.maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: coordinator.RolloutName,
			Annotations: map[string]string{coordinator.ReleaseAnnotation: asked}}}, metav1.CreateOptions{})
	case err == nil && is.Annotations[coordinator.ReleaseAnnotation] != "":
		return is.Annotations[coordinator.ReleaseAnnotation], nil
	case err == nil:
		err = r.annotate(ctx, &asked)
	}
	if err != nil {
		return "", fmt.Errorf("ask the coordinator by ConfigMap %s: %w", coordinator.RolloutName, err)
	}
	return asked, nil
}

func (r releasing) undo(ctx context.Context) error {
	if err := r.annotate(ctx, nil); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("undo the release by ConfigMap %s: %w", coordinator.RolloutName, err)
	}
	fmt.Fprintln(r.out, "hotplate has the nodes again")
	return nil
}

// wait returns how far the nodes are when all is done or ctx has ended; nil if nobody has answered.
func (r releasing) wait(ctx context.Context, asked string) (last *coordinator.Release) {
	told := ""
	tell := func(format string, args ...any) {
		if line := fmt.Sprintf(format, args...); line != told {
			fmt.Fprintln(r.out, line)
			told = line
		}
	}
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		is, err := r.maps.Get(ctx, coordinator.RolloutName, metav1.GetOptions{})
		now := new(coordinator.Release)
		switch {
		case err != nil && ctx.Err() == nil:
			tell("cannot see how far the nodes are: %v", err)
		case err == nil && json.Unmarshal([]byte(is.Data[coordinator.ReleaseKey]), now) == nil && now.Asked == asked:
			last = now
			tell("%d of %d nodes are as they were before hotplate", now.Released, now.Nodes)
		}
		if last != nil && last.Done {
			return last
		}
		select {
		case <-ctx.Done():
			return last
		case <-ticker.C:
		}
	}
}

// summary names what is left.
func (r releasing) summary(is *coordinator.Release) error {
	if is == nil {
		return fmt.Errorf("%w: no coordinator has answered, and nodes stay as they are. Look at its log: kubectl logs -l "+
			"app.kubernetes.io/component=coordinator", errLeft)
	}
	for _, name := range slices.Sorted(maps.Keys(is.Waiting)) {
		why := is.Waiting[name]
		if why == "" {
			why = "its agent has not begun yet"
		}
		fmt.Fprintf(r.out, "not released: %s: %s\n", name, why)
	}
	for _, name := range is.Unreached {
		fmt.Fprintf(r.out, "not reached: %s: its agent says nothing. Run there: hotplate-agent uninstall\n", name)
	}
	left := is.Nodes - is.Released
	if more := left - len(is.Waiting) - len(is.Unreached); more > 0 {
		fmt.Fprintf(r.out, "and %d more\n", more)
	}
	switch {
	case left > 0:
		return fmt.Errorf("%w: %d of %d are left", errLeft, left, is.Nodes)
	case !is.Done: // a leader that is new has not heard all yet
		return fmt.Errorf("%w, as far as is known: the coordinator has just started", errLeft)
	}
	fmt.Fprintf(r.out, "all nodes are as they were before hotplate: %d\n", is.Nodes)
	return nil
}
