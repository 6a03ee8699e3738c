package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// bootScript runs as the first process of a PID namespace, with mounts of its own, and becomes systemd-nspawn. When it
// dies, however it dies, the kernel kills the node and takes the mounts away. Killing systemd-nspawn elsewhere would
// leave the node running.
const bootScript = `set -e
for dir in $RIG_CGROUP; do echo 0 >"$dir/cgroup.procs"; done
mount --make-rprivate /
mount -t proc proc /proc
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn # systemd-nspawn leaves files there when it is killed
if [ -e "$RIG_DIR/network" ]; then mount --bind /proc/self/ns/net "$RIG_DIR/network"; fi
mount -t overlay overlay -o "lowerdir=$RIG_ROOT,upperdir=$RIG_DIR/upper,workdir=$RIG_DIR/work" "$RIG_DIR/root"
exec systemd-nspawn "$@"
`

// Boot boots a node that is off, and waits until it is ready. It is off after Kill.
func (n *Node) Boot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc != nil && n.proc.running() {
		return errors.New("boot the node: it is on")
	}
	network, err := n.connect(ctx)
	if err != nil {
		return fmt.Errorf("boot the node: %w", err)
	}
	line := network.enter(append([]string{"/bin/sh", "-c", bootScript, "boot"}, n.nspawnArgs()...)...)
	proc, err := command{
		path: line[0],
		args: line[1:],
		env: cleanEnv(n.bin, []string{
			"RIG_CGROUP=" + strings.Join(n.cg, " "), "RIG_ROOT=" + n.root, "RIG_DIR=" + n.cfg.Dir,
		}),
		logPath:    n.LogPath(),
		namespaces: unix.CLONE_NEWPID | unix.CLONE_NEWNS,
	}.start()
	if err != nil {
		return fmt.Errorf("boot the node: %w", err)
	}
	n.proc = proc
	n.proc.name = "the node"
	err = n.proc.waitReady(ctx, n.LogPath(), func(context.Context) error {
		leader, err := childInit(n.proc.pid())
		n.leader.Store(int64(leader))
		return err
	})
	if err != nil {
		return err
	}
	return n.waitReady(ctx)
}

// connect gives the node its network for this boot. nil means that systemd-nspawn makes one.
func (n *Node) connect(ctx context.Context) (*netns, error) {
	if n.cfg.network == nil {
		return nil, nil
	}
	if err := os.WriteFile(n.networkPath(), nil, 0o644); err != nil {
		return nil, err
	}
	return n.cfg.network(ctx)
}

// networkPath is where the boot script mounts the network namespace, if it is not systemd-nspawn that makes it.
func (n *Node) networkPath() string { return filepath.Join(n.cfg.Dir, "network") }

func (n *Node) nspawnArgs() []string {
	bind := func(dir string) string { return "--bind=" + filepath.Join(n.cfg.Dir, dir) + ":/" + dir }
	network := "--private-network"
	if n.cfg.network != nil {
		network = "--network-namespace-path=" + n.networkPath()
	}
	return append([]string{
		"--quiet", "--boot", "--directory=" + filepath.Join(n.cfg.Dir, "root"), "--machine=" + n.name,
		// There may be no systemd on this machine that could take care of it.
		"--register=no", "--keep-unit",
		network, "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=read-only",
		"--capability=all", "--system-call-filter=@mount @keyring bpf", // for runc
		bind("etc"), bind("var"), "--bind-ro=" + n.bin + ":/usr/local/bin",
	}, n.cfg.nspawn...)
}

// childInit finds the child of a process that is systemd and the first process of a PID namespace.
func childInit(parent int) (int, error) {
	for _, pid := range childrenOf(parent) {
		ids, err := namespacePIDs(pid)
		if err == nil && ids[len(ids)-1] == 1 && commandName(pid) == "systemd" {
			return pid, nil
		}
	}
	return 0, errors.New("systemd has not started")
}

// WaitReady waits until the node has booted and containerd's CRI answers; with NoCRI only until systemd answers on
// D-Bus.
func (n *Node) WaitReady(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.waitReady(ctx)
}

// waitReady needs n.mu.
func (n *Node) waitReady(ctx context.Context) error {
	leader := n.Leader()
	address := fmt.Sprintf("/proc/%d/root/run/containerd/containerd.sock", leader)
	return n.proc.waitReady(ctx, n.LogPath(), func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if n.cfg.NoCRI {
			_, err := execIn(ctx, leader, "busctl", "get-property", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
				"org.freedesktop.systemd1.Manager", "Version")
			return err
		}
		// It exits with an error when a unit has failed, which is for the test to judge.
		state, err := execIn(ctx, leader, "systemctl", "is-system-running", "--wait")
		if s := strings.TrimSpace(state); s != "running" && s != "degraded" {
			return fmt.Errorf("systemd is %q: %w", s, err)
		}
		cri, err := DialCRI(ctx, address)
		if err != nil {
			return err
		}
		return cri.Close()
	})
}

// shutDown ends the node in order if it can within the grace time.
func (n *Node) shutDown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	n.mu.Lock()
	proc, leader := n.proc, n.Leader()
	n.mu.Unlock()
	if leader == 0 {
		return n.Kill()
	}
	// SIGRTMIN+4 starts poweroff.target (systemd(1)).
	const powerOff = unix.Signal(34 + 4)
	if err := unix.Kill(leader, powerOff); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("shut the node down: %w", err)
	}
	// When all units have stopped, systemd becomes systemd-shutdown, which only kills what is left, containers as a rule,
	// and waits long for what ignores SIGTERM. Taking too long is no error.
	_ = await(ctx, "the units to stop", func(context.Context) error {
		if proc.running() && commandName(leader) == "systemd" {
			return errors.New("systemd runs")
		}
		return nil
	})
	return n.Kill()
}
