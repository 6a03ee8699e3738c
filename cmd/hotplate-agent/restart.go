package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/hotplate-dev/hotplate/agent"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// nodeInit is the node's systemd, connected when it is first needed. Where it cannot be reached, the agent works without.
type nodeInit struct {
	mu      sync.Mutex
	manager *systemd.Manager // guarded by mu; nil before it has answered
}

// connect returns the connection, or why there is none. It tries again each time; one that was made heals by itself.
func (n *nodeInit) connect(ctx context.Context) (*systemd.Manager, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.manager != nil {
		return n.manager, nil
	}
	m, err := systemd.Connect(ctx, systemd.Config{})
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
		manager, err := p.init.connect(ctx)
		if err != nil {
			return nil, err
		}
		return o.restarter(p, manager, c, log)
	}
}

func (o *options) restarter(p *parts, manager *systemd.Manager, c agent.RestarterConfig, log *slog.Logger) (*restart.Restarter, error) {
	return restart.New(restart.Config{
		Log: log, Systemd: manager, Daemon: p.daemon, Probe: c.Probe, Slot: c.Slot, Address: o.address,
		StateDir: o.stateDir, HostsDir: o.hostsDir, Dependants: c.Settings.Dependants, Convert: c.Settings.ConvertMirrors,
		Soak: time.Duration(c.Settings.Soak),
	})
}
