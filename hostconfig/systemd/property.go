package systemd

import (
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// execStart is one command as StartTransientUnit takes it, (sasb). go-systemd has the same struct, but calls the last
// field by the opposite of what it means.
type execStart struct {
	Path          string
	Argv          []string
	IgnoreFailure bool
}

// timerSpec is one condition of a timer, (st).
type timerSpec struct {
	Base string
	USec uint64
}

// bindPath is an element of BindReadOnlyPaths, a(ssbt) in org.freedesktop.systemd1(5).
type bindPath struct {
	Source, Target string
	IgnoreMissing  bool
	Flags          uint64
}

func bindPaths(binds []Bind) (paths []bindPath) {
	for _, b := range binds {
		paths = append(paths, bindPath{Source: b.Source, Target: b.Target})
	}
	return paths
}

func property(name string, value any) sd.Property {
	return sd.Property{Name: name, Value: dbus.MakeVariant(value)}
}

func microseconds(d time.Duration) uint64 { return uint64(d.Microseconds()) }

func execStarts(steps []Step) []execStart {
	out := make([]execStart, len(steps))
	for i, s := range steps {
		out[i] = execStart{s.Argv[0], s.Argv, s.IgnoreFailure}
	}
	return out
}
