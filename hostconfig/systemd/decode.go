package systemd

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// childKilled and childDumped are si_code values CLD_KILLED and CLD_DUMPED, see waitid(2).
const (
	childKilled = 2
	childDumped = 3
)

// decodeUnit makes a Unit of the properties that systemd answers. It fails when one is missing or of another type:
// a zero that nobody answered must not pass for a fact.
func decodeUnit(props map[string]dbus.Variant) (Unit, error) {
	d := decoder{props: props}
	u := Unit{
		Name:             text(&d, "Id"),
		Description:      text(&d, "Description"),
		LoadState:        text(&d, "LoadState"),
		ActiveState:      text(&d, "ActiveState"),
		SubState:         text(&d, "SubState"),
		InvocationID:     d.id("InvocationID"),
		Job:              d.job("Job"),
		NeedDaemonReload: value[bool](&d, "NeedDaemonReload"),
		UnitFileState:    text(&d, "UnitFileState"),
		FragmentPath:     text(&d, "FragmentPath"),
		DropInPaths:      names(&d, "DropInPaths"),
		StateChange:      d.time("StateChangeTimestamp"),
		RequiredBy:       names(&d, "RequiredBy"),
		RequisiteOf:      names(&d, "RequisiteOf"),
		BoundBy:          names(&d, "BoundBy"),
		ConsistsOf:       names(&d, "ConsistsOf"),
		StartLimitBurst:  number[uint32](&d, "StartLimitBurst"),

		StartLimitInterval: d.duration("StartLimitIntervalUSec"),
	}
	if _, ok := props["PropagatesStopTo"]; ok { // since systemd 249
		u.PropagatesStopTo = names(&d, "PropagatesStopTo")
	}
	if u.LoadState == "not-found" && u.ActiveState == "inactive" {
		return Unit{}, ErrNoUnit
	}
	if strings.HasSuffix(u.Name, ".service") {
		d.service(&u)
	}
	return u, errors.Join(d.errs...)
}

func (d *decoder) service(u *Unit) {
	u.Type = text(d, "Type")
	u.Restart = text(d, "Restart")
	u.RestartDelay = d.duration("RestartUSec")
	u.NRestarts = number[uint32](d, "NRestarts")
	u.Result = text(d, "Result")
	u.MainPID = number[uint32](d, "MainPID")
	u.KillMode = text(d, "KillMode")
	u.Delegate = value[bool](d, "Delegate")
	u.Watchdog = d.duration("WatchdogUSec")
	u.TimeoutStart = d.duration("TimeoutStartUSec")
	u.TimeoutStop = d.duration("TimeoutStopUSec")
	u.ControlGroup = text(d, "ControlGroup")
	u.ExecStart = d.commands("ExecStart")
	switch status := number[int32](d, "ExecMainStatus"); number[int32](d, "ExecMainCode") {
	case childKilled, childDumped:
		u.Signal = status
	default:
		u.ExitCode = status
	}
}

// decoder reads properties and collects what is wrong with them.
type decoder struct {
	props map[string]dbus.Variant
	errs  []error
}

func (d *decoder) fail(name string) {
	v, ok := d.props[name]
	if !ok {
		d.errs = append(d.errs, fmt.Errorf("systemd does not tell the property %s; is it older than 236?", name))
		return
	}
	d.errs = append(d.errs, fmt.Errorf("systemd tells the property %s in a form that is not known: %s", name, v.Signature()))
}

func value[T any](d *decoder, name string) T {
	v, ok := d.props[name].Value().(T)
	if !ok {
		d.fail(name)
	}
	return v
}

func text(d *decoder, name string) string { return value[string](d, name) }

// names is nil when there are none, so that Units compare.
func names(d *decoder, name string) []string {
	if v := value[[]string](d, name); len(v) > 0 {
		return v
	}
	return nil
}

func number[T uint32 | int32](d *decoder, name string) int { return int(value[T](d, name)) }

func (d *decoder) duration(name string) time.Duration {
	µs := value[uint64](d, name)
	if µs > math.MaxInt64/1000 {
		return Forever
	}
	return time.Duration(µs) * time.Microsecond
}

func (d *decoder) time(name string) time.Time {
	µs := value[uint64](d, name)
	if µs == 0 || µs > math.MaxInt64 {
		return time.Time{}
	}
	return time.UnixMicro(int64(µs))
}

func (d *decoder) id(name string) string { return hex.EncodeToString(value[[]byte](d, name)) }

// job reads (uo): an id and a path.
func (d *decoder) job(name string) uint32 {
	pair := value[[]any](d, name)
	if len(pair) != 2 {
		d.fail(name)
		return 0
	}
	id, ok := pair[0].(uint32)
	if !ok {
		d.fail(name)
	}
	return id
}

// commands reads a(sasbttttuii): path, argv, whether failure is ignored, and when it ran.
func (d *decoder) commands(name string) []Exec {
	var list []Exec
	for _, fields := range value[[][]any](d, name) {
		if len(fields) < 3 {
			d.fail(name)
			return nil
		}
		p, ok1 := fields[0].(string)
		argv, ok2 := fields[1].([]string)
		ignore, ok3 := fields[2].(bool)
		if !ok1 || !ok2 || !ok3 {
			d.fail(name)
			return nil
		}
		list = append(list, Exec{Path: p, Argv: argv, IgnoreFailure: ignore})
	}
	return list
}
