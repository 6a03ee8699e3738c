//go:build e2e

package restart_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

const odd = "7 systemd and others"

func TestBusAway(t *testing.T) {
	t.Parallel()
	s := newSite(t, unset(t, "2.4"))
	before := s.daemonPID()
	p, err := s.node.RunSandboxed(t.Context(), rig.SandboxConfig{
		Program: program, Argv: []string{"/hotplate", "restart"},
		Mounts: []rig.SandboxMount{{Source: "/run/containerd"}, {Source: "/etc/containerd"}, {Source: "/var/lib/hotplate"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	code, err := p.Wait(t.Context())
	if err != nil || code != 1 || !strings.Contains(p.Output(), "systemd cannot be reached") {
		t.Errorf("it ended with %d, %v:\n%s", code, err, p.Output())
	}
	s.untouched(before)
	s.check(odd, "D-Bus away", restart.Outcome{Kind: restart.Refused, Reason: p.Output()}, restart.Refused, "systemd cannot be reached")
}

// TestSystemdBusy stops systemd while it is asked, for a while.
func TestSystemdBusy(t *testing.T) {
	t.Parallel()
	s := newSite(t, unset(t, "2.4"))
	if err := unix.Kill(s.node.Leader(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	h, held := s.start(), time.Now()
	s.eventually("it to have waited for systemd", func() bool {
		if !h.Running() {
			t.Fatal("it has not waited for systemd")
		}
		return time.Since(held) > 4*time.Second
	})
	if err := unix.Kill(s.node.Leader(), unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	o, _ := h.end()
	s.check(odd, "systemd does not answer for a while", o, restart.Restarted, "")
}

// TestReboot reboots the node when it is worst. Containers do not outlive that; containerd works again.
func TestReboot(t *testing.T) {
	t.Parallel()
	s := newSite(t, faulty(t, "2.4", "exit 1"))
	old := s.read("/etc/containerd/config.toml")
	s.killAt("before:Restart")
	if err := s.node.Kill(); err != nil {
		t.Fatal(err)
	}
	s.pods = nil
	if err := s.node.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := rigtest.Counter(t, s.node, "again") // a container runs
	if got := s.read("/etc/containerd/config.toml"); got != old {
		t.Errorf("after the boot the configuration is\n%s", got)
	}
	s.age()
	o := s.restart()
	if !o.Rescued {
		t.Errorf("it does not know that the boot unit has acted: %+v", o)
	}
	s.check(odd, "power lost between swap and restart; config does not start", o, restart.RolledBack, "by itself")
	if err := again.Check(t.Context()); err != nil {
		t.Error(err)
	}
	s.leavesNothing()
}

func TestDependants(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fault string
		cfg   rig.NodeConfig
		want  restart.Kind
	}{
		{"a unit that requires containerd and is listed", unset(t, "2.4"), restart.Restarted},
		{"the same and the daemon does not start", faulty(t, "2.4", "exit 1"), restart.RolledBack},
	} {
		t.Run(c.fault, func(t *testing.T) {
			t.Parallel()
			c.cfg.Units = map[string]string{"app.service": app("Requires"), "bound.service": app("BindsTo")}
			s := newSite(t, c.cfg)
			s.check(odd, c.fault, s.restart("--dependants", "app.service,bound.service"), c.want, "")
			for _, unit := range []string{"app.service", "bound.service"} {
				if out := s.exec("systemctl", "show", "--value", "-p", "ActiveState", unit); out != "active" {
					t.Errorf("%s is %s", unit, out)
				}
			}
		})
	}
}

func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, unset(t, "2.4"))
	var o restart.Outcome
	var others []string
	for _, h := range []hotplate{s.start(), s.start()} {
		if one, code := h.end(); code == 0 {
			o = one
		} else {
			others = append(others, one.Reason)
		}
	}
	if len(others) != 1 || !strings.Contains(others[0], "in use by another process") {
		t.Errorf("what did not restart it says %q", others)
	}
	s.check(odd, "two at once", o, restart.Restarted, "")
}

// holdAt runs hotplate restart up to a call, does what is to happen then, and lets it go on.
func (s *site) holdAt(point string, then func()) hotplate {
	s.Helper()
	h, held := s.accident("hold:"+point), s.node.Path("/var/lib/hotplate/held")
	s.eventually("it to come to "+point, func() bool {
		if !h.Running() {
			s.Fatalf("it has not come to %s:\n%s", point, h.Output())
		}
		_, err := os.Stat(held)
		return err == nil
	})
	then()
	if err := os.Remove(held); err != nil {
		s.Fatal(err)
	}
	return h
}

// TestStartLimit has somebody else restart containerd at the worst moment, until systemd refuses to start it.
func TestStartLimit(t *testing.T) {
	t.Parallel()
	cfg := unset(t, "2.4")
	cfg.DropIns = map[string]string{"10-limit.conf": "[Unit]\nStartLimitBurst=5\nStartLimitIntervalSec=30\n"}
	s := newSite(t, cfg)
	s.ageFor(30 * time.Second)
	h := s.holdAt("Restart", func() {
		for range 5 {
			s.exec("systemctl", "restart", "containerd")
		}
	})
	o, _ := h.end()
	s.check(odd, "five restarts by somebody else right before the restart: systemd refuses it", o, restart.RolledBack, "start-limit-hit")
	s.leavesNothing()
}

// TestSystemdLost has systemd not answer any more when the restart is done and the rescue is to be called off. When it goes on,
// it finds the call, so that what was verified stays.
func TestSystemdLost(t *testing.T) {
	t.Parallel()
	s := newSite(t, unset(t, "2.4"))
	h := s.holdAt("Disarm", func() {
		if err := unix.Kill(s.node.Leader(), unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	})
	code, err := h.Wait(t.Context())
	if err := unix.Kill(s.node.Leader(), unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err != nil || code != 1 {
		t.Errorf("it ended with %d, %v:\n%s", code, err, h.Output())
	}
	s.eventually("systemd to call the rescue off", func() bool {
		return s.rescues(".timer") == ""
	})
	before := s.daemonPID()
	s.check(odd, "systemd hangs when the rescue is to be called off", s.restart(), restart.Restarted, "")
	s.untouched(before)
	s.leavesNothing()
}

func TestBackupDamaged(t *testing.T) {
	t.Parallel()
	s := newSite(t, faulty(t, "2.4", "exit 1"))
	old := s.read("/etc/containerd/config.toml")
	o, _ := s.accident("damage:ResetFailed").end()
	s.check(odd, "the backup is damaged on the disk; config does not start", o, restart.RolledBack, "did not start")
	s.putBack(old)
}

func TestRescueFires(t *testing.T) {
	t.Parallel()
	s := newSite(t, unset(t, "2.4"))
	old := s.read("/etc/containerd/config.toml")
	o, _ := s.accident("fire:Disarm").end()
	if !o.Rescued {
		t.Errorf("it does not know that the rescue has acted: %+v", o)
	}
	s.check(odd, "the rescue acts while hotplate still works", o, restart.Abandoned, "own timer")
	if got := s.read("/etc/containerd/config.toml"); got != old {
		t.Errorf("the configuration was not put back:\n%s", got)
	}
	s.leavesNothing()
}

// TestAgainAndAgain restarts a hundred times. Whoever puts the old configuration back as this does is not fought for long, unless
// somebody says --again.
func TestAgainAndAgain(t *testing.T) {
	if !rigtest.Full() {
		t.Skip("100 restarts take half an hour: HOTPLATE_FULL=1 runs them")
	}
	t.Parallel()
	text := base(t, "2.4", 3)
	s := newSite(t, rig.NodeConfig{Line: "2.4", ConfigTOML: text})
	var last restart.Outcome
	for i := range 100 {
		if last = s.restart("--soak", "1s", "--again"); last.Kind != restart.Restarted {
			t.Fatalf("restart %d ended as %s: %s", i+1, last.Kind, last.Reason)
		}
		s.well()
		s.write("/etc/containerd/config.toml", text)
		s.exec("systemctl", "restart", "containerd")
		s.age()
	}
	s.check(odd, "100 restarts in a row, and 100 of systemctl's between them", last, restart.Restarted, "")
}
