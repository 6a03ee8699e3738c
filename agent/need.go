package agent

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

// maxRecords bounds how many earlier restarts are reported; the state directory has more.
const maxRecords = 5

// need is whether containerd must be restarted, and what is done about it: what the reconciler has found out and what
// restarts do. The condition HostsLive is made of both, here alone. It is safe for concurrent use.
type need struct {
	view *view
	// ended is called when something was done with the daemon, so that what was known of it may not hold any more.
	ended func()
	kick  chan struct{} // capacity 1; wakes restarts

	mu sync.Mutex // guards what follows
	is facts
	// reason and message say what is done about it, next when.
	reason, message string
	next            time.Time
	busy            string // what is done with the daemon just now; empty if nothing
	done            int    // how often something was
	// process is the daemon that did not obey when it was last probed. ours is whether it is another one since because of
	// what was done with it: that is no reason to begin anew.
	process daemon.Info
	ours    bool
	checks  []restart.Check
	records []restart.Outcome
}

// facts are what a restart depends on.
type facts struct {
	// settings are those of the config in force, hash is its; nil and empty before the hosts directory was written.
	settings *config.Restart
	hash     string
	// known is whether it was tried to find out whether the daemon reads the hosts directory.
	known bool
	// why says why it does not; empty if it does, or that is not known. byHand says what a person could do, cause how the
	// probe's pull ended.
	why, byHand, cause string
	// fresh is whether anything has changed that may make a restart possible.
	fresh bool
}

func newNeed(v *view) *need {
	n := &need{view: v, ended: func() {}, kick: make(chan struct{}, 1)}
	n.unsaid()
	return n
}

// want takes the settings of a config that is in force from now on.
func (n *need) want(settings config.Restart, hash string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.is.settings != nil && n.is.hash == hash {
		return
	}
	n.is.settings, n.is.hash, n.is.fresh = &settings, hash, true
	n.wake()
}

// live takes that the daemon obeys. While something is done with the daemon, this and the next two are ignored: it is
// probed again at the end.
func (n *need) live(message string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.busy != "" {
		return
	}
	n.found("", "", "")
	n.process, n.ours = daemon.Info{}, false
	n.unsaid()
	n.view.set(report.HostsLive, report.True, "Live", message)
}

// unknown takes that it is not known whether the daemon obeys.
func (n *need) unknown(reason, message string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.busy != "" {
		return
	}
	n.found("", "", "")
	if n.reason == report.RestartFailed { // which is why, and more important
		reason, message = n.reason, n.message
	}
	n.view.set(report.HostsLive, report.Unknown, reason, message)
}

// needed takes that the daemon that process describes does not obey.
func (n *need) needed(why, byHand, cause string, process daemon.Info) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.busy != "" {
		return
	}
	if !sameProcess(n.process, process) && !n.ours {
		n.is.fresh = true
	}
	n.process, n.ours = process, false
	n.found(why, byHand, cause)
	n.tellLocked()
}

// found notes what was found out. The caller holds mu.
func (n *need) found(why, byHand, cause string) {
	if !n.is.known || n.is.fresh || (n.is.why == "") != (why == "") {
		n.wake()
	}
	n.is.known, n.is.why, n.is.byHand, n.is.cause = true, why, byHand, cause
}

func (n *need) wake() {
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

// facts are those of now.
func (n *need) facts() facts {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.is
}

// take is facts for whoever begins anew when they are fresh.
func (n *need) take() facts {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.is
	n.is.fresh = false
	return f
}

// say takes what is done about it, and when something is done next.
func (n *need) say(reason, message string, next time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reason, n.message, n.next = reason, message, next
	n.tellLocked()
}

// unsaid is what is said before anything was decided. The caller holds mu, or is alone.
func (n *need) unsaid() {
	n.reason, n.message, n.next = report.RestartNeeded, "hotplate looks whether it may restart it", time.Time{}
}

// begin notes that something is done with the daemon, which may be away until end is called; tell states it. touched says
// whether anything was done, so that the daemon may be another one than before.
func (n *need) begin(what string) (end func(touched bool)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.busy = what
	return func(touched bool) {
		n.mu.Lock()
		n.busy = ""
		if touched {
			n.done++
			n.ours = true
		}
		n.mu.Unlock()
		if touched {
			n.ended()
		}
	}
}

// underWay says what is done with the daemon just now, empty if nothing, and how often something was done.
func (n *need) underWay() (what string, done int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.busy, n.done
}

// tell states HostsLive.
func (n *need) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tellLocked()
}

// tellLocked is tell where the daemon does not obey, or something is done with it. The caller holds mu.
func (n *need) tellLocked() {
	switch {
	case n.busy != "" && n.is.why == "":
		n.view.set(report.HostsLive, report.Unknown, report.Restarting, n.busy)
	case n.busy != "":
		n.view.set(report.HostsLive, report.False, report.Restarting, n.is.why+". "+n.busy)
	case n.is.why == "" && n.reason == report.RestartFailed:
		n.view.set(report.HostsLive, report.Unknown, n.reason, n.message)
	case n.is.why != "":
		n.view.set(report.HostsLive, report.False, n.reason, fmt.Sprintf("%s. %s. The probe's pull ended with: %s",
			n.is.why, n.message, n.is.cause))
	}
}

// checked takes the newest checks, recorded how earlier restarts ended.
func (n *need) checked(checks []restart.Check) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.checks = checks
}

func (n *need) recorded(all []restart.Outcome) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.records = slices.Clone(all[:min(len(all), maxRecords)])
}

// report is what is done and what was done.
func (n *need) report() report.Restart {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := report.Restart{}
	if n.is.settings != nil {
		r.Policy = string(n.is.settings.Policy)
	}
	if n.is.why != "" {
		r.Next = n.next
		r.Checks = Checks(n.checks)
	}
	for _, o := range n.records {
		r.Records = append(r.Records, report.RestartRecord{How: string(o.Kind), Time: o.Time, Reason: o.Reason, Unit: o.Unit,
			File: o.File, Downtime: o.Downtime, Rescued: o.Rescued})
	}
	return r
}
