//go:build e2e

package restart_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

const killed = "6 hotplate is killed"

// promised is how long a node may need to heal by itself: 135 s and killer's soak time of 1 s, and until containerd is up.
const promised = 136*time.Second + 20*time.Second

// accident runs killer on the node.
func (s *site) accident(point string) hotplate {
	s.Helper()
	p, err := s.node.RunSandboxed(s.Context(), rig.SandboxConfig{
		Program: killer, Argv: []string{"/killer", point}, Mounts: podMounts(),
	})
	if err != nil {
		s.Fatal(err)
	}
	return hotplate{p, s.T}
}

// killAt runs hotplate restart until it kills itself.
func (s *site) killAt(point string) {
	s.Helper()
	h := s.accident(point)
	code, err := h.Wait(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	if code != 128+9 {
		s.Fatalf("killer %s ended with %d:\n%s", point, code, h.Output())
	}
}

// TestKilledAndBack kills hotplate at a step and runs it again at once: it knows what happened.
func TestKilledAndBack(t *testing.T) {
	t.Parallel()
	points := []string{"after:Arm", "before:Restart", "after:Restart"}
	if rigtest.Full() {
		points = append(points, "before:RunOnHost#3", "before:Reload", "after:Reload", "after:Enable", "before:Arm",
			"before:ResetFailed", "before:Disarm", "after:Disarm", "before:Forget", "after:Forget")
	}
	for _, point := range points {
		t.Run("good "+point, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, unset(t, "2.4"))
			s.killAt(point)
			s.comesBack(point+", config good", restart.Restarted)
		})
	}
	for _, point := range points {
		t.Run("bad "+point, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, faulty(t, "2.4", "exit 1"))
			if strings.Contains(point, "Disarm") || strings.Contains(point, "Forget") {
				point += "#1" // of the rollback
			}
			s.killAt(point)
			s.comesBack(point+", config does not start", restart.RolledBack)
		})
	}
}

// comesBack runs hotplate until it has nothing more to take up. What was not begun may be done then.
func (s *site) comesBack(fault string, last restart.Kind) {
	s.Helper()
	o := s.restart()
	if o.Kind == restart.Abandoned {
		s.check(killed, fault, o, restart.Abandoned, "")
		s.age()
		o = s.restart()
		s.check(killed, fault+"; asked once more", o, last, "")
		return
	}
	switch {
	case last == restart.Restarted && o.Kind == restart.NotNeeded: // everything was done
		s.check(killed, fault, o, restart.NotNeeded, "")
	default:
		s.check(killed, fault, o, last, "")
	}
	if last == restart.RolledBack {
		s.age()
		s.check(killed, fault+"; asked once more", s.restart(), restart.Refused, "was tried and taken back")
	}
	s.leavesNothing()
}

// TestKilledAndGone kills hotplate when the node is worst, and nobody comes back: the node heals by itself, although systemd
// reads all units anew meanwhile. That it executes itself anew is shown with containerd 1.6 alone: on cgroup v1 that takes
// processes out of their cgroups, and from 1.7 on containerd then ends containers at any start (see TestStray).
func TestKilledAndGone(t *testing.T) {
	eachLine(t, func(t *testing.T, line string) {
		s := newSite(t, faulty(t, line, "exit 1"))
		const config, theirs = "/etc/containerd/config.toml", "# theirs\n"
		old := s.read(config)
		s.killAt("after:Restart")
		if s.read(config) == old {
			t.Fatal("it was killed too early")
		}
		s.write(config, s.read(config)+theirs)
		fault := "nobody comes back after it; daemon-reload; somebody writes another config that does not start"
		s.exec("systemctl", "daemon-reload")
		if line == "1.6" {
			fault = "nobody comes back after it; daemon-reload and daemon-reexec; somebody writes another config that does not start"
			s.exec("systemctl", "daemon-reexec")
		}
		armed := time.Now()
		s.eventuallyIn(rescueDelay, "the node to heal", func() bool {
			return s.read(config) == old && s.criWorks()
		})
		if took := time.Since(armed); took > promised {
			t.Errorf("it took %s, and docs/restart.md says that the rescue waits for less than %s", took, promised)
		}
		s.well()
		o := s.restart()
		if !o.Rescued {
			t.Errorf("it does not know that the node has healed itself: %+v", o)
		}
		s.check(killed, fault, o, restart.RolledBack, "by itself")
		s.keeps(theirs)
		s.age()
		s.check(killed, fault+"; asked once more", s.restart(), restart.Refused, "was tried and taken back")
		s.leavesNothing()
	}, "1.6", "2.4")
}

// TestGone kills hotplate at other moments, and nobody comes back: what is not done is taken back by the node itself.
func TestGone(t *testing.T) {
	if !rigtest.Full() {
		t.Skip("a node takes more than two minutes to heal by itself: HOTPLATE_FULL=1 runs this, and TestKilledAndGone without it")
	}
	t.Parallel()
	good := unset(t, "2.4")
	for _, c := range []struct {
		point, what string
		cfg         rig.NodeConfig
		damaged     bool
		want        restart.Kind
		reason      string
	}{
		{"after:Arm", "config good", good, false, restart.Abandoned, "before it changed anything"},
		{"before:Restart", "config does not start", faulty(t, "2.4", "exit 1"), false, restart.RolledBack, "by itself"},
		{"after:Restart", "config good", good, false, restart.RolledBack, "by itself"},
		{"after:Restart", "config does not start, the backup damaged", faulty(t, "2.4", "exit 1"), true, restart.RolledBack, "by itself"},
	} {
		fault := c.point + ", and nobody comes back; " + c.what
		t.Run(c.point+" "+strings.ReplaceAll(c.what, ",", ""), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, c.cfg)
			old := s.read("/etc/containerd/config.toml")
			s.killAt(c.point)
			if c.damaged {
				s.write("/var/lib/hotplate/restart/backup", "damaged\n")
			}
			s.eventuallyIn(rescueDelay, "the node to act", func() bool {
				return strings.Contains(s.rescues(".service"), "exited") && s.criWorks()
			})
			s.putBack(old)
			o := s.restart()
			if !o.Rescued {
				t.Errorf("it does not know that the node has acted: %+v", o)
			}
			s.check(killed, fault, o, c.want, c.reason)
			s.leavesNothing()
		})
	}
}

// TestGoneAfterIt kills hotplate when all is done but its notes, and nobody comes back: nothing is taken back.
func TestGoneAfterIt(t *testing.T) {
	t.Parallel()
	s := newSite(t, unset(t, "2.4"))
	s.killAt("after:Disarm")
	s.noRescue()
	if err := s.node.Reboot(t.Context()); err != nil { // nor by the unit that acts after a boot
		t.Fatal(err)
	}
	s.pods = nil
	s.age()
	before := s.daemonPID()
	s.check(killed, "after:Disarm, and nobody comes back; then a reboot", s.restart(), restart.Restarted, "")
	s.untouched(before)
	s.leavesNothing()
}

// keeps checks that what somebody else had written is kept, of which the end is known.
func (s *site) keeps(end string) {
	s.Helper()
	copies, err := filepath.Glob(s.node.Path("/var/lib/hotplate/restart") + "/foreign-*")
	if err != nil || len(copies) != 1 {
		s.Errorf("copies: %v, %v", copies, err)
		return
	}
	if data, err := os.ReadFile(copies[0]); err != nil || !strings.HasSuffix(string(data), end) {
		s.Errorf("kept is %q, %v", data, err)
	}
	if left, err := filepath.Glob(s.node.Path("/etc/containerd") + "/*.hotplate-*"); err != nil || len(left) > 0 {
		s.Errorf("left: %v, %v", left, err)
	}
}
