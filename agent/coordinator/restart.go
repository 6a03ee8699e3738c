package coordinator

import (
	"context"
	"maps"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// restart gives a node the leave to restart containerd, or says why not. What is given is kept first: a leader that dies right
// after its answer must not give it to another node too.
func (c *Coordinator) restart(ctx context.Context, node Node, r report.NodeReport, intent Intent, now time.Time) report.Leave {
	if _, holds := (*c.holders.Load())[node.Name]; r.Restart.Slot == report.SlotNone && !holds {
		return report.Leave{} // so it is with nearly all; they do not wait for each other
	}
	who := candidate{node: node.Name, uid: node.UID, controlPlane: node.ControlPlane, slot: r.Restart.Slot, hash: r.Config.Hash,
		records: r.Restart.Records}
	if who.slot == report.SlotWanted {
		who.busy = c.cfg.Nodes.Busy(node.Name)
	}
	around := world{now: now, most: intent.Cluster.MaxUnavailable, away: c.outages(now).away, waiting: c.waiting(node.Name), controlPlanes: map[string]bool{}}
	c.rolling.Lock()
	defer c.rolling.Unlock()
	around.stopped = c.stopped(intent, now)
	for name := range c.rollout.Holders {
		if n, ok := c.cfg.Nodes.Node(name); ok && n.ControlPlane {
			around.controlPlanes[name] = true
		}
	}
	next := c.rollout.clone()
	leave, changed := next.ask(who, around)
	if changed && leave.Granted { // which is rare, so that it need not go by what was true a moment ago
		around.away = c.look(now).away
		next = c.rollout.clone()
		leave, changed = next.ask(who, around)
	}
	if !changed {
		return leave
	}
	if err := c.keep(ctx, next); err != nil {
		return report.Leave{Reason: "the leave cannot be noted: " + err.Error()}
	}
	return leave
}

// stopped says why nobody may restart now. The caller holds rolling.
func (c *Coordinator) stopped(intent Intent, now time.Time) string {
	switch {
	case intent.Cluster.PauseRestarts:
		return "restarts are paused by the config (cluster.pauseRestarts)"
	case c.paused != "":
		return "restarts are paused: " + c.paused
	case !c.fleet.Complete(now):
		return "the coordinator has just started, and waits until it has heard all nodes"
	}
	return ""
}

// keep makes a Rollout the one that counts, once it is durable. The caller holds rolling.
func (c *Coordinator) keep(ctx context.Context, next Rollout) error {
	before := c.rollout
	if err := c.cfg.Keep(ctx, next); err != nil {
		return err
	}
	c.rollout = next
	c.publish()
	for node := range next.Holders {
		if _, had := before.Holders[node]; !had {
			c.cfg.Log.Info("leave to restart containerd given", "node", node)
		}
	}
	if next.Paused != nil && before.Paused == nil {
		c.cfg.Log.Error("restarts are paused until a person resumes them: kubectl hotplate resume", "node", next.Paused.Node,
			"why", next.Paused.Reason)
	}
	return nil
}

// publish lets reports of other nodes see who holds the leave. The caller holds rolling.
func (c *Coordinator) publish() {
	holders := maps.Clone(c.rollout.Holders)
	c.holders.Store(&holders)
}

// clone is a copy that can be changed.
func (r Rollout) clone() Rollout {
	r.Holders = maps.Clone(r.Holders)
	return r
}

// outage is what a look at all nodes says of restarts.
type outage struct {
	at      time.Time
	away    []string // the kubelet does not say that they are Ready, or their containerd does not answer
	wanting int      // how many want the leave to restart
}

// outages are those of a moment ago: thousands that wait for the leave share an answer.
func (c *Coordinator) outages(now time.Time) *outage {
	if is := c.outage.Load(); is != nil && now.Sub(is.at) < outageFor {
		return is
	}
	return c.look(now)
}

// look finds out which nodes do not work, and how many wait.
func (c *Coordinator) look(now time.Time) *outage {
	is := &outage{at: now, away: c.cfg.Nodes.Down()}
	for name, h := range c.fleet.All() {
		if healthy := h.Report.Condition(report.ContainerdHealthy); healthy.Status == report.False {
			is.away = append(is.away, name)
		}
		if h.Report.Restart.Slot == report.SlotWanted {
			is.wanting++
		}
	}
	c.outage.Store(is)
	return is
}

// waiting tells whether a node other than this one that is no control plane waits for the leave.
func (c *Coordinator) waiting(but string) bool {
	return c.fleet.Any(func(name string, h *Heard) bool {
		if name == but || h.Report.Restart.Slot != report.SlotWanted {
			return false
		}
		n, ok := c.cfg.Nodes.Node(name)
		return ok && !n.ControlPlane
	})
}

// SetPaused says why a person lets nobody restart; empty if they may. said is when a person last let a rollout go on that had
// stopped by itself.
func (c *Coordinator) SetPaused(ctx context.Context, why string, said time.Time) error {
	c.rolling.Lock()
	defer c.rolling.Unlock()
	c.paused = why
	next := c.rollout.clone()
	if !next.resume(said) {
		return nil
	}
	c.cfg.Log.Info("restarts go on, because a person said so")
	return c.keep(ctx, next)
}

// Expire looks after nodes that say nothing: their places to pull go to others, and a holder of the leave to restart that stays
// silent pauses the rollout. soak is that of the config.
func (c *Coordinator) Expire(ctx context.Context, soak time.Duration) error {
	now := time.Now()
	silent := map[string]time.Time{}
	for name, h := range c.fleet.All() {
		if h.silent(now) {
			silent[name] = h.At
			c.cfg.Changed(name)
		}
	}
	c.mu.Lock()
	for name := range silent {
		c.pullers.leave(name)
	}
	c.mu.Unlock()
	c.rolling.Lock()
	defer c.rolling.Unlock()
	next := c.rollout.clone()
	changed := next.expire(now, soak, func(name, uid string) bool {
		node, ok := c.cfg.Nodes.Node(name)
		return !ok || node.UID != uid
	}, func(name string) time.Time {
		if at, is := silent[name]; is {
			return at
		}
		if c.fleet.Silent(name, now) {
			return c.fleet.since // this leader has never heard it
		}
		return time.Time{}
	})
	if !changed {
		return nil
	}
	return c.keep(ctx, next)
}
