package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// nodePath is where programs of a node are looked for.
const nodePath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Exec runs a program of the node in all its namespaces, as uid 0, and returns its standard output. When it fails, the
// error has its standard error. What it leaves running ends with ctx.
func (n *Node) Exec(ctx context.Context, argv ...string) (string, error) {
	leader := n.Leader()
	if leader == 0 {
		return "", errors.New("the node is off")
	}
	return execIn(ctx, leader, argv...)
}

// Systemctl runs systemctl on the node and returns what it prints.
func (n *Node) Systemctl(ctx context.Context, args ...string) (string, error) {
	return n.Exec(ctx, append([]string{"systemctl"}, args...)...)
}

func execIn(ctx context.Context, leader int, argv ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := enter(ctx, leader, argv...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s on the node: %w: %s", strings.Join(argv, " "), err,
			bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// enter prepares a program that runs on the node with this leader. When ctx ends, it is killed with what it started.
func enter(ctx context.Context, leader int, argv ...string) *exec.Cmd {
	args := []string{"--target", strconv.Itoa(leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(args, argv...)...)
	cmd.Env = []string{nodePath, "LC_ALL=C.UTF-8", "HOME=/root", "SYSTEMD_COLORS=0", "SYSTEMD_PAGER="}
	cmd.Dir = "/"
	// nsenter forks, since only a child is in the PID namespace.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}
