//go:build e2e

package restart_test

import (
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
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
			if got := s.read("/etc/containerd/config.toml"); got != old {
				t.Errorf("the configuration was not put back byte for byte:\n%s", got)
			}
			s.age()
			s.check(afterSwap, c.fault+", asked once more", s.restart(), restart.Refused, "was tried and taken back")
			s.leavesNothing()
		})
	}
}
