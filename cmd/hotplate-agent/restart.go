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
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// nodeInit is the node's systemd, connected when it is first needed. Where it cannot be reached, the agent works without.
type nodeInit struct {
	mu      sync.Mutex
	manager *systemd.Manager // guarded by mu; nil before it has answered
}

// connect returns the connection, or why there is none. It tries again each time; one that was made heals by itself.
func (n *nodeInit) connect(ctx context.Context, cfg systemd.Config) (*systemd.Manager, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.manager != nil {
		return n.manager, nil
	}
	m, err := systemd.Connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	n.manager = m
	return m, nil
}

func (n *nodeInit) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.manager == nil {
		return nil
	}
	return n.manager.Close()
}

// newRestarter makes the Restarter for the settings of a config.
func (o *options) newRestarter(p *parts, log *slog.Logger) func(context.Context, agent.RestarterConfig) (agent.Restarter, error) {
	return func(ctx context.Context, c agent.RestarterConfig) (agent.Restarter, error) {
		manager, err := p.init.connect(ctx, o.systemd)
		if err != nil {
			return nil, err
		}
		return restart.New(restart.Config{
			Log: log, Systemd: manager, Daemon: p.daemon, Probe: c.Probe, Slot: c.Slot, Address: o.address,
			StateDir: o.stateDir, HostsDir: o.hostsDir, Dependants: c.Settings.Dependants, Convert: c.Settings.ConvertMirrors,
			Soak: time.Duration(c.Settings.Soak),
		})
	}
}

// uninstallRestarts ends a restart of containerd that was left in the middle, and takes away what restarts have installed.
func (o *options) uninstallRestarts(ctx context.Context, host *apply.Host, log *slog.Logger, out io.Writer) (err error) {
	if installed, err := restart.Installed(o.stateDir); err != nil || !installed {
		return err
	}
	manager, err := systemd.Connect(ctx, o.systemd)
	if err != nil {
		return fmt.Errorf("%s may be left on this node, or a restart of containerd in the middle; run uninstall again where "+
			"systemd can be reached: %w", restart.BootUnit, err)
	}
	defer func() { err = errors.Join(err, manager.Close()) }()
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
		Log: log, Systemd: manager, Daemon: ctrd, Probe: prober.Probe, Address: o.address, StateDir: o.stateDir,
		HostsDir: o.hostsDir,
	})
	if err != nil {
		return err
	}
	return o.uninstallBoot(ctx, r, out)
}

func (o *options) uninstallBoot(ctx context.Context, r *restart.Restarter, out io.Writer) error {
	records, err := r.Records() // they go, too
	if err != nil {
		return err
	}
	ended, err := r.Uninstall(ctx)
	if ended != nil {
		fmt.Fprintf(out, "ended a restart of containerd that was left in the middle: %s: %s\n", ended.Kind, ended.Reason)
		records = append(records, *ended)
	}
	switch {
	case err != nil:
		return fmt.Errorf("take away what restarts of containerd have left: %w", err)
	case ended != nil && ended.Kind == restart.Failed:
		return fmt.Errorf("containerd does not work since its last restart; %s stays. Run uninstall again when it works",
			restart.BootUnit)
	}
	fmt.Fprintln(out, "removed "+restart.BootUnit)
	said := make(map[string]bool)
	for _, o := range records {
		if o.Kind == restart.Restarted && !said[o.File] {
			said[o.File] = true
			fmt.Fprintf(out, "left alone: %s: its config_path means nothing without files in that directory, and to take it back "+
				"containerd would have to be restarted once more\n", o.File)
		}
	}
	return nil
}
