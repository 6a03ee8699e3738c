package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/agent"
	"github.com/hotplate-dev/hotplate/cmd/internal/cli"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/store"
)

// loadGrace is how long PEM files outlive the hosts.toml that named them, for pulls that have already read it.
const loadGrace = 2 * time.Second

// unpinTimeout bounds the work with containerd, which may be away.
const unpinTimeout = 30 * time.Second

func newUninstall() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Put this node back as it was before hotplate: hosts directory, adopted files, pins, unit",
		Long: "uninstall takes back everything that the agent did to this node: the hosts directory becomes byte for byte\n" +
			"what it was, adopted directories included, and so does containerd's configuration, unless somebody has changed it\n" +
			"since. Pins of hotplate's are taken off, and its unit of systemd is removed. Images stay on the disk; the kubelet\n" +
			"may then collect them. Nothing is restarted, unless a restart of containerd was left in the middle, which is\n" +
			"ended. Stop the agent first.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.uninstall(cmd.Context(), cmd.OutOrStdout()) },
	}
	o.bindHost(cmd)
	return cmd
}

func (o *options) uninstall(ctx context.Context, out io.Writer) (err error) {
	log, err := o.log.Logger(os.Stderr)
	if err != nil {
		return err
	}
	host, err := apply.Open(ctx, apply.Config{HostsDir: o.hostsDir, StateDir: o.stateDir, Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	// First, for what ends well is proved with a file in the hosts directory.
	if err := errors.Join(o.uninstallRestarts(ctx, host, log, out), o.uninstallHosts(ctx, host, log, out)); err != nil {
		return err
	}
	fmt.Fprintln(out, "uninstalled")
	return nil
}

// uninstallHosts takes back everything but what restarts of containerd have left.
func (o *options) uninstallHosts(ctx context.Context, host *apply.Host, log *slog.Logger, out io.Writer) error {
	receipt, err := host.Uninstall(ctx, loadGrace)
	for _, path := range receipt.Changed {
		what := "put back"
		if _, err := os.Lstat(filepath.Join(o.hostsDir, path)); errors.Is(err, fs.ErrNotExist) {
			what = "removed"
		}
		fmt.Fprintf(out, "%s %s\n", what, path)
	}
	for _, l := range receipt.Left {
		fmt.Fprintf(out, "left alone: %s: %s\n", l.Path, l.Reason)
	}
	if err != nil {
		return fmt.Errorf("put %s back: %w", o.hostsDir, err)
	}
	if err := agent.Forget(o.stateDir); err != nil {
		return err
	}
	if err := cli.CheckSocket(ctx, o.address); err != nil {
		return fmt.Errorf("%s is as it was, but nobody can tell now whether hotplate has pinned images here; "+
			"run uninstall again when containerd is back: %w", o.hostsDir, err)
	}
	if err := o.release(ctx, log, out); err != nil {
		return fmt.Errorf("%s is as it was, but images may be left pinned; run uninstall again: %w", o.hostsDir, err)
	}
	return nil
}

// release takes off the pins of agent and CLI, and removes what their unfinished pulls left.
func (o *options) release(ctx context.Context, log *slog.Logger, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, unpinTimeout)
	defer cancel()
	for _, owner := range []string{store.DefaultOwner, cli.PullOwner} {
		if err := o.releaseOwner(ctx, owner, log, out); err != nil {
			return err
		}
	}
	return nil
}

func (o *options) releaseOwner(ctx context.Context, owner string, log *slog.Logger, out io.Writer) (err error) {
	s, err := store.New(store.Config{Address: o.address, Snapshotter: o.snapshotter, Owner: owner, Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	pins, err := s.Pins(ctx)
	if err != nil {
		return err
	}
	for _, pin := range pins {
		if err := s.Unpin(ctx, pin.ImageID); err != nil {
			return err
		}
		fmt.Fprintf(out, "unpinned %s\n", pin.ImageID)
	}
	return o.sweep(ctx, s, log)
}

// sweep removes what unfinished pulls left, in containerd and beside it, and the directories for it.
func (o *options) sweep(ctx context.Context, s *store.Store, log *slog.Logger) error {
	noLogin := func(string, string) (string, string, error) { return "", "", nil }
	p, err := prefetch.New(prefetch.Config{Hosts: prefetch.Hosts(o.hostsDir, noLogin), Store: s, Log: log})
	if err != nil {
		return err
	}
	if err := p.Sweep(ctx, nil); err != nil {
		return err
	}
	way, err := s.Way(ctx)
	if err != nil {
		return err
	}
	return errors.Join(removeEmpty(way.Staging, "blobs", "wants"), removeEmpty(way.Trees))
}

// removeEmpty removes dir, what of it may be in it, and the two directories above it that are hotplate's, each only if
// nothing else is there: a pull may be under way.
func removeEmpty(dir string, inner ...string) error {
	if dir == "" {
		return nil
	}
	var all []string
	for _, name := range inner {
		all = append(all, filepath.Join(dir, name))
	}
	owner := filepath.Dir(dir)
	for _, path := range append(all, dir, owner, filepath.Dir(owner)) {
		err := os.Remove(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("remove hotplate's directory beside containerd's: %w", err)
		}
	}
	return nil
}
