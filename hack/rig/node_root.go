package rig

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	unitDir = "/etc/systemd/system/"
	// containerdUnit is where upstream's instructions put the unit.
	containerdUnit = "/usr/local/lib/systemd/system/containerd.service"
)

// containerdUnitText is containerd.service of containerd 2.4, to the letter.
const containerdUnitText = `# Copyright The containerd Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

[Unit]
Description=containerd container runtime
Documentation=https://containerd.io
After=network.target dbus.service

[Service]
ExecStartPre=-/sbin/modprobe overlay
ExecStart=/usr/local/bin/containerd

Type=notify
Delegate=yes
KillMode=process
Restart=always
RestartSec=5

# Having non-zero Limit*s causes performance problems due to accounting overhead
# in the kernel. We recommend using cgroups to do container-local accounting.
LimitNPROC=infinity
LimitCORE=infinity

# Comment TasksMax if your systemd version does not supports it.
# Only systemd 226 and above support this version.
TasksMax=infinity
OOMScoreAdjust=-999

[Install]
WantedBy=multi-user.target
`

// prepareUnit makes writable what systemd-nspawn mounts read-only and runc needs.
const prepareUnit = `[Unit]
Description=Let containers run on this node
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'for dir in /sys/fs/cgroup/*; do mountpoint -q $$dir && mount -o remount,bind,rw $$dir; done; :'
ExecStart=/bin/mount -o remount,bind,rw /proc/sys
ExecStart=/bin/mount -o remount,bind,rw /sys
ExecStart=/bin/mount --make-rshared /
[Install]
WantedBy=sysinit.target
`

// runcWrapper lets pods start under any configuration where CAP_SYS_RESOURCE is missing: nobody may lower oom_score_adj
// without it, and CRI asks for -998 unless restrict_oom_score_adj is set.
const runcWrapper = `#!/bin/sh
bundle=
for arg; do
	[ "$previous" = --bundle ] && bundle=$arg
	previous=$arg
done
[ -n "$bundle" ] && sed -i 's/"oomScoreAdj":-[0-9]*/"oomScoreAdj":0/' "$bundle/config.json"
exec /usr/sbin/runc "$@"
`

// masked are units that make a boot slower and that no test needs.
var masked = []string{
	"apt-daily-upgrade.timer", "apt-daily.timer", "dev-hugepages.mount", "dpkg-db-backup.timer", "e2scrub_all.timer",
	"e2scrub_reap.service", "fstrim.timer", "getty.target", "modprobe@.service", "sys-kernel-debug.mount",
	"sys-kernel-tracing.mount", "systemd-firstboot.service", "systemd-journal-flush.service", "systemd-logind.service",
	"systemd-modules-load.service", "systemd-random-seed.service", "systemd-remount-fs.service", "systemd-sysctl.service",
	"systemd-sysusers.service", "systemd-tmpfiles-setup-dev.service", "systemd-update-utmp-runlevel.service",
	"systemd-update-utmp.service", "systemd-user-sessions.service",
}

// writeRoot makes the node's directories: copies of Debian's /etc and /var, which become plain directories, since
// overlayfs cannot be below containerd's own, and a layer above the rest of Debian's root.
func (n *Node) writeRoot(ctx context.Context) error {
	for _, dir := range []string{"upper", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(n.cfg.Dir, dir), 0o755); err != nil {
			return err
		}
	}
	copied := exec.CommandContext(ctx, "cp", "-a", n.root+"/etc", n.root+"/var", n.cfg.Dir)
	if out, err := copied.CombinedOutput(); err != nil {
		return fmt.Errorf("copy /etc and /var: %w: %s", err, out)
	}
	if err := n.writeUnits(); err != nil {
		return err
	}
	files, err := n.files()
	if err != nil {
		return err
	}
	for path, content := range files {
		if err := n.writeFile(path, content); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) files() (map[string]string, error) {
	files := map[string]string{
		"/etc/hostname":    n.name + "\n",
		"/etc/hosts":       "127.0.0.1 localhost " + n.name + "\n::1 localhost\n",
		"/etc/machine-id":  "",
		"/etc/resolv.conf": "",
		// The console is the node's log.
		"/etc/systemd/system.conf.d/rig.conf":   "[Manager]\nShowStatus=no\nLogColor=no\n",
		"/etc/systemd/journald.conf.d/rig.conf": "[Journal]\nForwardToConsole=yes\nMaxLevelConsole=debug\nStorage=volatile\n",
	}
	if !hasSysResource() {
		files["/usr/local/sbin/runc"] = runcWrapper
	}
	if !n.cfg.NoConfig {
		text := n.cfg.ConfigTOML
		if text == "" {
			var err error
			if text, err = BaseConfig(n.cfg.Line, 0, NodeHostsDir); err != nil {
				return nil, err
			}
		}
		files["/etc/containerd/config.toml"] = text
	}
	for name, text := range n.cfg.DropIns {
		files[unitDir+"containerd.service.d/"+name] = text
	}
	maps.Copy(files, n.cfg.Files)
	return files, nil
}

func (n *Node) writeUnits() error {
	for _, name := range masked {
		if err := n.link("/dev/null", unitDir+name); err != nil {
			return err
		}
	}
	if err := n.writeFile(containerdUnit, containerdUnitText); err != nil {
		return err
	}
	if err := n.enable(containerdUnit, containerdUnitText); err != nil {
		return err
	}
	units := map[string]string{"rig-prepare.service": prepareUnit}
	maps.Copy(units, n.cfg.Units)
	for name, text := range units {
		if err := n.writeFile(unitDir+name, text); err != nil {
			return err
		}
		if err := n.enable(unitDir+name, text); err != nil {
			return err
		}
	}
	return nil
}

// enable does what systemctl enable does with the two commonest lines.
func (n *Node) enable(unit, text string) error {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		suffix, ok := map[string]string{"WantedBy": ".wants/", "RequiredBy": ".requires/"}[key]
		if !ok {
			continue
		}
		for by := range strings.FieldsSeq(value) {
			if err := n.link(unit, unitDir+by+suffix+filepath.Base(unit)); err != nil {
				return err
			}
		}
	}
	return nil
}

// diskPath is where a path of the node lies on this machine's disk, while the node is off.
func (n *Node) diskPath(path string) (string, error) {
	path = filepath.Clean("/" + path)
	top, _, _ := strings.Cut(path[1:], "/")
	switch top {
	case "etc", "var":
		return filepath.Join(n.cfg.Dir, path), nil
	case "run", "tmp", "proc", "sys", "dev":
		return "", fmt.Errorf("%s is not on the node's disk", path)
	case "bin", "lib", "lib64", "sbin":
		return "", fmt.Errorf("/%s is a link on the node: say /usr%s", top, path)
	}
	return filepath.Join(n.cfg.Dir, "upper", path), nil
}

func (n *Node) writeFile(path, content string) error {
	at, err := n.diskPath(path)
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if strings.HasPrefix(content, "#!") {
		mode = 0o755
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	if err := remove(at); err != nil { // it may be a link
		return err
	}
	return os.WriteFile(at, []byte(content), mode)
}

func (n *Node) link(target, path string) error {
	at, err := n.diskPath(path)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	if err := remove(at); err != nil {
		return err
	}
	return os.Symlink(target, at)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// hasSysResource tells whether this process, and so the node, has CAP_SYS_RESOURCE.
func hasSysResource() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}
