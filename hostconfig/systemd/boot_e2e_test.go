//go:build e2e

package systemd_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// What a transaction of package restart has on the disk.
const (
	config    = "/var/lib/app/config"
	backup    = "/var/lib/app/backup"
	marker    = "/var/lib/app/marker"
	unchanged = "/var/lib/app/unchanged"
	// seen is what the service had for its configuration when it started.
	seen = "/var/lib/app/seen"
)

const appUnit = `[Service]
ExecStartPre=/bin/cp ` + config + ` ` + seen + `
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
`

func bootUnit() systemd.BootUnit {
	return systemd.BootUnit{
		Name: "hotplate-boot", Description: "hotplate: put back what a reboot interrupted",
		Marker: marker, Rescues: "hotplate-rescue-", Before: "app.service", Unchanged: unchanged,
		Steps: systemd.RestoreFile(backup, config),
	}
}

// rebooting is a node with a service and its boot unit.
type rebooting struct {
	*testing.T
	node *rig.Node
	sys  *systemd.Manager
	n    int // of the transaction
}

func newRebooting(t *testing.T) *rebooting {
	t.Helper()
	unit, err := bootUnit().Render()
	if err != nil {
		t.Fatal(err)
	}
	r := &rebooting{T: t, node: rigtest.Node(t, rig.NodeConfig{
		Line: "2.4", NoCRI: true,
		Files: map[string]string{config: "old", "/etc/systemd/system/hotplate-boot.service": unit},
		Units: map[string]string{"app.service": appUnit},
	})}
	r.connect()
	if err := r.sys.Enable(t.Context(), "hotplate-boot.service"); err != nil {
		t.Fatal(err)
	}
	r.started()
	t.Cleanup(func() { r.sys.Close() })
	return r
}

// connect connects from outside the node. PID 1's own socket is of no use there: it wants to know the process id of whom
// it speaks with, and sees none.
func (r *rebooting) connect() {
	r.Helper()
	if r.sys != nil {
		r.sys.Close()
	}
	cfg := systemd.Config{PrivateSocket: "/nonexistent", SystemBus: r.node.Path("/run/dbus/system_bus_socket")}
	var err error
	if r.sys, err = systemd.Connect(r.Context(), cfg); err != nil {
		r.Fatal(err)
	}
}

// change begins a transaction, and leaves it in its middle.
func (r *rebooting) change(content string) (rescue string) {
	r.Helper()
	r.write(backup, r.read(config))
	r.write(unchanged, fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(content)), config))
	r.write(marker, "")
	r.n++
	rescue = fmt.Sprintf("hotplate-rescue-%d", r.n)
	err := r.sys.Arm(r.Context(), systemd.Rescue{
		Name: rescue, Description: "a rescue", After: time.Hour, Steps: systemd.RestoreFile(backup, config),
	})
	if err != nil {
		r.Fatal(err)
	}
	r.write(config, content)
	return rescue
}

// restart restarts the service as anybody may.
func (r *rebooting) restart() {
	r.Helper()
	if result, err := r.sys.Restart(r.Context(), "app.service"); err != nil || result != systemd.ResultDone {
		r.Fatal(result, err)
	}
}

// powerCut ends the node and boots it.
func (r *rebooting) powerCut() {
	r.Helper()
	if err := errors.Join(r.node.Kill(), r.node.Boot(r.Context())); err != nil {
		r.Fatal(err)
	}
	r.connect()
}

// started waits until the service has started.
func (r *rebooting) started() {
	r.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		u, err := r.sys.Unit(r.Context(), "app.service")
		if err != nil || time.Now().After(deadline) {
			r.Fatalf("the service has not started: it is %s/%s, %v", u.ActiveState, u.SubState, err)
		}
		if u.SubState == "running" {
			return
		}
	}
}

// want waits until the service has started with a configuration, and checks the rest.
func (r *rebooting) want(what, content string, markerThere bool) {
	r.Helper()
	r.started()
	if got := r.read(seen); got != content {
		r.Errorf("%s: the service started with %q, not %q", what, got, content)
	}
	if got := r.read(config); got != content {
		r.Errorf("%s: the configuration is %q, not %q", what, got, content)
	}
	if got := r.exists(marker); got != markerThere {
		r.Errorf("%s: the marker is there: %v", what, got)
	}
	if got := r.exists(systemd.Restored(marker)); got == markerThere {
		r.Errorf("%s: the moved marker is there: %v", what, got)
	}
	for _, file := range []string{seen, marker, systemd.Restored(marker)} {
		if err := os.RemoveAll(r.node.Path(file)); err != nil {
			r.Fatal(err)
		}
	}
}

func (r *rebooting) read(file string) string {
	r.Helper()
	content, err := os.ReadFile(r.node.Path(file))
	if err != nil {
		r.Fatal(err)
	}
	return string(content)
}

func (r *rebooting) write(file, content string) {
	r.Helper()
	if err := os.WriteFile(r.node.Path(file), []byte(content), 0o644); err != nil {
		r.Fatal(err)
	}
}

func (r *rebooting) exists(file string) bool {
	_, err := os.Stat(r.node.Path(file))
	return err == nil
}

func TestBootUnit(t *testing.T) {
	r := newRebooting(t)

	rescue := r.change("new")
	r.restart()
	r.want("a restart while a rescue is armed", "new", true)

	r.write(marker, "")
	if state, err := r.sys.Disarm(t.Context(), rescue); err != nil || state != systemd.RescueDisarmed {
		t.Fatal(state, err)
	}
	r.restart()
	r.want("a restart when the rescue is gone and the marker is not", "old", false)

	r.change("new")
	r.powerCut()
	r.want("a power cut in the middle", "old", false)

	r.change("new")
	r.write(config, "somebody else's")
	r.powerCut()
	r.want("a power cut, and somebody else changed it too", "somebody else's", true)

	r.change("new")
	if err := r.node.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.connect()
	r.want("a reboot in the middle", "somebody else's", false)

	rescue = r.change("new")
	if err := os.Remove(r.node.Path(marker)); err != nil {
		t.Fatal(err)
	}
	if state, err := r.sys.Disarm(t.Context(), rescue); err != nil || state != systemd.RescueDisarmed {
		t.Fatal(state, err)
	}
	r.write(systemd.Restored(marker), "") // so that want finds one of them
	r.powerCut()
	r.want("a reboot after the end", "new", false)

	if err := r.sys.Disable(t.Context(), "hotplate-boot.service"); err != nil {
		t.Fatal(err)
	}
	if u, err := r.sys.Unit(t.Context(), "hotplate-boot.service"); err != nil || u.UnitFileState != "disabled" {
		t.Errorf("disabled: %s, %v", u.UnitFileState, err)
	}
}
