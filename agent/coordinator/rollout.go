package coordinator

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
)

const (
	// grantFor is how long a leave to restart may be used to begin. It is longer than two reports of a node that waits.
	grantFor = time.Minute
	// silentHolder is how long a node that restarts may say nothing. Its own rescue has acted by then: it waits for two and a
	// half minutes and the soak time, which is an hour at most (hostconfig/restart), so that is added.
	silentHolder = 10 * time.Minute
)

// How restarts end (hostconfig/restart, Kind).
const (
	howRestarted  = "Restarted"
	howRolledBack = "RolledBack"
	howFailed     = "Failed"
	howOther      = "Other"
)

// Rollout is which nodes restart containerd now, and what their restarts came to. It is kept in a ConfigMap before a leave is
// given, so that a new leader knows it. It belongs to one goroutine at a time.
type Rollout struct {
	// Holders have the leave to restart, by node.
	Holders map[string]Holder `json:"holders,omitempty"`
	// Proven is the hash of the config with which a node has restarted and worked; with any other one, one node goes first.
	Proven string `json:"proven,omitempty"`
	// Paused says why nobody gets the leave until a person resumes; nil if it goes on.
	Paused *Pause `json:"paused,omitempty"`
}

// Holder is a node that has the leave to restart.
type Holder struct {
	UID   string    `json:"uid"`
	Since time.Time `json:"since"`
	Hash  string    `json:"hash"`
	// Last is when the node's newest restart before this one was, by the node's own clock.
	Last time.Time `json:"last,omitzero"`
	// Held says that the node has begun to use it.
	Held bool `json:"held,omitempty"`
}

// Pause is why a rollout stopped.
type Pause struct {
	Time   time.Time `json:"time"`
	Node   string    `json:"node"`
	Reason string    `json:"reason"`
}

// candidate is a node that reports.
type candidate struct {
	node, uid    string
	controlPlane bool
	slot         report.Slot
	hash         string // of the config that the node has in force
	records      []report.RestartRecord
	busy         string // why it must not restart now, for its pods; empty if it may
}

// world is everything around a candidate.
type world struct {
	now  time.Time
	most int // nodes that may be away at once
	// stopped says why nobody may restart, beside Paused.
	stopped string
	// away are nodes that do not work now, whatever the reason.
	away []string
	// waiting tells whether a node that is no control plane waits for the leave as well.
	waiting bool
	// controlPlanes are the holders that are control planes.
	controlPlanes map[string]bool
}

// ask gives a node the leave to restart, or says why not. changed tells that the Rollout must be kept before the answer is
// given.
func (r *Rollout) ask(c candidate, w world) (leave report.Leave, changed bool) {
	if h, holds := r.Holders[c.node]; holds {
		if leave, goesOn := h.use(c, w.now); goesOn {
			changed = c.slot == report.SlotHeld && !h.Held
			if changed {
				h.Held = true
				r.Holders[c.node] = h
			}
			return leave, changed
		}
		r.end(c, h, w.now)
		changed = true
	}
	if c.slot != report.SlotWanted {
		return report.Leave{}, changed
	}
	if why := r.refuse(c, w); why != "" {
		return report.Leave{Reason: why}, changed
	}
	if r.Holders == nil {
		r.Holders = map[string]Holder{}
	}
	r.Holders[c.node] = Holder{UID: c.uid, Since: w.now, Hash: c.hash, Last: newest(c.records).Time}
	return report.Leave{Granted: true, For: grantFor}, true
}

// use is the leave of a holder, as long as it counts.
func (h Holder) use(c candidate, now time.Time) (report.Leave, bool) {
	switch {
	case h.UID != c.uid || newest(c.records).Time.After(h.Last):
		return report.Leave{}, false // it has ended, or is another machine by the same name
	case c.slot == report.SlotHeld:
		return report.Leave{Granted: true}, true
	case h.Held: // it gave up without a trace
		return report.Leave{}, false
	}
	left := grantFor - now.Sub(h.Since)
	return report.Leave{Granted: left > 0, For: max(left, 0)}, left > 0
}

// end takes the leave back and goes by what came of it.
func (r *Rollout) end(c candidate, h Holder, now time.Time) {
	delete(r.Holders, c.node)
	last := newest(c.records)
	if h.UID != c.uid || !last.Time.After(h.Last) {
		return
	}
	switch last.How {
	case howRestarted:
		r.Proven = h.Hash
	case howRolledBack, howFailed:
		r.pause(c.node, fmt.Sprintf("%s: %s", last.How, last.Reason), now)
	}
}

func (r *Rollout) pause(node, reason string, now time.Time) {
	if r.Paused == nil {
		r.Paused = &Pause{Time: now, Node: node, Reason: reason}
	}
}

// refuse says why a node must wait, or nothing.
func (r *Rollout) refuse(c candidate, w world) string {
	away := maps.Clone(r.Holders)
	if away == nil {
		away = map[string]Holder{}
	}
	for _, node := range w.away {
		away[node] = Holder{}
	}
	delete(away, c.node)
	names := slices.Sorted(maps.Keys(away))
	switch {
	case w.stopped != "":
		return w.stopped
	case r.Paused != nil:
		return fmt.Sprintf("restarts are paused since %s, because of node %s: %s; look at it, then: kubectl hotplate resume",
			r.Paused.Time.UTC().Format(time.RFC3339), r.Paused.Node, r.Paused.Reason)
	case c.busy != "":
		return c.busy
	case len(names) >= w.most:
		return fmt.Sprintf("%d nodes are away, which is as many as may be (cluster.maxUnavailable): %s", len(names), few(names))
	case c.hash != r.Proven && len(r.Holders) > 0:
		return fmt.Sprintf("one node goes first with this config: %s", few(slices.Sorted(maps.Keys(r.Holders))))
	case c.controlPlane && w.waiting:
		return "it is a control plane, and goes when no other node waits"
	case c.controlPlane && len(r.Holders) > 0, len(w.controlPlanes) > 0:
		return "control planes go one by one, and alone"
	}
	return ""
}

// expire looks after holders that say nothing. gone tells whether a Node is no more; silent since when a node has said nothing,
// or zero.
func (r *Rollout) expire(now time.Time, soak time.Duration, gone func(node, uid string) bool, silent func(node string) time.Time) (changed bool) {
	for node, h := range r.Holders {
		since := silent(node)
		switch {
		case gone(node, h.UID):
		case since.IsZero() || now.Sub(since) < silentHolder+soak:
			continue
		default:
			r.pause(node, fmt.Sprintf("it may be restarting containerd, and has said nothing since %s", since.UTC().Format(time.RFC3339)), now)
		}
		delete(r.Holders, node)
		changed = true
	}
	return changed
}

// resume goes on, if a person has said so after it stopped.
func (r *Rollout) resume(said time.Time) (changed bool) {
	if r.Paused == nil || !said.After(r.Paused.Time) {
		return false
	}
	r.Paused = nil
	return true
}

func newest(records []report.RestartRecord) (last report.RestartRecord) {
	for _, r := range records {
		if r.Time.After(last.Time) {
			last = r
		}
	}
	return last
}

// few names some of many.
func few(names []string) string {
	const most = 5
	if len(names) <= most {
		return fmt.Sprint(names)
	}
	return fmt.Sprintf("%v and %d more", names[:most], len(names)-most)
}
