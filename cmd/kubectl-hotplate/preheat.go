package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/coordinator"
)

const (
	// fieldManager is by whom objects say that they were written.
	fieldManager = "kubectl-hotplate"
)

type preheatOptions struct {
	*plugin
	output
	selector string
	nodes    []string
	all      bool
	platform string
	aliases  []string
	priority int
	wait     bool
	timeout  time.Duration
}

func (p *plugin) newPreheat() *cobra.Command {
	o := &preheatOptions{plugin: p}
	cmd := &cobra.Command{
		Use:   "preheat IMAGE (--selector KEY=VALUE,... | --node NODE... | --all)",
		Short: "Have an image on nodes before a pod asks for it",
		Long: "preheat asks the coordinator to have an image on nodes, unpacked and pinned, until the request is cancelled. The request is\n" +
			"a ConfigMap in hotplate's namespace, whose name is printed. The same request again changes nothing. Nodes that join later\n" +
			"and match --selector get the image, too.\n\n" +
			"With --wait it ends when all nodes that match have the image, with exit code 1 if some cannot: those that fail for a\n" +
			"minute while no other node makes progress. The request stays then, and agents go on trying.",
		Example: "  kubectl hotplate preheat harbor.example.com/models/llama:v1 --selector pool=gpu --wait\n" +
			"  kubectl hotplate preheat harbor.example.com/models/llama:v1 --node gpu-7 --node gpu-8",
		Args:              cobra.ExactArgs(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args[0]) },
		ValidArgsFunction: p.completeFirst(imageRefs),
	}
	o.bind(cmd, asName, asJSON, asYAML)
	f := cmd.Flags()
	f.StringVarP(&o.selector, "selector", "l", "", "On nodes with all of these labels: KEY=VALUE,...")
	f.StringSliceVar(&o.nodes, "node", nil, "On this node; may be repeated")
	f.BoolVar(&o.all, "all", false, "On every node that has an agent")
	f.StringVar(&o.platform, "platform", "", "Which image of an index, such as linux/arm64 (default: the node's)")
	f.StringSliceVar(&o.aliases, "alias", nil, "Another name that pods use for the image; may be repeated")
	f.IntVar(&o.priority, "priority", 0, "Higher ones come first; those of the config are 0 where they say nothing")
	f.BoolVar(&o.wait, "wait", false, "Wait until the nodes have it")
	f.DurationVar(&o.timeout, "timeout", time.Hour, "How long to wait at most")
	cmd.MarkFlagsMutuallyExclusive("selector", "node", "all")
	cmd.MarkFlagsOneRequired("selector", "node", "all")
	_ = cmd.RegisterFlagCompletionFunc("node", p.complete(p.nodeNames)) // there is that flag
	return cmd
}

func (o *preheatOptions) run(ctx context.Context, image string) error {
	if err := o.check(); err != nil {
		return err
	}
	d, err := o.document(image)
	if err != nil {
		return err
	}
	c, err := o.cluster()
	if err != nil {
		return err
	}
	if err := o.checkNodes(ctx, c, d); err != nil {
		return err
	}
	is, did, err := c.request(ctx, d)
	if err != nil {
		return err
	}
	switch {
	case o.structured():
		err = o.print(o.Out, is)
	case o.how == asName:
		fmt.Fprintf(o.Out, "configmap/%s\n", is.Name)
	default:
		fmt.Fprintf(o.Out, "configmap/%s %s\n", is.Name, did)
	}
	if err != nil || !o.wait {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	w := &waiting{plugin: o.plugin, on: c, document: d, selector: labels.SelectorFromSet(d.NodeSelector).String()}
	if w.selector == "" {
		w.selector = coordinator.ReadyLabel // all that have an agent: others can never have it
	}
	return w.wait(ctx, is.Name)
}

// document is what is asked of the coordinator.
func (o *preheatOptions) document(image string) (d coordinator.RequestDocument, err error) {
	d = coordinator.RequestDocument{Ref: image, Aliases: o.aliases, Platform: o.platform, Priority: o.priority}
	for _, ref := range append([]string{image}, o.aliases...) {
		if err := checkImage(ref); err != nil {
			return d, err
		}
	}
	slices.Sort(o.nodes)
	d.Nodes = slices.Compact(o.nodes)
	if o.selector == "" {
		if !o.all && len(d.Nodes) == 0 {
			return d, errors.New("say on which nodes, with --selector, --node or --all")
		}
		return d, nil
	}
	if d.NodeSelector, err = labels.ConvertSelectorToLabelsMap(o.selector); err != nil {
		return d, fmt.Errorf("--selector %q: %w: write KEY=VALUE,KEY=VALUE", o.selector, err)
	}
	return d, nil
}

// checkImage says what is wrong with what people write for an image.
func checkImage(text string) error {
	if _, err := config.ParseRef(text); err != nil {
		return fmt.Errorf("image %w", err)
	}
	if !strings.ContainsAny(text, "/:@") {
		// docker.io/library/NAME is what it would mean, and what nobody means.
		return fmt.Errorf("image %q names no registry: write host/repository:tag", text)
	}
	return nil
}

// checkNodes sees that the request is for nodes that are there.
func (o *preheatOptions) checkNodes(ctx context.Context, c cluster, d coordinator.RequestDocument) error {
	for _, name := range d.Nodes {
		if _, err := c.api.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			return fmt.Errorf("there is no node %s: kubectl get nodes has their names", name)
		} else if err != nil {
			return fmt.Errorf("look for node %s: %w", name, err)
		}
	}
	if len(d.NodeSelector) == 0 {
		return nil
	}
	some, err := c.api.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(d.NodeSelector).String(), Limit: 1})
	if err != nil {
		return fmt.Errorf("look for nodes with %s: %w", o.selector, err)
	}
	if len(some.Items) == 0 {
		fmt.Fprintf(o.ErrOut, "note: no node has %s now; those that join with it will get the image\n", o.selector)
	}
	return nil
}

// request makes the ConfigMap that the coordinator goes by, or finds it.
func (c cluster) request(ctx context.Context, d coordinator.RequestDocument) (is *corev1.ConfigMap, did string, err error) {
	text, err := json.Marshal(d)
	if err != nil {
		return nil, "", fmt.Errorf("encode the request: %w", err)
	}
	is = &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Name: requestName(d.Ref, text), Namespace: c.namespace, Labels: map[string]string{coordinator.RequestLabel: "true"}},
		Data:       map[string]string{coordinator.RequestKey: string(text)}}
	maps := c.api.CoreV1().ConfigMaps(c.namespace)
	_, err = maps.Create(ctx, is, metav1.CreateOptions{FieldManager: fieldManager})
	if apierrors.IsAlreadyExists(err) {
		there, err := maps.Get(ctx, is.Name, metav1.GetOptions{})
		switch {
		case err != nil:
			return nil, "", fmt.Errorf("read the request that is there: %w", err)
		case there.Labels[coordinator.RequestLabel] != "true" || there.Data[coordinator.RequestKey] != string(text):
			return nil, "", fmt.Errorf("configmap/%s is there and says something else: somebody has edited it; kubectl hotplate cancel %s, "+
				"then try again", is.Name, is.Name)
		}
		return is, "unchanged", nil
	}
	if apierrors.IsNotFound(err) {
		return nil, "", fmt.Errorf("there is no namespace %s: say with --namespace where hotplate is", c.namespace)
	}
	if err != nil {
		return nil, "", fmt.Errorf("make the request: %w", err)
	}
	return is, "created", nil
}

// requestName is the same for the same request.
func requestName(ref string, document []byte) string {
	const most = 40
	last := ref[strings.LastIndexByte(ref, '/')+1:]
	last, _, _ = strings.Cut(last, "@")
	last = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(last))
	sum := sha256.Sum256(document)
	return "preheat-" + strings.Trim(last[:min(len(last), most)], "-") + "-" + hex.EncodeToString(sum[:4])
}
