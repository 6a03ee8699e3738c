package config

import (
	"regexp"
	"time"
)

const (
	maxSoak       = Duration(time.Hour) // of hostconfig/restart
	maxDependants = 32
	// minWindow leaves time for a second try: a restart that finds the node busy is put off by a minute, then longer.
	minWindow = 30 * time.Minute
)

// unitName is a unit of systemd that can be started (unit_name_is_valid, basic/unit-name.c, systemd 252).
var unitName = regexp.MustCompile(`^[a-zA-Z0-9:_.\\@-]{1,240}\.(service|socket|target|mount|automount|path|timer)$`)

func (v *validator) restart(r Restart) {
	oneOf(v, "restart.policy", r.Policy, RestartWhenNeeded, RestartNever)
	if r.Soak < 0 || r.Soak > maxSoak {
		v.fault("restart.soak", "is %s; write at most 1h", r.Soak)
	}
	v.dependants(r.Dependants)
	if r.Window != nil {
		v.window("restart.window", *r.Window)
	}
}

func (v *validator) dependants(units []string) {
	const at = "restart.dependants"
	if len(units) > maxDependants {
		v.fault(at, "has %d entries; write at most %d", len(units), maxDependants)
	}
	first := map[string]string{}
	for i, unit := range units {
		path := index(at, i)
		switch twice, taken := first[unit]; {
		case !unitName.MatchString(unit):
			v.fault(path, "is %s, not a unit that can be started; write its whole name, such as kubelet.service", quote(unit))
		case taken:
			v.fault(path, "is %s, as %s is already; remove one", quote(unit), twice)
		}
		first[unit] = path
	}
}

func (v *validator) window(at string, w Window) {
	if len(w.Days) == 0 && w.Start == 0 && w.End == EndOfDay && !v.anySpoiled(at, "days", "start", "end") {
		v.fault(at, "says nothing, and would always be open; write start and end, or days, or remove it")
	}
	v.timeZone(join(at, "timeZone"), w.TimeZone)
	first := map[Day]string{}
	for i, day := range w.Days {
		path := index(join(at, "days"), i)
		oneOf(v, path, day, Days()...)
		if twice, taken := first[day]; taken {
			v.fault(path, "is %s, as %s is already; remove one", quote(string(day)), twice)
		}
		first[day] = path
	}
	switch end := join(at, "end"); {
	case v.anySpoiled(at, "start", "end"):
	case w.Start == EndOfDay:
		v.fault(join(at, "start"), "is 24:00; write 00:00, and the day after in days")
	case w.Start == w.End:
		v.fault(end, "is %s, as start is; write another time, or leave both out for whole days", w.End)
	case w.length() < minWindow:
		v.fault(end, "leaves %.0f minutes; write a window of at least %.0f, or a restart that is put off misses it",
			w.length().Minutes(), minWindow.Minutes())
	}
}

func (v *validator) timeZone(path, name string) {
	const hint = "write UTC, or a name such as Europe/Berlin"
	if name == "Local" {
		v.fault(path, "is Local, which is another one in a pod than on its node; %s", hint)
		return
	}
	if _, err := time.LoadLocation(name); err != nil {
		v.fault(path, "is %s, not a time zone of the IANA database; %s", quote(name), hint)
	}
}
