package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
)

const (
	// workInterval and idleInterval are when a node is to report again, while it works and while it does not.
	workInterval = 5 * time.Second
	idleInterval = 30 * time.Second
	// mostWait is the same, while it waits for others.
	mostWait = 15 * time.Second
	// maxThrottled bounds how many registry hosts are remembered that want to be left alone.
	maxThrottled = 100
	// outageFor is how long it is believed which nodes do not work.
	outageFor = time.Second
	// maxThrottle bounds for how long.
	maxThrottle = time.Hour
)

// Node is what the API says of a node.
type Node struct {
	Name, UID string
	Labels    map[string]string
	// Preheat is the annotation of that name.
	Preheat string
	// ControlPlane tells whether the node is one; Works whether the kubelet says that it is Ready.
	ControlPlane, Works bool
}

// Nodes are the Nodes and Pods of the cluster. All methods are safe for concurrent use, and ask nobody.
type Nodes interface {
	// Node is the one of this name.
	Node(name string) (Node, bool)
	// Down are the nodes that the kubelet does not say to be Ready.
	Down() []string
	// Busy says why containerd must not be restarted on a node now, for its pods; empty if it may be.
	Busy(node string) string
}

// Config is what a Coordinator needs. All fields are required.
type Config struct {
	Nodes Nodes
	// Keep makes a Rollout durable.
	Keep func(ctx context.Context, r Rollout) error
	// NewTag is called when a tag is wanted that nobody has looked up.
	NewTag func()
	// Changed is called when what is concluded of a node may have changed.
	Changed func(node string)
	Log     *slog.Logger
}

// Coordinator answers what nodes report. It is safe for concurrent use.
type Coordinator struct {
	cfg   Config
	fleet *Fleet

	mu        sync.Mutex // guards what follows
	intent    *Intent    // nil before the first
	requests  []Request  // beside those of intent
	changed   time.Time  // when the config became another one
	resolved  Resolved
	unknown   map[string]string // why a tag is not resolved, by reference
	pullers   *pullers
	throttled map[string]time.Time // registry hosts, until when
	release   string               // who asked that all nodes become as they were; empty if nobody did
	unreached []string             // nodes that have said nothing to that

	rolling sync.Mutex // guards what follows, also while a Rollout is kept
	rollout Rollout
	paused  string // why a person or the config lets nobody restart
	holders atomic.Pointer[map[string]Holder]
	outage  atomic.Pointer[outage]
}

// New returns a Coordinator that has heard nothing yet.
func New(cfg Config) (*Coordinator, error) {
	if cfg.Nodes == nil || cfg.Keep == nil || cfg.NewTag == nil || cfg.Changed == nil || cfg.Log == nil {
		return nil, errors.New("coordinator: all fields of Config are required")
	}
	c := &Coordinator{cfg: cfg, fleet: NewFleet(time.Now()), pullers: newPullers(1), throttled: map[string]time.Time{}}
	c.holders.Store(&map[string]Holder{})
	return c, nil
}

// SetIntent replaces what is wanted.
func (c *Coordinator) SetIntent(i Intent) {
	c.mu.Lock()
	if c.intent == nil || c.intent.Hash != i.Hash {
		c.changed = time.Now()
	}
	c.intent = &i
	c.pullers.limit(i.Cluster.MaxConcurrentNodes)
	c.mu.Unlock()
	c.everybody()
}

// SetRequests replaces the preheats that are wanted beside the config and annotations.
func (c *Coordinator) SetRequests(all []Request) {
	c.mu.Lock()
	c.requests = all
	c.mu.Unlock()
	c.everybody()
}

// wants is what is wanted of the cluster; false before the first config. The caller holds mu.
func (c *Coordinator) wants() (Intent, bool) {
	if c.intent == nil {
		return Intent{}, false
	}
	intent := *c.intent
	intent.Requests = c.requests
	return intent, true
}

// SetResolved replaces what tags mean, and why others are not known, both by reference.
func (c *Coordinator) SetResolved(resolved Resolved, unknown map[string]string) {
	c.mu.Lock()
	same := maps.Equal(c.resolved, resolved) && maps.Equal(c.unknown, unknown)
	c.resolved, c.unknown = resolved, unknown
	c.mu.Unlock()
	if !same {
		c.everybody()
	}
}

// SetRollout takes what an earlier leader has kept, before the first report is answered.
func (c *Coordinator) SetRollout(r Rollout) {
	c.rolling.Lock()
	defer c.rolling.Unlock()
	c.rollout = r
	c.publish()
}

// everybody has every node looked at again.
func (c *Coordinator) everybody() {
	for node := range c.fleet.All() {
		c.cfg.Changed(node)
	}
}

// Answer takes what a node reports and says what it is to do.
func (c *Coordinator) Answer(ctx context.Context, name string, r report.NodeReport) (report.Directive, error) {
	node, ok := c.cfg.Nodes.Node(name)
	if !ok {
		return report.Directive{}, fmt.Errorf("node %s is not known (yet)", name)
	}
	now := time.Now()
	c.fleet.Hear(name, r, now)
	c.mu.Lock()
	if c.release != "" {
		c.pullers.leave(name)
		c.mu.Unlock()
		c.cfg.Changed(name)
		return released(r), nil
	}
	intent, ok := c.wants()
	if !ok {
		c.mu.Unlock()
		return report.Directive{}, errors.New("the coordinator has no config in force yet")
	}
	wanted := intent.wanted(name, node.Labels, node.Preheat, c.resolved)
	wanted.keep(r)
	does := workOf(wanted, r)
	c.throttle(r.Throttled, now)
	d := report.Directive{ConfigHash: intent.Hash, Images: wanted.Images, Pull: c.pullers.ask(name, does, now),
		Throttled: c.throttles(now), NextReport: idleInterval}
	queued := len(c.pullers.waiting)
	open := slices.ContainsFunc(d.Images, func(w report.WantedImage) bool { return w.Digest == "" && c.unknown[spelled(w.Ref)] == "" })
	c.mu.Unlock()
	if open {
		c.cfg.NewTag()
	}
	d.Restart = c.restart(ctx, node, r, intent, now)
	waits := r.Restart.Slot == report.SlotWanted && !d.Restart.Granted
	switch {
	case does.needs && d.Pull.Granted, r.Restart.Slot != report.SlotNone && !waits:
		d.NextReport = workInterval
	case does.needs:
		d.NextReport = waitInterval(queued)
	case waits:
		d.NextReport = waitInterval(c.outages(now).wanting)
	}
	c.cfg.Changed(name)
	return d, nil
}

// waitInterval is when a node that only waits, as so many do, is to report again: thousands that wait for hours would connect a
// thousand times a second.
func waitInterval(waiting int) time.Duration {
	return min(workInterval+time.Duration(waiting)*time.Second/500, mostWait)
}

// work is what a node does about what it should hold.
type work struct {
	needs    bool // it lacks any of it
	fetching bool // it is about to fetch it
	failed   bool // all that it lacks has failed, and is tried again later
}

func workOf(w Wanted, r report.NodeReport) work {
	is := work{failed: true}
	for _, want := range w.Images {
		img, found := find(r.Images, want)
		if found && img.Phase == report.ImageReady {
			continue
		}
		is.needs = true
		is.failed = is.failed && found && img.Phase == report.ImageFailed
		is.fetching = is.fetching || img.Phase == report.ImageFetching || img.Phase == report.ImageUnpacking
	}
	return is
}

// throttle remembers which registry hosts want to be left alone. The caller holds mu.
func (c *Coordinator) throttle(said []report.Throttle, now time.Time) {
	maps.DeleteFunc(c.throttled, func(_ string, until time.Time) bool { return !now.Before(until) })
	for _, t := range said {
		until := now.Add(min(t.For, maxThrottle))
		if _, known := c.throttled[t.Host]; t.For <= 0 || !known && len(c.throttled) >= maxThrottled {
			continue
		}
		if until.After(c.throttled[t.Host]) {
			c.throttled[t.Host] = until
		}
	}
}

// throttles are the hosts that want to be left alone. The caller holds mu.
func (c *Coordinator) throttles(now time.Time) (all []report.Throttle) {
	for _, host := range slices.Sorted(maps.Keys(c.throttled)) {
		if left := c.throttled[host].Sub(now); left > 0 {
			all = append(all, report.Throttle{Host: host, For: left})
		}
	}
	return all
}

// Conclude says what has become of a node; false if nothing can be said of it: it has no agent, or a leader that is new has
// not heard it yet. had tells whether the Node says anything of hotplate: then it had an agent once.
func (c *Coordinator) Conclude(node Node, had bool) (Conclusion, bool) {
	now := time.Now()
	heard, ok := c.fleet.Of(node.Name)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.release != "" {
		return concludeRelease(heard, ok, c.fleet.Complete(now), now)
	}
	if !ok {
		return Conclusion{Status: report.Unknown, Reason: ReasonSilent, Message: "no report of the agent"}, had && c.fleet.Complete(now)
	}
	intent, ok := c.wants()
	if !ok {
		return Conclusion{}, false
	}
	is := conclude(question{hash: intent.Hash, changed: c.changed, wanted: intent.wanted(node.Name, node.Labels, node.Preheat, c.resolved),
		unknown: c.unknown, heard: heard, now: now})
	// Of an agent that has just started what was concluded before stays until it has looked at everything.
	return is, is.Status == report.True || !had || !starting(heard.Report)
}

// Wanted is what a node should hold now.
func (c *Coordinator) Wanted(node Node) Wanted {
	c.mu.Lock()
	defer c.mu.Unlock()
	intent, _ := c.wants()
	return intent.wanted(node.Name, node.Labels, node.Preheat, c.resolved)
}

// Tags are all references of which it has to be looked up what they mean.
func (c *Coordinator) Tags() (all []string) {
	nodes := c.fleet.All()
	c.mu.Lock()
	intent, _ := c.wants()
	c.mu.Unlock()
	for name := range nodes {
		if node, ok := c.cfg.Nodes.Node(name); ok {
			all = append(all, intent.wanted(name, node.Labels, node.Preheat, nil).tags()...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Gone forgets a node.
func (c *Coordinator) Gone(name string) {
	c.fleet.Forget(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pullers.leave(name)
}
