package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// configName is the ConfigMap that people write the config into.
const configName = "hotplate-config"

func (p *plugin) newExplain() *cobra.Command {
	var node string
	cmd := &cobra.Command{
		Use:   "explain IMAGE --node NODE",
		Short: "Say why an image is on a node, or is not",
		Long: "explain says whether a node should hold an image and who wants that, what has become of it, and what is in the way. IMAGE is\n" +
			"a reference as pods write it, or the name of an image of the config.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.cluster()
			if err != nil {
				return err
			}
			f, err := c.facts(cmd.Context(), args[0], node)
			if err != nil {
				return err
			}
			f.explain().show(p.Out)
			return nil
		},
		ValidArgsFunction: p.completeFirst(imageRefs),
	}
	cmd.Flags().StringVar(&node, "node", "", "The node")
	_ = cmd.MarkFlagRequired("node") // there is that flag
	_ = cmd.RegisterFlagCompletionFunc("node", p.complete(p.nodeNames))
	return cmd
}

// facts are what is known of an image on a node.
type facts struct {
	now       time.Time
	namespace string // of hotplate
	image     string
	node      corev1.Node
	is        coordinator.NodeStatus
	// unheard is why is says nothing; nil if it does.
	unheard error
	// config is the one that people have written; nil if it cannot be had, for the reason in noConfig.
	config   *config.Config
	noConfig error
	requests []request
	// missing says what could not be looked at.
	missing []string
}

func (c cluster) facts(ctx context.Context, image, node string) (f facts, err error) {
	f = facts{now: c.now(), namespace: c.namespace, image: image}
	is, err := c.api.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return f, fmt.Errorf("there is no node %s: kubectl get nodes has their names", node)
	}
	if err != nil {
		return f, fmt.Errorf("look for node %s: %w", node, err)
	}
	f.node = *is
	if f.is, err = c.node(ctx, node); err != nil && !errors.Is(err, errUnheard) {
		return f, err
	}
	f.unheard = err
	if f.config, f.noConfig = c.config(ctx); f.noConfig != nil {
		f.missing = append(f.missing, "the config: "+hint(f.noConfig))
	}
	if f.requests, err = c.requests(ctx); err != nil {
		f.missing = append(f.missing, "requests: "+hint(err))
	}
	return f, nil
}

// config is what people have written for all nodes.
func (c cluster) config(ctx context.Context) (*config.Config, error) {
	is, err := c.api.CoreV1().ConfigMaps(c.namespace).Get(ctx, configName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read configmap/%s: %w", configName, err)
	}
	return config.Decode("configmap/"+configName, []byte(is.Data[config.DocumentKey]))
}

// explanation is a verdict, and what it follows from: pairs of a word and what is to be said of it.
type explanation struct {
	verdict string
	because [][2]string
	do      string
}

func (e *explanation) add(word, format string, args ...any) {
	e.because = append(e.because, [2]string{word, fmt.Sprintf(format, args...)})
}

func (e explanation) show(out io.Writer) {
	fmt.Fprintln(out, plain(e.verdict))
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	for _, b := range e.because {
		fmt.Fprintf(w, "  %s\t%s\n", b[0], plain(b[1]))
	}
	w.Flush()
	if e.do != "" {
		fmt.Fprintf(out, "do: %s\n", plain(e.do))
	}
}

// about tells whether an image of the config, or what becomes of one, is the one that is asked about.
func (f facts) about(name string, refs ...string) bool {
	return name == f.image || slices.ContainsFunc(refs, func(ref string) bool { return same(ref, f.image) })
}

func (f facts) explain() (e explanation) {
	defer func() {
		for _, m := range f.missing {
			e.add("not seen", "%s", m)
		}
	}()
	if f.unheard != nil {
		e.verdict = fmt.Sprintf("%s on %s: not known", f.image, f.node.Name)
		e.add("node", "%v", f.unheard)
		e.do = fmt.Sprintf("see whether an agent runs there: kubectl -n %s get pods -l %s=%s --field-selector spec.nodeName=%s", f.namespace,
			componentLabel, agentComponent, f.node.Name)
		return e
	}
	i := slices.IndexFunc(f.is.Images, func(img coordinator.ImageStatus) bool { return f.about(img.Name, append(img.Aliases, img.Ref)...) })
	if i < 0 {
		f.unwanted(&e)
		return e
	}
	f.wanted(&e, f.is.Images[i])
	return e
}

// unwanted explains an image that the node should not hold.
func (f facts) unwanted(e *explanation) {
	e.verdict = fmt.Sprintf("%s on %s: nobody wants it there", f.image, f.node.Name)
	for _, img := range f.configured() {
		if miss := lacks(img.NodeSelector, f.node.Labels); miss != "" {
			e.add("config", "image %s is for nodes with %s only", img.Name, miss)
		} else {
			e.add("config", "image %s is wanted here since just now, or the config is rejected: kubectl hotplate doctor", img.Name)
		}
	}
	for _, r := range f.requests {
		if r.err != nil || !f.about("", append(r.Aliases, r.Ref)...) {
			continue
		}
		switch miss := lacks(r.NodeSelector, f.node.Labels); {
		case miss != "":
			e.add("request", "configmap/%s is for nodes with %s only", r.name, miss)
		case len(r.Nodes) > 0 && !slices.Contains(r.Nodes, f.node.Name):
			e.add("request", "configmap/%s is for %s only", r.name, few(r.Nodes))
		default:
			e.add("request", "configmap/%s is for this node; the coordinator has not taken it up yet, or its log says why not", r.name)
		}
	}
	for _, fault := range f.is.Faults {
		e.add("annotation", "%s", fault)
	}
	for _, img := range f.node.Status.Images {
		if slices.ContainsFunc(img.Names, func(name string) bool { return same(name, f.image) }) {
			e.add("there", "all the same, as the kubelet says (%s); it may remove it when it needs the room", report.Bytes(img.SizeBytes))
		}
	}
	ref := f.image
	if checkImage(ref) != nil {
		ref = "IMAGE"
	}
	e.do = fmt.Sprintf("to have it there: kubectl hotplate preheat %s --node %s", ref, f.node.Name)
}

// configured are the images of the config that are asked about.
func (f facts) configured() (all []config.Image) {
	if f.config == nil {
		return nil
	}
	for _, img := range f.config.Images {
		if f.about(img.Name, append(img.Aliases, img.Ref)...) {
			all = append(all, img)
		}
	}
	return all
}

// lacks is the first of a selector that labels have not; empty if they have all.
func lacks(selector, labels map[string]string) string {
	for _, key := range slices.Sorted(maps.Keys(selector)) {
		if got, ok := labels[key]; !ok || got != selector[key] {
			return key + "=" + selector[key]
		}
	}
	return ""
}

// wanted explains an image that the node should hold.
func (f facts) wanted(e *explanation, img coordinator.ImageStatus) {
	is, found := reported(f.is, img.WantedImage)
	f.whoWants(e, img)
	if img.Digest != "" {
		e.add("digest", "%s", img.Digest)
	}
	if found {
		e.add("agent says", "%s", said(is, f.now))
	}
	for _, advice := range is.Advice {
		e.add("advice", "%s", advice)
	}
	switch {
	case f.is.Reason == coordinator.ReasonSilent:
		e.verdict = fmt.Sprintf("%s on %s: not known: %s", img.Ref, f.node.Name, f.is.Message)
		e.do = "see why its agent is silent: kubectl hotplate doctor"
	case img.State == coordinator.ImageReady:
		e.verdict = fmt.Sprintf("%s on %s: Ready, pods start without a pull", img.Ref, f.node.Name)
		if !is.Pinned {
			e.add("not pinned", "the kubelet may remove it when it needs the room")
		}
	default:
		e.verdict = fmt.Sprintf("%s on %s: not Ready: %s", img.Ref, f.node.Name, f.inTheWay(e, img, is, found))
	}
}

// whoWants adds who asked for an image.
func (f facts) whoWants(e *explanation, img coordinator.ImageStatus) {
	known := false
	for _, set := range f.configured() {
		if lacks(set.NodeSelector, f.node.Labels) == "" {
			e.add("wanted by", "the config, as image %s", set.Name)
			known = true
		}
	}
	for _, r := range f.requests {
		if r.err == nil && same(r.Ref, img.Ref) && lacks(r.NodeSelector, f.node.Labels) == "" && (len(r.Nodes) == 0 || slices.Contains(r.Nodes, f.node.Name)) {
			e.add("wanted by", "the request configmap/%s", r.name)
			known = true
		}
	}
	for _, entry := range strings.FieldsFunc(f.node.Annotations[coordinator.PreheatAnnotation], func(r rune) bool { return strings.ContainsRune(", \n\t", r) }) {
		if entry == img.Name || same(entry, img.Ref) {
			e.add("wanted by", "the node's annotation %s", coordinator.PreheatAnnotation)
			known = true
		}
	}
	if !known {
		e.add("wanted by", "the config in force, as image %s", img.Name)
	}
}

// said is what the agent says of an image, on one line.
func said(is report.Image, now time.Time) string {
	s := string(is.Phase)
	if is.Reason != "" {
		s += ", " + is.Reason
	}
	if is.BytesTotal > 0 {
		s += fmt.Sprintf("; %s %s", strings.TrimSpace(bar(is.BytesDone, is.BytesTotal, is.Phase == report.ImageReady)), amount(is.BytesDone, is.BytesTotal))
	}
	if is.Rate > 0 {
		s += fmt.Sprintf("; %s, %s left", report.Rate(is.Rate), report.Left(is.Left))
	}
	if is.Message != "" {
		s += "; " + is.Message
	}
	if !is.Retry.IsZero() {
		s += fmt.Sprintf("; tried again in %s", max(is.Retry.Sub(now), 0).Round(time.Second))
	}
	return s
}

// inTheWay says why an image is not Ready, and adds what it follows from.
func (f facts) inTheWay(e *explanation, img coordinator.ImageStatus, is report.Image, found bool) string {
	r := f.is.Report
	for _, kind := range []string{report.ContainerdHealthy, report.RegistriesConfigured, report.HostsLive} {
		if c := r.Condition(kind); c.Status != report.True {
			e.add("in the way", "%s is %s, %s: %s", kind, c.Status, c.Reason, c.Message)
		}
	}
	for _, fault := range r.Config.Rejected {
		e.add("config", "the node rejects the newest one: %s", fault)
	}
	f.registry(e, img.Ref)
	switch {
	case img.Digest == "" && f.is.Reason == coordinator.ReasonUnresolved:
		e.do = "see that the registry has it under that name, and that the config's login may read it"
		return f.is.Message
	case img.Digest == "":
		return "the coordinator looks up what the tag means"
	case !found:
		e.do = "wait some seconds; if it stays so, look at the agent's log"
		return "the agent has not begun yet"
	case is.Phase == report.ImageFailed:
		e.do = "docs/operations.md, Images, has what to do about " + is.Reason + "; it is tried again by itself"
		return "it failed: " + is.Reason
	case is.Reason != "":
		return fmt.Sprintf("%s, %s", is.Phase, is.Reason)
	}
	return string(is.Phase)
}

// registry adds what is wrong with where an image comes from.
func (f facts) registry(e *explanation, ref string) {
	named, err := config.ParseRef(ref)
	if err != nil {
		return
	}
	for _, reg := range f.is.Report.Registries {
		if reg.Host != reference.Domain(named) && reg.Host != "_default" {
			continue
		}
		if reg.State != report.RegistryApplied {
			e.add("registry", "%s is %s: %s", reg.Host, reg.State, reg.Message)
		}
		for _, m := range reg.Mirrors {
			if !m.Reachable {
				e.add("mirror", "%s does not answer: %s", m.URL, m.Message)
			}
		}
	}
	for _, t := range f.is.Report.Throttled {
		e.add("asked to wait", "%s, for %s", t.Host, t.For.Round(time.Second))
	}
}
