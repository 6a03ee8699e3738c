package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/hotplate-dev/hotplate/agent"
	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/images"
	"github.com/hotplate-dev/hotplate/cmd/internal/cli"
	"github.com/hotplate-dev/hotplate/cmd/internal/process"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/store"
)

// options are the flags of the agent.
type options struct {
	config, address, hostsDir, stateDir string
	snapshotter, node, listen           string
	once                                bool
	cluster                             inCluster
	systemd                             systemd.Config // for tests
	log                                 cli.Log
}

func newCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "hotplate-agent --config FILE | --config-map NAME",
		Short: "Point this node's containerd at the registries of a config and have its images ready",
		Long: "hotplate-agent writes the hosts directory that containerd reads at every pull, proves that the running\n" +
			"containerd obeys it, and makes the images of the config ready: on disk, unpacked, pinned. It watches the\n" +
			"config and every file that the config names; in a cluster these are ConfigMaps and Secrets, and the coordinator\n" +
			"says which images the node holds. Ending it changes nothing on the node; uninstall does.",
		Version: version,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	o.bindHost(cmd)
	flags := cmd.Flags()
	flags.StringVar(&o.config, "config", cli.DefaultConfig, "config file")
	flags.BoolVar(&o.once, "once", false, "try everything once, print the status, and exit 0 only if the node is Ready")
	flags.StringVar(&o.node, "node-name", "", "name of the node in reports (default: $NODE_NAME, or the host's name)")
	flags.StringVar(&o.listen, "listen", "127.0.0.1:9464", "address of /metrics, /healthz and /readyz")
	o.cluster.bind(flags)
	cmd.MarkFlagsMutuallyExclusive("config", "config-map")
	cmd.AddCommand(newUninstall())
	return cmd
}

// bindHost adds the flags that say where things are on the host.
func (o *options) bindHost(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.address, "address", cli.DefaultAddress, "containerd's socket")
	flags.StringVar(&o.hostsDir, "hosts-dir", cli.DefaultHostsDir, "hosts directory that containerd's config_path names")
	flags.StringVar(&o.stateDir, "state-dir", cli.DefaultStateDir, "where the agent keeps what must survive a restart")
	flags.StringVar(&o.snapshotter, "snapshotter", store.DefaultSnapshotter, "snapshotter that containerd's CRI uses")
	o.log.Bind(flags, "info")
}

func (o *options) run(ctx context.Context, out io.Writer) (err error) {
	log, err := o.log.Logger(os.Stderr)
	if err != nil {
		return err
	}
	if o.node, err = nodeName(o.node); err != nil {
		return err
	}
	if o.config, err = filepath.Abs(o.config); err != nil {
		return err
	}
	c, err := o.connect(log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	for {
		if err := o.work(ctx, c, log, out); !errors.Is(err, agent.ErrRelease) {
			return err
		}
		if err := o.rest(ctx, c, log); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// work opens all parts and lets an agent work on them, until ctx ends or the coordinator releases the node.
func (o *options) work(ctx context.Context, c *cluster, log *slog.Logger, out io.Writer) (err error) {
	p, err := o.open(ctx, c, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	a, err := o.newAgent(p, c, log)
	if err != nil {
		return err
	}
	if o.once {
		return once(ctx, a, out)
	}
	log.Info("hotplate-agent starts", "version", version, "node", o.node, "config", p.sourceName, "containerd", o.address,
		"hostsDir", o.hostsDir, "stateDir", o.stateDir, "coordinator", c.coordinator() != nil)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.Serve(ctx, o.listen) })
	g.Go(func() error { return a.Run(ctx) })
	if err = g.Wait(); !errors.Is(err, agent.ErrRelease) {
		log.Info("hotplate-agent ends; the node stays as it is")
	}
	return err
}

func once(ctx context.Context, a *agent.Agent, out io.Writer) error {
	r, err := a.Once(ctx)
	fmt.Fprint(out, r.Text(time.Now()))
	if err != nil {
		return err
	}
	if !r.Ready {
		return errors.New("the node is not Ready")
	}
	return nil
}

// parts are what the agent stands on.
type parts struct {
	host    *apply.Host
	daemon  *daemon.Client
	store   *store.Store
	source  source
	keepers keepers
	// sourceName is what reports call the source.
	sourceName string
}

// open opens all parts, or none.
func (o *options) open(ctx context.Context, c *cluster, log *slog.Logger) (_ *parts, err error) {
	p := &parts{keepers: keepers{address: o.address, systemd: o.systemd}}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.host, err = apply.Open(ctx, apply.Config{HostsDir: o.hostsDir, StateDir: o.stateDir, Log: log}); err != nil {
		return nil, err
	}
	if p.daemon, err = daemon.Connect(o.address); err != nil {
		return nil, err
	}
	if p.store, err = store.New(store.Config{Address: o.address, Snapshotter: o.snapshotter, Log: log}); err != nil {
		return nil, err
	}
	s, name, err := o.newSource(c, log)
	if err != nil {
		return nil, err
	}
	p.source, p.sourceName = s, name
	return p, nil
}

func (p *parts) close() error {
	errs := []error{p.keepers.close()}
	if p.source != nil {
		errs = append(errs, p.source.Close())
	}
	if p.store != nil {
		errs = append(errs, p.store.Close())
	}
	if p.daemon != nil {
		errs = append(errs, p.daemon.Close())
	}
	if p.host != nil {
		errs = append(errs, p.host.Close())
	}
	return errors.Join(errs...)
}

// newAgent connects the parts.
func (o *options) newAgent(p *parts, c *cluster, log *slog.Logger) (*agent.Agent, error) {
	prober, err := probe.New(probe.Config{Pull: p.daemon.PullImage, Publish: p.host.PublishTemporary})
	if err != nil {
		return nil, err
	}
	return agent.New(agent.Config{
		Node:         o.node,
		Version:      version,
		Address:      o.address,
		HostsDir:     o.hostsDir,
		StateDir:     o.stateDir,
		Source:       p.source,
		SourceName:   p.sourceName,
		Host:         p.host,
		Daemon:       p.daemon,
		Prober:       prober,
		Log:          log,
		WatchHosts:   func(ctx context.Context, changed func()) error { return apply.Watch(ctx, o.hostsDir, changed) },
		NewPuller:    o.newPuller(p, log),
		NewRestarter: o.newRestarter(p, log),
		Coordinator:  c.coordinator(),
	})
}

// newPuller makes the Puller for the limits of a config, and sets those of the process.
func (o *options) newPuller(p *parts, log *slog.Logger) func(config.Prefetch, agent.Logins) (images.Puller, error) {
	lowered := false
	return func(limits config.Prefetch, creds agent.Logins) (images.Puller, error) {
		process.LimitMemory(int64(limits.Memory))
		switch {
		case limits.LowPriority && !lowered:
			if err := process.LowerPriority(); err != nil {
				log.Warn("pulls go on with the priority that they had", "err", err)
			}
			lowered = true
		case lowered && !limits.LowPriority:
			log.Warn("the agent keeps its low priority until it is restarted: to raise it needs a privilege")
		}
		return prefetch.New(cli.PrefetchConfig(limits, prefetch.Config{
			Hosts: prefetch.Hosts(o.hostsDir, creds), Store: p.store, Log: log,
			Staging: cli.StagingDir(o.stateDir, store.DefaultOwner),
		}))
	}
}
