//go:build e2e

package restart_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

const (
	badCandidate = "2 candidate bad"
	notFit       = "3 daemon not fit"
)

// TestBrokenFile changes the file behind the daemon's back: it would not load again.
func TestBrokenFile(t *testing.T) {
	t.Parallel()
	names := map[string]*strings.Replacer{
		"1.7": strings.NewReplacer("VERSION", "2", "IMAGES", "plugins.'io.containerd.grpc.v1.cri'"),
		"2.4": strings.NewReplacer("VERSION", "3", "IMAGES", "plugins.'io.containerd.cri.v1.images'"),
	}
	for _, c := range []struct{ fault, text, reason string }{
		{"broken TOML", "version = VERSION\n[plugins\n", "does not start with this file"},
		{"a wrong type", "version = VERSION\n[IMAGES]\n  max_concurrent_downloads = 'many'\n", "would not load again"},
		{"a wrong type of what is edited", "version = VERSION\n[IMAGES.registry]\n  config_path = 1\n", "config_path must be a string"},
		{"a version that it does not know", "version = 9\n", "version"},
		{"plugins that conflict", "version = VERSION\n[IMAGES.registry]\n  config_path = '/x'\n[IMAGES.registry.mirrors.'docker.io']\n" +
			"  endpoint = ['https://mirror.example.com']\n", "mirrors"},
	} {
		t.Run(c.fault, func(t *testing.T) {
			oldAndNew(t, func(t *testing.T, line string) {
				text := names[line].Replace(c.text)
				s := newSite(t, unset(t, line))
				before := s.daemonPID()
				s.write("/etc/containerd/config.toml", text)
				s.check(badCandidate, c.fault, s.restart(), restart.Refused, c.reason)
				if got := s.read("/etc/containerd/config.toml"); got != text {
					t.Errorf("the file was changed to\n%s", got)
				}
				s.untouched(before)
			})
		})
	}
}

const k3sConfig = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml"

// TestUnitNotFit is about units of which a restart is not safe.
func TestUnitNotFit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fault, reason string
		cfg           rig.NodeConfig
		file          string // that the unit reads
	}{
		{fault: "KillMode=mixed", reason: "KillMode=mixed", cfg: rig.NodeConfig{DropIns: map[string]string{"10-kill.conf": "[Service]\nKillMode=mixed\n"}}},
		{fault: "Type=simple", reason: "Type=simple", cfg: rig.NodeConfig{DropIns: map[string]string{"10-type.conf": "[Service]\nType=simple\n"}}},
		{fault: "a containerd of k3s", reason: "this is k3s", cfg: rig.NodeConfig{
			DropIns: map[string]string{"10-k3s.conf": "[Service]\nExecStart=\nExecStart=/usr/local/bin/containerd --config " + k3sConfig + "\n"},
		}, file: k3sConfig},
		{fault: "no Delegate", reason: "Delegate", cfg: rig.NodeConfig{DropIns: map[string]string{"10-delegate.conf": "[Service]\nDelegate=no\n"}}},
		{fault: "a start limit that is too small", reason: "StartLimitBurst",
			cfg: rig.NodeConfig{DropIns: map[string]string{"10-limit.conf": "[Unit]\nStartLimitBurst=2\nStartLimitIntervalSec=10\n"}}},
		{fault: "a unit that requires it", reason: "app.service", cfg: rig.NodeConfig{Units: map[string]string{"app.service": app("Requires")}}},
		{fault: "a unit that is bound to it", reason: "app.service", cfg: rig.NodeConfig{Units: map[string]string{"app.service": app("BindsTo")}}},
	} {
		t.Run(c.fault, func(t *testing.T) {
			oldAndNew(t, func(t *testing.T, line string) {
				cfg := c.cfg
				cfg.Line, cfg.ConfigTOML = line, unset(t, line).ConfigTOML
				if c.file != "" {
					cfg.Files = map[string]string{c.file: cfg.ConfigTOML}
				}
				s := newSite(t, cfg)
				before := s.daemonPID()
				s.check(notFit, c.fault, s.restart(), restart.Refused, c.reason)
				s.untouched(before)
			})
		})
	}
}

// app is a unit that depends on containerd.
func app(how string) string {
	return "[Unit]\n" + how + "=containerd.service\nAfter=containerd.service\n[Service]\nExecStart=/bin/sleep infinity\n" +
		"[Install]\nWantedBy=multi-user.target\n"
}

func TestUnitEdited(t *testing.T) {
	t.Parallel()
	s := newSite(t, unset(t, "2.4"))
	before := s.daemonPID()
	s.write("/etc/systemd/system/containerd.service.d/20-new.conf", "[Service]\nKillMode=control-group\n")
	// The directory is new to systemd, which looks for such only now and then (src/core/manager.c, unit_path_cache). If it has not
	// seen it, it does not say that there is something to be read; hotplate's own daemon-reload then brings it into force.
	o, want, reason := s.restart(), restart.Abandoned, "KillMode=control-group"
	if o.Kind == restart.Refused {
		want, reason = restart.Refused, "daemon-reload"
	}
	s.check(notFit, "the unit was edited in a new directory", o, want, reason)
	s.untouched(before)
}

func TestUnitNotReloaded(t *testing.T) {
	t.Parallel()
	s := newSite(t, rig.NodeConfig{Line: "2.4", ConfigTOML: base(t, "2.4", 3),
		DropIns: map[string]string{"10-kill.conf": "[Service]\nKillMode=process\n"}})
	before := s.daemonPID()
	s.write("/etc/systemd/system/containerd.service.d/10-kill.conf", "[Service]\nKillMode=control-group\n")
	s.check(notFit, "the unit was edited and not reloaded", s.restart(), restart.Refused, "daemon-reload")
	s.untouched(before)
}

func TestFrozenShim(t *testing.T) {
	oldAndNew(t, func(t *testing.T, line string) {
		s := newSite(t, unset(t, line))
		before := s.daemonPID()
		shim, err := s.pods[0].ShimPID(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.kill("STOP", shim)
		o := s.restart()
		s.kill("CONT", shim)
		s.check(notFit, "a shim that hangs", o, restart.Refused, "shim does not answer")
		s.untouched(before)
	})
}

// TestStray has systemd move the processes of containers, which it does on cgroup v1 where the cgroups are runc's own.
func TestStray(t *testing.T) {
	t.Parallel()
	s := newSite(t, unset(t, "2.4"))
	before := s.daemonPID()
	s.exec("systemctl", "daemon-reexec")
	if _, err := os.Stat("/sys/fs/cgroup/pids"); err != nil {
		t.Skip("this machine has no cgroup v1, where systemd does that:", err)
	}
	s.eventually("systemd to move the processes", func() bool {
		return strings.Contains(s.exec("cat", fmt.Sprintf("/proc/%d/cgroup", s.pids[0])), ":pids:/\n")
	})
	s.check(notFit, "systemd has moved processes out of their cgroups", s.restart(), restart.Refused, "no process in its cgroup")
	s.untouched(before)
}

// TestOrphan takes away the record of a container that runs.
func TestOrphan(t *testing.T) {
	oldAndNew(t, func(t *testing.T, line string) {
		s := newSite(t, unset(t, line))
		before := s.daemonPID()
		s.exec("ctr", "-n", "k8s.io", "run", "--detach", "--null-io", rig.CounterImage, "orphan", "/usr/bin/busybox", "sleep", "1000")
		c, err := containerd.New(s.node.Address())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.ContainerService().Delete(namespaces.WithNamespace(t.Context(), "k8s.io"), "orphan"); err != nil {
			t.Fatal(err)
		}
		s.check(notFit, "a task without a container", s.restart(), restart.Refused, "belongs to no container")
		s.untouched(before)
	})
}

// TestForgottenShim takes away what containerd needs to find a shim again, which then runs without its knowledge.
func TestForgottenShim(t *testing.T) {
	oldAndNew(t, func(t *testing.T, line string) {
		s := newSite(t, unset(t, line))
		s.exec("ctr", "-n", "k8s.io", "run", "--detach", "--null-io", rig.CounterImage, "forgotten", "/usr/bin/busybox", "sleep", "1000")
		s.exec("systemctl", "stop", "containerd")
		s.exec("mv", "/run/containerd/io.containerd.runtime.v2.task/k8s.io/forgotten", "/run/forgotten")
		s.exec("systemctl", "start", "containerd")
		s.eventually("CRI to work", s.criWorks)
		s.exec("ctr", "-n", "k8s.io", "containers", "delete", "forgotten")
		s.age()
		before := s.daemonPID()
		s.check(notFit, "a shim that containerd does not know any more", s.restart(), restart.Refused, "forgotten")
		s.untouched(before)
	})
}

func TestDiskFull(t *testing.T) {
	oldAndNew(t, func(t *testing.T, line string) {
		s := newSite(t, unset(t, line))
		before := s.daemonPID()
		s.exec("mkdir", "-p", "/var/lib/hotplate")
		s.exec("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", "/var/lib/hotplate")
		s.check(notFit, "no room for the backup", s.restart(), restart.Refused, "make room")
		s.untouched(before)
	})
}
