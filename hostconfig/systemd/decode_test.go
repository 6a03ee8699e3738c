package systemd

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"
)

// answer is what systemd 252 answered for a containerd.service, of the properties that matter.
func answer() map[string]dbus.Variant {
	v := dbus.MakeVariant
	return map[string]dbus.Variant{
		"Id": v("containerd.service"), "Description": v("containerd container runtime"), "LoadState": v("loaded"),
		"ActiveState": v("active"), "SubState": v("running"), "InvocationID": v([]byte{0xab, 0x01}),
		"Job":              v([]any{uint32(7), dbus.ObjectPath("/org/freedesktop/systemd1/job/7")}),
		"NeedDaemonReload": v(false), "UnitFileState": v("enabled"), "FragmentPath": v("/lib/systemd/system/containerd.service"),
		"DropInPaths": v([]string{"/etc/systemd/system/containerd.service.d/x.conf"}), "StateChangeTimestamp": v(uint64(1e6)),
		"RequiredBy": v([]string{"a.service"}), "RequisiteOf": v([]string{}), "BoundBy": v([]string{}),
		"ConsistsOf": v([]string{}), "StartLimitBurst": v(uint32(5)), "StartLimitIntervalUSec": v(uint64(10e6)),
		"Type": v("notify"), "Restart": v("always"), "RestartUSec": v(uint64(5e6)), "NRestarts": v(uint32(2)),
		"Result": v("success"), "MainPID": v(uint32(81)), "KillMode": v("process"), "Delegate": v(true),
		"WatchdogUSec": v(uint64(0)), "TimeoutStartUSec": v(uint64(90e6)), "TimeoutStopUSec": v(^uint64(0)),
		"ControlGroup": v("/system.slice/containerd.service"), "ExecMainStatus": v(int32(9)), "ExecMainCode": v(int32(2)),
		"ExecStart": v([][]any{{
			"/usr/bin/containerd", []string{"/usr/bin/containerd", "--config=/etc/c.toml"}, false,
			uint64(1), uint64(1), uint64(0), uint64(0), uint32(81), int32(0), int32(0),
		}}),
	}
}

func TestDecodeUnit(t *testing.T) {
	want := Unit{
		Name: "containerd.service", Description: "containerd container runtime", LoadState: "loaded", ActiveState: "active",
		SubState: "running", InvocationID: "ab01", Job: 7, UnitFileState: "enabled",
		FragmentPath: "/lib/systemd/system/containerd.service",
		DropInPaths:  []string{"/etc/systemd/system/containerd.service.d/x.conf"}, StateChange: time.Unix(1, 0),
		RequiredBy: []string{"a.service"}, StartLimitBurst: 5, StartLimitInterval: 10 * time.Second,
		Type: "notify", Restart: "always", RestartDelay: 5 * time.Second, NRestarts: 2, Result: "success", MainPID: 81,
		Signal: 9, KillMode: "process", Delegate: true, TimeoutStart: 90 * time.Second, TimeoutStop: Forever,
		ControlGroup: "/system.slice/containerd.service",
		ExecStart:    []Exec{{Path: "/usr/bin/containerd", Argv: []string{"/usr/bin/containerd", "--config=/etc/c.toml"}}},
	}
	got, err := decodeUnit(answer())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A zero that nobody answered must not pass for a fact.
func TestDecodeUnitMissesEveryProperty(t *testing.T) {
	for name := range answer() {
		missing, mistyped := answer(), answer()
		delete(missing, name)
		mistyped[name] = dbus.MakeVariant(struct{ X string }{"x"})
		for what, props := range map[string]map[string]dbus.Variant{"missing": missing, "of another type": mistyped} {
			if name == "Id" { // then it is not known to be a service
				continue
			}
			if _, err := decodeUnit(props); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s is %s: %v", name, what, err)
			}
		}
	}
	if _, err := decodeUnit(nil); err == nil {
		t.Error("nothing is a unit")
	}
}

func TestDecodeUnitThatIsNotThere(t *testing.T) {
	props := answer()
	props["LoadState"], props["ActiveState"] = dbus.MakeVariant("not-found"), dbus.MakeVariant("inactive")
	if _, err := decodeUnit(props); !errors.Is(err, ErrNoUnit) {
		t.Error(err)
	}
	props["ActiveState"] = dbus.MakeVariant("active") // it runs on after its file was deleted
	if u, err := decodeUnit(props); err != nil || u.LoadState != "not-found" {
		t.Error(u.LoadState, err)
	}
}

func TestDecodeUnitThatIsNoService(t *testing.T) {
	props := answer()
	props["Id"] = dbus.MakeVariant("x.timer")
	maps.DeleteFunc(props, func(name string, _ dbus.Variant) bool { return name == "MainPID" || name == "Type" })
	if u, err := decodeUnit(props); err != nil || u.Name != "x.timer" || u.MainPID != 0 {
		t.Error(u, err)
	}
}

func TestJobs(t *testing.T) {
	removed := func(job dbus.ObjectPath, result string) *dbus.Signal {
		return &dbus.Signal{Body: []any{uint32(1), job, "x.service", result}}
	}
	j := newJobs()
	first, second, gone := make(chan string, 1), make(chan string, 1), make(chan string, 1)

	// The result comes before the answer that there is a job.
	_, err := j.queue(func() (dbus.ObjectPath, error) {
		j.DeliverSignal(managerInterface, "JobRemoved", removed("/1", "done"))
		return "/1", nil
	}, first)
	if got := <-first; err != nil || got != "done" {
		t.Errorf("%q, %v", got, err)
	}

	// Two wait for one job, a third has left.
	for _, w := range []chan string{first, second, gone} {
		if _, err := j.queue(func() (dbus.ObjectPath, error) { return "/2", nil }, w); err != nil {
			t.Fatal(err)
		}
	}
	j.leave("/2", gone)
	j.DeliverSignal(managerInterface, "UnitRemoved", removed("/2", "other signal"))
	j.DeliverSignal(managerInterface, "JobRemoved", &dbus.Signal{Body: []any{"garbage"}})
	j.DeliverSignal(managerInterface, "JobRemoved", removed("/3", "another job"))
	j.DeliverSignal(managerInterface, "JobRemoved", removed("/2", "failed"))
	j.DeliverSignal(managerInterface, "JobRemoved", removed("/2", "twice"))
	if a, b := <-first, <-second; a != "failed" || b != "failed" || len(gone) != 0 {
		t.Errorf("%q, %q, and %d for who has left", a, b, len(gone))
	}

	// A request that failed waits for nothing.
	if _, err := j.queue(func() (dbus.ObjectPath, error) { return "", ErrClosed }, first); err == nil {
		t.Error("no error")
	}
	if len(j.waiting) != 0 || len(j.early) != 0 {
		t.Errorf("left: %v, %v", j.waiting, j.early)
	}
}

func TestHasOwnClock(t *testing.T) {
	for offsets, want := range map[string]bool{
		"": false,
		"monotonic           0         0\nboottime            0         0\n": false,
		"monotonic        1000         0\nboottime            0         0\n": true,
		"monotonic           0        -5\n":                                  true,
		"monotonic           0         0\nboottime            7         0\n": false,
	} {
		if got := hasOwnClock([]byte(offsets)); got != want {
			t.Errorf("%q: %v", offsets, got)
		}
	}
	if now, err := monotonic(); err != nil || now <= 0 {
		t.Errorf("now is %v, %v", now, err)
	}
}
