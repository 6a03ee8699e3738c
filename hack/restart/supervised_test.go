//go:build e2e

package restart_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

const noSystemd = "8 no systemd"

// The rows of this file run in a PID namespace of their own, whose process 1 is the supervisor: also on a machine of
// systemd's there is none.

func TestSupervisedFine(t *testing.T) {
	for _, line := range rigtest.Lines(t) {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			s := newPlace(t, rig.SupervisorConfig{ContainerdConfig: rig.ContainerdConfig{Line: line}})
			before := s.supervisor.PID()
			o := s.restart("--without-rescue")
			s.check("config_path is not set", o, restart.Restarted, "")
			if s.supervisor.PID() == before {
				t.Error("containerd was not restarted")
			}
			s.check("config_path is not set, asked once more", s.restart("--without-rescue"), restart.NotNeeded, "no restart is needed")
			s.leavesNothing()
		})
	}
}

// TestSupervisedImports has a configuration that imports files beside it by a relative path, and a process that may look what
// containerd sees.
func TestSupervisedImports(t *testing.T) {
	t.Parallel()
	s := newPlace(t, rig.SupervisorConfig{ContainerdConfig: rig.ContainerdConfig{
		Line: "2.4", ExtraConfig: "imports = ['conf.d/*.toml']",
	}})
	s.write("conf.d/10.toml", "version = 3\n[plugins.'io.containerd.cri.v1.images']\n  max_concurrent_downloads = 4\n")
	s.caps = []string{"CAP_SYS_PTRACE"}
	s.check("the configuration imports others by a relative path", s.restart("--without-rescue"), restart.Restarted, "")
	s.leavesNothing()
}

func TestSupervisedDropIn(t *testing.T) {
	t.Parallel()
	s := newPlace(t, rig.SupervisorConfig{ContainerdConfig: rig.ContainerdConfig{
		Line: "2.4", ExtraConfig: "imports = ['conf.d/*.toml']",
	}})
	s.write("conf.d/10.toml", "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\n  config_path = '/etc/vendor'\n")
	before := s.supervisor.PID()
	s.check("a drop-in decides, and cannot be tried", s.restart("--without-rescue"), restart.Refused, "main configuration file")
	s.untouched(before)
}

func TestSupervisedNotAllowed(t *testing.T) {
	t.Parallel()
	s := newPlace(t, rig.SupervisorConfig{ContainerdConfig: rig.ContainerdConfig{Line: "2.4"}})
	before := s.supervisor.PID()
	s.check("it is not allowed", s.restart(), restart.Refused, "restart.withoutRescue")
	s.untouched(before)
}

func TestSupervisedOtherPIDNamespace(t *testing.T) {
	t.Parallel()
	s := newPlace(t, rig.SupervisorConfig{ContainerdConfig: rig.ContainerdConfig{Line: "2.4"}})
	before := s.supervisor.PID()
	s.ownPID = true
	o := s.restart("--without-rescue")
	o.Kind = restart.Refused // it says no more than why
	_, o.Reason, _ = strings.Cut(o.Reason, "and without it: ")
	s.check("hotplate has not the node's PID namespace", o, restart.Refused, "hostPID")
	s.untouched(before)
}

func TestSupervisedFrozenShim(t *testing.T) {
	t.Parallel()
	s := newPlace(t, rig.SupervisorConfig{ContainerdConfig: rig.ContainerdConfig{Line: "2.4"}})
	before := s.supervisor.PID()
	shim := s.shim(s.pods[0])
	s.signal(shim, unix.SIGSTOP)
	o := s.restart("--without-rescue")
	s.signal(shim, unix.SIGCONT)
	s.check("a shim that hangs", o, restart.Refused, "shim does not answer")
	s.untouched(before)
}

func TestSupervisedDaemon(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ fault, command, reason string }{
		{"it does not start", "exit 1", "no other listens"},
		{"CRI is down", "exec $CTRD --config $DIR/nocri.toml", "CRI"},
		{"it hangs in its start", hangs, "was started and does not listen"},
	} {
		t.Run(c.fault, func(t *testing.T) {
			t.Parallel()
			s := newPlace(t, faultyPlace(t, c.command))
			old := s.read("config.toml")
			s.write("nocri.toml", "disabled_plugins = ['io.containerd.cri.v1.images']\n"+old)
			s.check(c.fault, s.restart("--without-rescue"), restart.RolledBack, c.reason)
			if got := s.read("config.toml"); got != old {
				t.Errorf("the configuration was not put back byte for byte:\n%s", got)
			}
			s.age()
			s.check(c.fault+", asked once more", s.restart("--without-rescue"), restart.Refused, "was tried and taken back")
			s.leavesNothing()
		})
	}
}

// TestSupervisedKilled kills hotplate while containerd starts with the new configuration, and runs it again.
func TestSupervisedKilled(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		config, command string
		want            restart.Kind
	}{
		{"good", "touch $DIR/starts; until [ -e $DIR/go ]; do sleep 0.1; done", restart.Restarted},
		{"does not start", "touch $DIR/starts; exit 1", restart.RolledBack},
	} {
		t.Run(c.config, func(t *testing.T) {
			t.Parallel()
			s := newPlace(t, faultyPlace(t, c.command))
			h := s.start("--without-rescue")
			s.eventually("containerd to be started with the new configuration", func() bool { return s.has("starts") || !h.Running() })
			if err := h.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.write("go", "")
			fault := "hotplate is killed in the middle; config " + c.config
			s.check(fault, s.restart("--without-rescue"), c.want, "")
			if c.want == restart.RolledBack {
				s.age()
				s.check(fault+"; asked once more", s.restart("--without-rescue"), restart.Refused, "was tried and taken back")
			}
			s.leavesNothing()
		})
	}
}

// TestSupervisedKilledAndHangs has nobody left who has seen the daemon before it hangs, so that a person has to end it.
func TestSupervisedKilledAndHangs(t *testing.T) {
	t.Parallel()
	s := newPlace(t, faultyPlace(t, "touch $DIR/starts; "+hangs))
	old := s.read("config.toml")
	h := s.start("--without-rescue")
	s.eventually("containerd to be started with the new configuration", func() bool { return s.has("starts") || !h.Running() })
	if err := h.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	fault := "hotplate is killed in the middle; containerd hangs in its start"
	o := s.restart("--without-rescue")
	if got := s.read("config.toml"); got != old {
		t.Errorf("the configuration was not put back byte for byte:\n%s", got)
	}
	s.signal(s.supervisor.PID(), unix.SIGTERM)
	s.check(fault+", and is then ended by hand", o, restart.Failed, "may hang instead")
	s.check(fault+", asked once more", s.restart("--without-rescue"), restart.RolledBack, "works again")
	s.leavesNothing()
}

// TestSupervisedSupervisorGone has nobody start containerd again, until the supervisor is back.
func TestSupervisedSupervisorGone(t *testing.T) {
	t.Parallel()
	s := newPlace(t, rig.SupervisorConfig{ContainerdConfig: rig.ContainerdConfig{Line: "2.4"}})
	old := s.read("config.toml")
	loop, _ := s.stat(s.supervisor.PID())
	s.signal(loop, unix.SIGSTOP)
	o := s.restart("--without-rescue")
	s.signal(loop, unix.SIGCONT)
	s.check("nobody starts it again", o, restart.Failed, "no other listens")
	if got := s.read("config.toml"); got != old {
		t.Errorf("the configuration was not put back byte for byte:\n%s", got)
	}
	s.check("nobody starts it again, until somebody does", s.restart("--without-rescue"), restart.RolledBack, "works again")
	s.leavesNothing()
}

// hangs is a command after which containerd waits for its data base.
const hangs = "[ -e $DIR/locker ] || { flock -F $BOLT sleep 1000 & echo $! >$DIR/locker; }"

// faultyPlace has a containerd that runs a shell command before it starts with the new configuration, and is well with the old
// one. $CTRD is the real program, $DIR the directory of its configuration, $BOLT its data base.
func faultyPlace(t *testing.T, command string) rig.SupervisorConfig {
	wrapper := filepath.Join(t.TempDir(), "wrapper")
	text := "#!/bin/sh\nCTRD=$1 DIR=$(dirname $3)\nBOLT=$DIR/root/io.containerd.metadata.v1.bolt/meta.db\n" +
		"if grep -q certs.d $3; then\n" + command + "\nelif [ -e $DIR/locker ]; then\nkill $(cat $DIR/locker); rm $DIR/locker\nfi\n" +
		"exec \"$@\"\n"
	if err := os.WriteFile(wrapper, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return rig.SupervisorConfig{ContainerdConfig: rig.ContainerdConfig{Line: "2.4"}, Wrapper: wrapper}
}
