package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hotplate-dev/hotplate/agent"
	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/cmd/internal/cli"
	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/store"
)

// pullOptions are the flags of pull.
type pullOptions struct {
	address, hostsDir, snapshotter string
	credentials, output, platform  string
	pin                            bool
	maxParallel                    int
}

func newPull(log *cli.Log) *cobra.Command {
	var o pullOptions
	cmd := &cobra.Command{
		Use:   "pull REF...",
		Short: "Make images ready on this node: fetched, unpacked, known to CRI",
		Long: "pull fetches images through the hosts directory, as containerd would, and returns when CRI reports them under\n" +
			"their names and their snapshots exist. What is there already is not fetched again.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, refs []string) error {
			return o.run(cmd.Context(), refs, log, os.Stdout)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.address, "address", cli.DefaultAddress, "containerd's socket")
	flags.StringVar(&o.hostsDir, "hosts-dir", cli.DefaultHostsDir, "hosts directory that says where images are")
	flags.StringVar(&o.snapshotter, "snapshotter", store.DefaultSnapshotter, "snapshotter that containerd's CRI uses")
	flags.StringVar(&o.credentials, "credentials", "", "docker config JSON with the logins (default: none)")
	flags.StringVar(&o.platform, "platform", "", "platform to pick from an index (default: the node's)")
	flags.BoolVar(&o.pin, "pin", false, "protect the images from the kubelet's garbage collection")
	flags.IntVar(&o.maxParallel, "max-parallel", prefetch.DefaultMaxParallel, "requests under way at once")
	bindOutput(cmd, &o.output)
	return cmd
}

func (o *pullOptions) run(ctx context.Context, refs []string, logFlags *cli.Log, out *os.File) (err error) {
	if err := checkOutput(o.output); err != nil {
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
	s, err := store.New(store.Config{
		Address: o.address, Snapshotter: o.snapshotter, Owner: cli.PullOwner, Log: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	p, err := prefetch.New(prefetch.Config{
		Hosts: prefetch.Hosts(o.hostsDir, creds), Store: s, Log: log, MaxParallel: o.maxParallel,
	})
	if err != nil {
		return err
	}
	show := o.display(out)
	var errs []error
	for _, ref := range refs {
		img := prefetch.Image{Ref: ref, Platform: o.platform, Pin: o.pin}
		pr := new(prefetch.Progress)
		stop := show.follow(ref, pr)
		res, err := p.Ensure(ctx, img, pr)
		stop()
		show.done(ref, res, err)
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
