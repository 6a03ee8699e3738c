package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/hotplate-dev/hotplate/agent"
	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/cmd/internal/cli"
	"github.com/hotplate-dev/hotplate/cmd/internal/process"
	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/store"
)

// pullOptions are the flags of pull.
type pullOptions struct {
	address, hostsDir, stateDir, snapshotter string
	credentials, output, platform            string
	pin                                      bool
	limits                                   config.Prefetch
	keepLayers, way                          string
	reserve                                  config.Percent
}

func newPull(log *cli.Log) *cobra.Command {
	o := pullOptions{}
	cmd := &cobra.Command{
		Use:   "pull REF...",
		Short: "Make images ready on this node: fetched, unpacked, known to CRI",
		Long: "pull fetches images through the hosts directory, as containerd would, and returns when CRI reports them under\n" +
			"their names and their snapshots exist. What is there already is not fetched again. A pull that was ended goes on\n" +
			"where it was when it is repeated. Until then, what it has is kept in containerd's content directory, or in\n" +
			"--state-dir where containerd has to unpack; a pull of other images removes it.\n\n" + jsonHelp,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, refs []string) error {
			return o.run(cmd.Context(), refs, log, os.Stdout)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.address, "address", cli.DefaultAddress, "containerd's socket")
	flags.StringVar(&o.hostsDir, "hosts-dir", cli.DefaultHostsDir, "hosts directory that says where images are")
	flags.StringVar(&o.stateDir, "state-dir", cli.DefaultStateDir,
		"where layers that were not finished are kept if containerd has to unpack; the same for all pulls, may be the agent's")
	flags.StringVar(&o.snapshotter, "snapshotter", store.DefaultSnapshotter, "snapshotter that containerd's CRI uses")
	flags.StringVar(&o.credentials, "credentials", "", "docker config JSON with the logins (default: none)")
	flags.StringVar(&o.platform, "platform", "", "platform to pick from an index (default: the node's)")
	flags.BoolVar(&o.pin, "pin", false, "protect the images from the kubelet's garbage collection")
	o.bindLimits(flags)
	bindOutput(cmd, &o.output)
	return cmd
}

// bindLimits adds the flags that are prefetch in the agent's config, with the same defaults.
func (o *pullOptions) bindLimits(flags *pflag.FlagSet) {
	cfg := config.Config{}
	cfg.Default()
	o.limits = cfg.Prefetch
	flags.IntVar(&o.limits.MaxParallel, "max-parallel", o.limits.MaxParallel, "requests under way at once, at most 128")
	flags.TextVar(&o.limits.Memory, "memory", o.limits.Memory, "`size` of the memory that the pull may take")
	flags.TextVar(&o.limits.MaxBandwidth, "max-bandwidth", o.limits.MaxBandwidth, "`bytes` a second at most, such as 100Mi; 0 is no limit")
	flags.StringVar(&o.keepLayers, "keep-layers", string(o.limits.KeepLayers),
		"keep compressed layers beside the unpacked ones: Auto (as containerd is set), Always or Never")
	flags.StringVar(&o.way, "way", string(o.limits.Way), "Auto, or API to have containerd unpack in any case")
	flags.TextVar(&o.reserve, "disk-reserve", *o.limits.DiskReserve, "`percentage` of each filesystem that is left free")
	flags.BoolVar(&o.limits.LowPriority, "low-priority", false, "let others go first where CPU or disk are short")
}

// checkLimits checks the flags as the config's fields are checked.
func (o *pullOptions) checkLimits() error {
	o.limits.KeepLayers, o.limits.Way = config.KeepLayers(o.keepLayers), config.Way(o.way)
	o.limits.DiskReserve = &o.reserve
	cfg := config.Config{APIVersion: config.APIVersion}
	cfg.Default()
	cfg.Prefetch = o.limits
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("flags, named as in the config: %w", err)
	}
	return nil
}

func (o *pullOptions) run(ctx context.Context, refs []string, logFlags *cli.Log, out *os.File) (err error) {
	if err := errors.Join(checkOutput(o.output), o.checkLimits()); err != nil {
		return err
	}
	log, err := logFlags.Logger(os.Stderr)
	if err != nil {
		return err
	}
	creds, err := o.logins()
	if err != nil {
		return err
	}
	if err := cli.CheckSocket(ctx, o.address); err != nil {
		return err // before a registry is asked in vain
	}
	process.LimitMemory(int64(o.limits.Memory))
	if o.limits.LowPriority {
		if err := process.LowerPriority(); err != nil {
			return err
		}
	}
	s, err := store.New(store.Config{
		Address: o.address, Snapshotter: o.snapshotter, Owner: cli.PullOwner, Log: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	p, err := prefetch.New(cli.PrefetchConfig(o.limits, prefetch.Config{
		Hosts: prefetch.Hosts(o.hostsDir, creds), Store: s, Log: log, Staging: cli.StagingDir(o.stateDir, cli.PullOwner),
	}))
	if err != nil {
		return err
	}
	leave, err := enter(ctx, o.stateDir, p, o.images(refs), log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave()) }()
	return o.pull(ctx, p, o.images(refs), o.display(out))
}

// images are the images as they are wanted.
func (o *pullOptions) images(refs []string) (all []prefetch.Image) {
	for _, ref := range refs {
		all = append(all, prefetch.Image{Ref: ref, Platform: o.platform, Pin: o.pin})
	}
	return all
}

// pull makes one image after the other ready. One that fails does not keep the next from being tried.
func (o *pullOptions) pull(ctx context.Context, p *prefetch.Prefetcher, all []prefetch.Image, show display) error {
	var errs []error
	for _, img := range all {
		pr := new(prefetch.Progress)
		stop := show.follow(img.Ref, pr)
		res, err := p.Ensure(ctx, img, pr)
		stop()
		show.done(img.Ref, res, err)
		if err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 && o.output == outputJSON {
		return cli.ErrSilent // the errors are in the output
	}
	return errors.Join(errs...)
}

// logins reads the credentials file.
func (o *pullOptions) logins() (agent.Logins, error) {
	if o.credentials == "" {
		return func(string, string) (string, string, error) { return "", "", nil }, nil
	}
	data, err := os.ReadFile(o.credentials)
	if err != nil {
		return nil, fmt.Errorf("read --credentials: %w", err)
	}
	docker, err := config.ParseDockerConfig(data)
	if err != nil {
		return nil, fmt.Errorf("read --credentials %s: %w", o.credentials, err)
	}
	return func(_, host string) (string, string, error) {
		login, _ := docker.Login(host)
		return login.Username, string(login.Password), nil
	}, nil
}

// display shows how pulls go on.
type display interface {
	// follow shows pr until the returned function is called, which waits for the last line.
	follow(ref string, pr *prefetch.Progress) (stop func())
	// done shows how the pull ended.
	done(ref string, res prefetch.Result, err error)
}

func (o *pullOptions) display(out *os.File) display {
	switch {
	case o.output == outputJSON:
		return jsonLines{out: out}
	case term.IsTerminal(int(out.Fd())):
		return bars{out: out}
	}
	return plainLines{out: out}
}
