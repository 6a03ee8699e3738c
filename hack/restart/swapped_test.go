//go:build e2e

package restart_test

import (
	"fmt"
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

const afterSwap = "5 after the swap"

// faulty is a node whose containerd runs a shell command before it starts with the new configuration, and is well with the
// old one. $CTRD is the real program.
func faulty(t *testing.T, line, command string) rig.NodeConfig {
	version := rig.ConfigVersions(line)[0]
	return rig.NodeConfig{
		Line: line, ConfigTOML: base(t, line, version),
		DropIns: map[string]string{"10-faulty.conf": "[Service]\nExecStart=\nExecStart=/opt/faulty/containerd\n"},
		Files: map[string]string{"/opt/faulty/containerd": "#!/bin/sh\nCTRD=/usr/local/bin/containerd\n" +
			"case \"$*\" in *dump*) exec $CTRD \"$@\";; esac\n" +
			"if grep -q /etc/containerd/certs.d /etc/containerd/config.toml; then\n" + command + "\nfi\nexec $CTRD \"$@\"\n",
			"/etc/containerd/nocri.toml": "version = 3\ndisabled_plugins = ['io.containerd.cri.v1.images']\n",
			"/etc/containerd/deaf.toml":  base(t, line, version),
		},
	}
}

// TestContainerEnds has a container end while containerd is away. One that ends for a reason of its own is no reason to take
// a good configuration back; one that ends with its shim is lost.
func TestContainerEnds(t *testing.T) {
	for _, line := range rigtest.Lines(t) {
		if line != "1.6" && line != "2.4" {
			continue
		}
		for _, c := range []struct {
			fault, signal, whom string
			want                restart.Kind
			reason              string
		}{
			{"a container ends by itself meanwhile", "TERM", "container", restart.Restarted, ""}, // a counter exits with 0 then
			{"a container is killed meanwhile", "KILL", "container", restart.Restarted, ""},
			{"a container and its shim are killed meanwhile", "KILL", "container shim", restart.RolledBack, "were lost"},
		} {
			t.Run(line+" "+c.fault, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, faulty(t, line, "cd /opt/faulty; kill -"+c.signal+" $(cat "+c.whom+"); cd /; sleep 1"))
				pod := rigtest.Counter(t, s.node, "ends")
				status, err := pod.Status(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				shim, err := pod.ShimPID(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				s.write("/opt/faulty/container", fmt.Sprintln(status.PID))
				s.write("/opt/faulty/shim", fmt.Sprintln(shim))
				s.check(afterSwap, c.fault, s.restart(), c.want, c.reason)
				if status, err := pod.Status(t.Context()); err != nil || status.Running {
					t.Errorf("it has not ended: %+v, %v", status, err)
				}
				s.leavesNothing()
			})
		}
	}
}

// TestStopsSlowly has a containerd that takes longer to stop than a restart may.
func TestStopsSlowly(t *testing.T) {
	t.Parallel()
	s := newSite(t, rig.NodeConfig{
		Line: "2.4", ConfigTOML: base(t, "2.4", 3), DropIns: map[string]string{"10-slow.conf": "[Service]\nExecStop=/bin/sleep 30\n"},
	})
	old := s.read("/etc/containerd/config.toml")
	s.check(afterSwap, "it takes 30 s to stop", s.restart(), restart.RolledBack, "has not started within")
	s.putBack(old)
	s.age()
	s.check(afterSwap, "it takes 30 s to stop, asked once more", s.restart(), restart.Refused, "was tried and taken back")
	s.leavesNothing()
}

func TestDaemonAfterSwap(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fault, command string
		want           restart.Kind
		reason         string
	}{
		{"it does not start", "exit 1", restart.RolledBack, "did not start"},
		{"it starts and dies", "(sleep 1; kill -9 $$) &", restart.RolledBack, ""},
		{"it hangs in its start", "exec sleep 1000", restart.RolledBack, "has not started within"},
		{"CRI is down while systemd says active", "exec $CTRD --config /etc/containerd/nocri.toml", restart.RolledBack, "CRI"},
		{"it ignores the directory", "exec $CTRD --config /etc/containerd/deaf.toml", restart.RolledBack, "does not read"},
		{"it starts slowly but well", "sleep 8", restart.Restarted, ""},
	} {
		t.Run(c.fault, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, faulty(t, "2.4", c.command))
			old := s.read("/etc/containerd/config.toml")
			s.check(afterSwap, c.fault, s.restart(), c.want, c.reason)
			if c.want == restart.Restarted {
				return
			}
			s.putBack(old)
			s.age()
			s.check(afterSwap, c.fault+", asked once more", s.restart(), restart.Refused, "was tried and taken back")
			s.leavesNothing()
		})
	}
}
