package agent

import (
	"fmt"
	"slices"
	"time"
)

// A registry's directory that somebody else changes flapLimit times within flapWindow has two owners. hotplate then leaves it
// alone for flapBackoff, twice as long each time up to flapBackoffMax: two tools that undo each other's work at full
// speed are worse than either of them alone.
const (
	flapLimit      = 3
	flapWindow     = 10 * time.Minute
	flapBackoff    = 10 * time.Minute
	flapBackoffMax = 2 * time.Hour
)

// flaps counts foreign changes by registry host. It belongs to the reconciler's goroutine. It is bounded by the hosts
// that the configs of this process have named.
type flaps struct {
	hosts map[string]*flap
}

type flap struct {
	changes []time.Time // within flapWindow, at most flapLimit
	until   time.Time   // left alone until then
	backoff time.Duration
	who     string // what is known of the competitor
}

// saw records that a file of host was found changed at now. who says what is known of who did it; named, whether that is
// more than nothing: whoever truncates a file before writing it is once seen without a name.
func (f *flaps) saw(host, who string, named bool, now time.Time) {
	if f.hosts == nil {
		f.hosts = make(map[string]*flap)
	}
	d := f.hosts[host]
	if d == nil {
		d = &flap{backoff: flapBackoff}
		f.hosts[host] = d
	}
	if named || d.who == "" {
		d.who = who
	}
	if now.Sub(d.until) > flapBackoffMax {
		d.backoff = flapBackoff // it kept the peace for long
	}
	d.changes = slices.DeleteFunc(d.changes, func(t time.Time) bool { return now.Sub(t) > flapWindow })
	d.changes = append(d.changes, now)
	if len(d.changes) >= flapLimit {
		d.until = now.Add(d.backoff)
		d.backoff = min(2*d.backoff, flapBackoffMax)
		d.changes = nil
	}
}

// message says why host is left alone at now, and what to do; empty when it is not.
func (f *flaps) message(host string, now time.Time) string {
	d := f.hosts[host]
	if d == nil || !now.Before(d.until) {
		return ""
	}
	return fmt.Sprintf("somebody else changed it %d times within %s: %s; left alone until %s; "+
		"stop that program from writing there, or take this registry out of the config",
		flapLimit, flapWindow, d.who, d.until.Format(time.TimeOnly))
}
