package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/hotplate-dev/hotplate/agent"
	"github.com/hotplate-dev/hotplate/cmd/internal/cli"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
	"github.com/hotplate-dev/hotplate/hostconfig/supervised"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// keepers connects with what keeps containerd running when that is first needed. Where it cannot, the agent works without.
type keepers struct {
	address string         // of containerd
	systemd systemd.Config // where it is

	mu      sync.Mutex
	manager *systemd.Manager // guarded by mu; nil before it has answered
}

// connect returns a connection, or why there is none. It tries again each time; one with systemd heals by itself. Something
// else than systemd will do only where the rollback may depend on hotplate alone.
func (k *keepers) connect(ctx context.Context, withoutRescue bool) (_ restart.Systemd, noTimer bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.manager != nil {
		return k.manager, false, nil
	}
	if k.manager, err = systemd.Connect(ctx, k.systemd); err == nil {
		return k.manager, false, nil
	}
	k.manager = nil
	if !errors.Is(err, systemd.ErrUnreachable) {
		return nil, false, err
	}
	alone, aloneErr := supervised.Connect(ctx, supervised.Config{Socket: k.address})
	switch {
	case aloneErr != nil && withoutRescue:
		return nil, false, fmt.Errorf("%w; and without it: %w", err, aloneErr)
	case aloneErr != nil:
		return nil, false, err
	case !withoutRescue:
		return nil, false, fmt.Errorf("%w; without it a rollback depends on hotplate alone, which restart.withoutRescue permits", err)
	}
	return alone, true, nil
}

func (k *keepers) close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.manager == nil {
		return nil
	}
	return k.manager.Close()
}

// newRestarter makes the Restarter for the settings of a config.
func (o *options) newRestarter(
	p *parts, log *slog.Logger,
) func(context.Context, agent.RestarterConfig) (agent.Restarter, error) {
	return func(ctx context.Context, c agent.RestarterConfig) (agent.Restarter, error) {
		keeper, noTimer, err := p.keepers.connect(ctx, c.Settings.WithoutRescue)
		if err != nil {
			return nil, err
		}
		return restart.New(restart.Config{
			Log: log, Systemd: keeper, NoTimer: noTimer, WithoutRescue: c.Settings.WithoutRescue, Daemon: p.daemon,
			Probe: c.Probe, Slot: c.Slot, Address: o.address,
			StateDir: o.stateDir, HostsDir: o.hostsDir, Dependants: c.Settings.Dependants, Convert: c.Settings.ConvertMirrors,
			Soak: time.Duration(c.Settings.Soak),
		})
	}
}

// uninstallRestarts ends a restart of containerd that was left in the middle, and takes away what restarts have installed.
func (o *options) uninstallRestarts(ctx context.Context, host *apply.Host, log *slog.Logger, out io.Writer) error {
	unit, more, err := restart.Installed(o.stateDir)
	if err != nil || !unit && !more {
		return err
	}
	if unit {
		manager, err := systemd.Connect(ctx, o.systemd)
		if err != nil {
			return fmt.Errorf("%s may be left on this node; run uninstall again where systemd can be reached: %w", restart.BootUnit, err)
		}
		return errors.Join(o.endRestarts(ctx, host, manager, false, log, out), manager.Close())
	}
	keeper, err := cli.ConnectKeeper(ctx, o.address, o.systemd)
	if err != nil {
		return fmt.Errorf("take back what restarts of containerd have left: %w", err)
	}
	return errors.Join(o.endRestarts(ctx, host, keeper, keeper.NoTimer, log, out), keeper.Close())
}

func (o *options) endRestarts(ctx context.Context, host *apply.Host, keeper restart.Systemd, noTimer bool, log *slog.Logger,
	out io.Writer) (err error) {
	ctrd, err := daemon.Connect(o.address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ctrd.Close()) }()
	prober, err := probe.New(probe.Config{Pull: ctrd.PullImage, Publish: host.PublishTemporary})
	if err != nil {
		return err
	}
	r, err := restart.New(restart.Config{
		Log: log, Systemd: keeper, NoTimer: noTimer, Daemon: ctrd, Probe: prober.Probe, Address: o.address, StateDir: o.stateDir,
		HostsDir: o.hostsDir,
	})
	if err != nil {
		return err
	}
	return uninstallRestarter(ctx, r, out)
}

func uninstallRestarter(ctx context.Context, r *restart.Restarter, out io.Writer) error {
	done, err := r.Uninstall(ctx)
	ended := done.Ended
	if ended != nil {
		fmt.Fprintf(out, "ended a restart of containerd that was left in the middle: %s: %s\n", ended.Kind, ended.Reason)
	}
	for _, file := range done.Restored {
		fmt.Fprintf(out, "put back %s; containerd is not restarted for it\n", file)
	}
	for _, l := range done.Left {
		fmt.Fprintf(out, "left alone: %s: %s\n", l.File, l.Reason)
	}
	switch {
	case err != nil:
		return fmt.Errorf("take away what restarts of containerd have left: %w", err)
	case ended != nil && ended.Kind == restart.Failed:
		return fmt.Errorf("containerd does not work since its last restart; %s stays. Run uninstall again when it works",
			restart.BootUnit)
	}
	fmt.Fprintln(out, "forgot restarts of containerd; "+restart.BootUnit+" is not installed any more")
	return nil
}
