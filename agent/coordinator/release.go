package coordinator

import (
	"maps"
	"slices"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
)

const (
	// ReasonReleasing is that of HotplateReady while a node is put back as it was before hotplate.
	ReasonReleasing = "Releasing"
	// maxWaiting and maxUnreached bound how many nodes a Release names.
	maxWaiting   = 50
	maxUnreached = 500
)

// Release is how far all nodes are on their way back to what they were before hotplate. It is kept beside the Rollout, for
// whoever has asked for it and for the next leader.
type Release struct {
	// Asked is the value of ReleaseAnnotation that it answers.
	Asked string `json:"asked"`
	// Nodes are all that have had an agent, Released those that are as they were.
	Nodes    int `json:"nodes"`
	Released int `json:"released"`
	// Waiting says of nodes that are not, but whose agents answer, how far they are. It names the first of them.
	Waiting map[string]string `json:"waiting,omitempty"`
	// Unreached are the first of those whose agents say nothing.
	Unreached []string `json:"unreached,omitempty"`
	// Done means that nothing more is to be waited for.
	Done bool `json:"done"`
}

// same compares what is said.
func (r Release) same(o Release) bool {
	return r.Asked == o.Asked && r.Nodes == o.Nodes && r.Released == o.Released && r.Done == o.Done &&
		maps.Equal(r.Waiting, o.Waiting) && slices.Equal(r.Unreached, o.Unreached)
}

// SetRelease asks every node to become as it was before hotplate, or to be wanted again where asked is empty. before is how far
// an earlier leader has come.
func (c *Coordinator) SetRelease(asked string, before Release) {
	c.mu.Lock()
	same := c.release == asked
	c.release = asked
	if before.Asked == asked {
		c.unreached = before.Unreached
	}
	c.mu.Unlock()
	if same {
		return
	}
	if asked != "" {
		c.cfg.Log.Warn("every node is asked to become as it was before hotplate", "asked", asked, "toUndo",
			"hotplate-coordinator release --undo")
	} else {
		c.cfg.Log.Info("nodes are wanted again")
	}
	c.everybody()
}

// released is the answer to every node while all are asked to become as they were.
func released(r report.NodeReport) report.Directive {
	d := report.Directive{Release: true, NextReport: workInterval}
	if r.Released {
		d.NextReport = idleInterval
	}
	return d
}

// concludeRelease says what has become of a node meanwhile. Where nobody answers, the marks go all the same: there will be
// nobody to keep them true, and a startup taint would stay for ever.
func concludeRelease(heard Heard, known, complete bool, now time.Time) (Conclusion, bool) {
	switch {
	case known && heard.silent(now), !known && complete, heard.Report.Released:
		return Conclusion{Released: true}, true
	case !known:
		return Conclusion{}, false
	}
	message := heard.Report.Condition(report.Released).Message
	if message == "" {
		message = "what hotplate did to this node is being taken back"
	}
	return Conclusion{Status: report.False, Reason: ReasonReleasing, Message: message}, true
}

// Releasing is how far the nodes are; false if none is asked. marked are those whose Node objects say something of hotplate:
// they have had an agent once.
func (c *Coordinator) Releasing(marked []string) (Release, bool) {
	now := time.Now()
	all := c.fleet.All()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.release == "" {
		return Release{}, false
	}
	out := Release{Asked: c.release, Waiting: map[string]string{}}
	var waiting, unreached []string
	for name, h := range all {
		switch {
		case h.Report.Released:
			out.Released++
		case h.silent(now):
			unreached = append(unreached, name)
		default:
			waiting = append(waiting, name)
		}
	}
	complete := c.fleet.Complete(now)
	if !complete {
		marked = nil // they may be about to report
	}
	for _, name := range slices.Concat(marked, c.unreached) {
		if _, heard := all[name]; !heard {
			unreached = append(unreached, name)
		}
	}
	slices.Sort(waiting)
	slices.Sort(unreached)
	unreached = slices.Compact(unreached)
	out.Nodes = out.Released + len(waiting) + len(unreached)
	out.Done = complete && len(waiting) == 0
	for _, name := range waiting[:min(len(waiting), maxWaiting)] {
		out.Waiting[name] = all[name].Report.Condition(report.Released).Message
	}
	out.Unreached = unreached[:min(len(unreached), maxUnreached)]
	c.unreached = out.Unreached
	return out, true
}
