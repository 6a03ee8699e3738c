//go:build e2e

package restart_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
)

const fine = "1 needed and fine"

// base is a configuration without config_path.
func base(t *testing.T, line string, version int) string {
	t.Helper()
	text, err := rig.BaseConfig(line, version, "")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// unset is a node whose containerd has no config_path, in version 3 of its configuration where it reads that.
func unset(t *testing.T, line string) rig.NodeConfig {
	t.Helper()
	versions := rig.ConfigVersions(line)
	return rig.NodeConfig{Line: line, ConfigTOML: base(t, line, min(3, versions[len(versions)-1]))}
}

// eachLine runs a row on the containerd lines of this run, or on those of them that are named.
func eachLine(t *testing.T, row func(t *testing.T, line string), named ...string) {
	for _, line := range rigtest.Lines(t) {
		if len(named) > 0 && !slices.Contains(named, line) {
			continue
		}
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			row(t, line)
		})
	}
}

// oldAndNew runs a row on the first and on the second major version of containerd.
func oldAndNew(t *testing.T, row func(t *testing.T, line string)) {
	t.Parallel()
	eachLine(t, row, "1.7", "2.4")
}

// TestConfigPathUnset restarts every line, with every version of config.toml that it reads, and asks once more.
func TestConfigPathUnset(t *testing.T) {
	for _, line := range rigtest.Lines(t) {
		for _, version := range rig.ConfigVersions(line) {
			name := "version " + string(rune('0'+version)) + " without config_path"
			t.Run(line+" "+name, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, rig.NodeConfig{Line: line, ConfigTOML: "# by hand\n" + base(t, line, version)})
				s.check(fine, name, s.restart(), restart.Restarted, "")
				s.check(fine, name+", asked once more", s.restart(), restart.NotNeeded, "no restart is needed")
				if text := s.read("/etc/containerd/config.toml"); !strings.HasPrefix(text, "# by hand\n") {
					t.Errorf("the comment is gone:\n%s", text)
				}
				s.leavesNothing()
			})
		}
	}
}

// TestVersionOne is about files without a version, which containerd 1.x still reads.
func TestVersionOne(t *testing.T) {
	eachLine(t, func(t *testing.T, line string) {
		s := newSite(t, rig.NodeConfig{Line: line, ConfigTOML: "[plugins.cri]\n  restrict_oom_score_adj = true\n"})
		s.check(fine, "version 1 without config_path", s.restart(), restart.Restarted, "")
		s.check(fine, "version 1 without config_path, asked once more", s.restart(), restart.NotNeeded, "no restart is needed")
		s.leavesNothing()
	}, "1.6", "1.7")
}

func TestNoConfig(t *testing.T) {
	eachLine(t, func(t *testing.T, line string) {
		s := newSite(t, rig.NodeConfig{Line: line, NoConfig: true})
		s.check(fine, "no config.toml at all", s.restart(), restart.Restarted, "")
	})
}

// TestList is about containerd 2.1 and later, which read no directory of a list.
func TestList(t *testing.T) {
	eachLine(t, func(t *testing.T, line string) {
		text, err := rig.BaseConfig(line, 3, "/etc/containerd/certs.d:/etc/docker/certs.d")
		if err != nil {
			t.Fatal(err)
		}
		s := newSite(t, rig.NodeConfig{Line: line, ConfigTOML: text})
		s.check(fine, "config_path is a list", s.restart(), restart.Restarted, "")
	}, "2.1", "2.2", "2.3", "2.4")
}

func TestDropInOverrides(t *testing.T) {
	t.Parallel()
	text, err := rig.BaseConfig("2.4", 3, rig.NodeHostsDir)
	if err != nil {
		t.Fatal(err)
	}
	const dropIn = "/etc/containerd/conf.d/99-vendor.toml"
	s := newSite(t, rig.NodeConfig{
		Line: "2.4", ConfigTOML: "imports = [\"/etc/containerd/conf.d/*.toml\"]\n" + text,
		Files: map[string]string{dropIn: "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\n  config_path = '/etc/vendor'\n"},
	})
	s.check(fine, "a drop-in overrides config_path", s.restart(), restart.Restarted, dropIn)
}

// nvidia is what the NVIDIA container toolkit writes beside the configuration: a runtime, the others, and the registry's section
// as they were.
const nvidia = `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia.options]
      BinaryName = "/usr/local/nvidia/toolkit/nvidia-container-runtime"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = ""
`

func TestNVIDIA(t *testing.T) {
	eachLine(t, func(t *testing.T, line string) {
		const dropIn = "/etc/containerd/conf.d/99-nvidia.toml"
		s := newSite(t, rig.NodeConfig{
			Line: line, ConfigTOML: "imports = [\"/etc/containerd/conf.d/*.toml\"]\n" + base(t, line, 2),
			Files: map[string]string{dropIn: nvidia},
		})
		s.check(fine, "the NVIDIA container toolkit's drop-in decides", s.restart(), restart.Restarted, dropIn)
		if dump := s.exec("containerd", "config", "dump"); !strings.Contains(dump, "nvidia-container-runtime") {
			t.Errorf("its runtime is gone:\n%s", dump)
		}
		s.check(fine, "the NVIDIA container toolkit's drop-in, asked once more", s.restart(), restart.NotNeeded, "no restart is needed")
		s.leavesNothing()
	})
}

func TestLegacyMirrors(t *testing.T) {
	t.Parallel()
	const mirrors = "\n[plugins.'io.containerd.cri.v1.images'.registry.mirrors.'docker.io']\n  endpoint = ['https://mirror.example.com']\n"
	s := newSite(t, rig.NodeConfig{Line: "2.4", ConfigTOML: base(t, "2.4", 3) + mirrors})
	before := s.daemonPID()
	s.check(fine, "legacy mirrors", s.restart(), restart.Refused, "mirrors")
	s.untouched(before)
	s.check(fine, "legacy mirrors, told to convert", s.restart("--convert-mirrors"), restart.Restarted, "")
	if text := s.read("/etc/containerd/config.toml"); strings.Contains(text, "mirror.example.com") {
		t.Errorf("the mirrors are still there:\n%s", text)
	}
}
