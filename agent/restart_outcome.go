package agent

import (
	"errors"
	"fmt"
	"time"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

// conclude takes note of how an attempt ended, and says when the next one may be made.
func (r *restarts) conclude(o restart.Outcome, err error) {
	now := time.Now()
	if !r.stuck || o.Kind != restart.Failed {
		r.stats.add(o)
	}
	r.need.checked(o.Checks)
	r.refused, r.stuck = false, false
	switch {
	case errors.Is(err, errNotNow):
		r.due = now // the next step says why
	case errors.Is(err, restart.ErrBusy):
		r.putOff("somebody else restarts containerd just now")
	case err != nil:
		r.open, r.openAt = true, now.Add(recoverInterval)
		r.due = now.Add(r.retry.NextBackOff())
		r.need.say(report.RestartNeeded, fmt.Sprintf("hotplate cannot restart it here: %v. %s", err,
			r.need.facts().byHand), r.due)
	case o.Kind == restart.Deferred:
		r.putOff("the restart is put off, and tried again by itself: " + o.Reason)
	case o.Kind == restart.Abandoned:
		r.putOff("the restart was begun and not done: " + o.Reason)
	case o.Kind == restart.Refused && !rolledBack(o):
		r.giveUp(report.RestartRefused, "hotplate does not restart it, because that would not be safe: "+o.Reason)
	case o.Kind == restart.Refused:
		r.giveUp(report.RolledBack, "hotplate does not restart it: "+o.Reason)
	case o.Kind == restart.RolledBack:
		r.giveUp(report.RolledBack, "hotplate tried it and put the old configuration back: "+o.Reason)
	case o.Kind == restart.Failed:
		r.stuck, r.open, r.openAt = true, true, now.Add(recoverInterval)
		r.need.say(report.RestartFailed, o.Reason, r.openAt)
	case o.Kind == restart.NotNeeded:
		r.due = now.Add(deferMin)
		r.need.ended() // the agent's own probe came to something else
	default: // Restarted: the next probe tells
		r.due = now.Add(deferMin)
		r.retry.Reset()
	}
}

// putOff has it tried again after a while.
func (r *restarts) putOff(message string) {
	r.due = time.Now().Add(r.retry.NextBackOff())
	r.need.say(report.RestartDeferred, message, r.due)
}

// giveUp has it tried again when something has changed; whether that is so is looked at now and then.
func (r *restarts) giveUp(reason, message string) {
	r.refused, r.due = true, time.Now().Add(refusedInterval)
	r.need.say(reason, message+"; it is looked at again every 10 minutes, and when the config or containerd's process "+
		"changes", r.due)
}

// rolledBack reports whether a restart is refused because the same one was taken back before.
func rolledBack(o restart.Outcome) bool {
	for _, c := range o.Checks {
		if c.Verdict == restart.Refuse && c.Name != "history" {
			return false
		}
	}
	return len(o.Checks) > 0
}
