package rig

import (
	"context"
	"errors"
	"path/filepath"
)

// nodeNamespaces are those that Exec enters, as options of nsenter.
var nodeNamespaces = []string{"--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"}

// Exec runs a program of the node in all its namespaces, as uid 0, and returns its standard output. When it fails, the
// error has its standard error. When ctx ends, it is killed with what it started.
func (n *Node) Exec(ctx context.Context, argv ...string) (string, error) { return run(ctx, n, argv...) }

// Systemctl runs systemctl on the node and returns what it prints.
func (n *Node) Systemctl(ctx context.Context, args ...string) (string, error) {
	return n.Exec(ctx, append([]string{"systemctl"}, args...)...)
}

func (n *Node) enter(argv ...string) ([]string, error) {
	leader := n.Leader()
	if leader == 0 {
		return nil, errors.New("the node is off")
	}
	return append(enterArgs(leader, nodeNamespaces...), argv...), nil
}

func (*Node) env() []string { return nodeEnv }

// nodeEnv has nothing of this machine's environment.
var nodeEnv = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8",
	"SYSTEMD_COLORS=0", "SYSTEMD_PAGER=",
}

func (n *Node) shared() (here, there string) {
	const dir = "/var/lib/rig"
	return filepath.Join(n.cfg.Dir, dir), dir
}

// cgroup is empty, for all that a node sees is a cgroup of its own.
func (*Node) cgroup() string { return "" }

func (*Node) daemon() (containerd, ctr []string) { return []string{"containerd"}, []string{"ctr"} }

func execIn(ctx context.Context, leader int, argv ...string) (string, error) {
	return runLine(ctx, append(enterArgs(leader, nodeNamespaces...), argv...), nodeEnv, argv)
}
