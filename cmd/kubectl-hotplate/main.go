package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
)

const (
	// defaultNamespace is where docs/install.md puts hotplate.
	defaultNamespace = "hotplate"
	// completer is the name by which kubectl asks for completions of this plugin.
	completer = "kubectl_complete-hotplate"
	// What is asked of the API at most, in requests a second; as kubectl does.
	clientQPS   = 50
	clientBurst = 300
)

// version is set by the linker.
var version = "devel"

// errSilent ends the program with code 1 after it has already said why.
var errSilent = errors.New("")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills at once
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	cmd := newCommand(streams, nil)
	cmd.SetArgs(arguments(os.Args))
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		os.Exit(0)
	}
	if !errors.Is(err, errSilent) {
		fmt.Fprintln(os.Stderr, "error:", plain(hint(err)))
	}
	os.Exit(1)
}

// arguments are those of the command, by the name under which the program was started.
func arguments(argv []string) []string {
	if filepath.Base(argv[0]) == completer {
		return append([]string{cobra.ShellCompRequestCmd}, argv[1:]...)
	}
	return argv[1:]
}

// hint says what to do about an error of the API where that is not plain.
func hint(err error) string {
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		return err.Error() + ": ask an administrator of the cluster for the rights in docs/kubectl.md"
	}
	return err.Error()
}

// plugin is what all commands have in common.
type plugin struct {
	genericiooptions.IOStreams
	flags   *genericclioptions.ConfigFlags
	connect func() (kubernetes.Interface, error)
	now     func() time.Time
	// every is how often something is looked at again.
	every time.Duration
}

// newCommand is the whole program. connect finds the API; nil for the one that flags and kubeconfig name.
func newCommand(streams genericiooptions.IOStreams, connect func() (kubernetes.Interface, error)) *cobra.Command {
	p := &plugin{IOStreams: streams, flags: genericclioptions.NewConfigFlags(true), connect: connect, now: time.Now, every: 2 * time.Second}
	if connect == nil {
		p.connect = p.dial
	}
	return p.command()
}

func (p *plugin) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:         "kubectl-hotplate",
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl hotplate"},
		Short:       "See and steer what hotplate does to the nodes of a cluster",
		Long: "kubectl hotplate shows which nodes are ready to serve and why others are not, has images brought to nodes, and lets\n" +
			"people into the restarts of containerd. It asks the Kubernetes API, and by it the coordinator that leads.",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	*p.flags.Namespace = defaultNamespace
	p.flags.AddFlags(cmd.PersistentFlags())
	cmd.PersistentFlags().Lookup("namespace").Usage = "The namespace that hotplate is installed in, whatever the context's is"
	_ = cmd.RegisterFlagCompletionFunc("namespace", cobra.NoFileCompletions) // there is that flag
	cmd.SetOut(p.Out)
	cmd.SetErr(p.ErrOut)
	cmd.SetIn(p.In)
	cmd.AddCommand(p.newStatus(), p.newPreheat(), p.newCancel(), p.newExplain(), p.newRestarts(), p.newPause(), p.newResume(), p.newDoctor())
	return cmd
}

// dial is a client for the cluster that flags and kubeconfig name.
func (p *plugin) dial() (kubernetes.Interface, error) {
	cfg, err := p.flags.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("find the cluster (say which with --kubeconfig or --context): %w", err)
	}
	cfg.UserAgent, cfg.QPS, cfg.Burst = "kubectl-hotplate/"+version, clientQPS, clientBurst
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect with the Kubernetes API: %w", err)
	}
	return client, nil
}

// cluster is what the user sees of the cluster.
func (p *plugin) cluster() (cluster, error) {
	api, err := p.connect()
	return cluster{api: api, namespace: *p.flags.Namespace, now: p.now}, err
}
