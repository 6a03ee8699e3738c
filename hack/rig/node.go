package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// NodeConfig describes a node: a small Debian with systemd as its first process, D-Bus and containerd as a unit.
type NodeConfig struct {
	// Name is the host name. Empty: node.
	Name string
	// Line is the containerd release line, one of Lines.
	Line string
	// Dir keeps everything of the node. It is created and not removed. It must be on a filesystem that overlayfs can use.
	Dir string
	// ConfigTOML is the content of /etc/containerd/config.toml. Empty: that of BaseConfig with NodeHostsDir.
	ConfigTOML string
	// NoConfig leaves /etc/containerd/config.toml out.
	NoConfig bool
	// Files are further files of the node, by their absolute paths. They replace what is there. One that begins with "#!"
	// becomes executable.
	Files map[string]string
	// DropIns are for containerd's unit, by names as "10-kill.conf".
	DropIns map[string]string
	// Units are further units, by names as "app.service", or replace those of that name. Their WantedBy= and RequiredBy=
	// lines are obeyed.
	Units map[string]string
	// NoCRI does not wait for containerd, for nodes on which it is not to work.
	NoCRI bool

	// network makes the network namespace for a boot. Nil: a new one with a loopback interface alone.
	network func(context.Context) (*netns, error)
	// nspawn are further arguments of systemd-nspawn.
	nspawn []string
}

// Node is a running node. It has PID, mount, network, UTS and IPC namespaces and cgroups of its own, and no network but
// a loopback interface, unless it is one of a Cluster. Its methods may be called concurrently, but for those that boot or end it.
type Node struct {
	cfg  NodeConfig
	name string
	bin  string // of containerd
	root string // of Debian
	cg   cgroup

	leader atomic.Int64 // 0 while the node is off; not guarded, so that who asks need not wait for the end of a boot

	mu   sync.Mutex
	proc *process // systemd-nspawn; nil before the first boot
}

// StartNode boots a node and waits until systemd and containerd's CRI answer. ctx bounds the start alone. It needs
// root. Parts are built first if they are not in the cache, which takes minutes.
func StartNode(ctx context.Context, cfg NodeConfig) (*Node, error) {
	if !slices.Contains(Lines(), cfg.Line) {
		return nil, fmt.Errorf("no containerd line %q; there are %s", cfg.Line, strings.Join(Lines(), ", "))
	}
	if !filepath.IsAbs(cfg.Dir) || strings.ContainsAny(cfg.Dir, ",:") {
		return nil, fmt.Errorf("the node's Dir %q is not an absolute path without commas and colons", cfg.Dir)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("a systemd node needs root")
	}
	bin, err := ensurePart(ctx, "containerd-"+cfg.Line)
	if err != nil {
		return nil, err
	}
	root, err := ensurePart(ctx, "node-root")
	if err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, name: orDefault(cfg.Name, "node"), bin: bin, root: root}
	if err := n.writeRoot(ctx); err != nil {
		return nil, fmt.Errorf("make the node's files: %w", err)
	}
	if n.cg, err = newCgroup(); err != nil {
		return nil, err
	}
	if err := n.Boot(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Line is the containerd line.
func (n *Node) Line() string { return n.cfg.Line }

// LogPath is the file with the console's output of all boots, which has the journal.
func (n *Node) LogPath() string { return filepath.Join(n.cfg.Dir, "console.log") }

// Leader is the process id of the node's systemd, or 0 while it is off.
func (n *Node) Leader() int { return int(n.leader.Load()) }

// BootID is another one after each boot.
func (n *Node) BootID() (string, error) {
	id, err := os.ReadFile(n.Path("/proc/sys/kernel/random/boot_id"))
	return strings.TrimSpace(string(id)), err
}

// Path returns where this process finds a path of the node. Below /etc and /var that is a plain directory, whether the
// node runs or not; elsewhere it holds until the node ends or boots again. An absolute symbolic link on the way would
// lead out of the node: say /run, not /var/run.
func (n *Node) Path(path string) string {
	path = filepath.Clean("/" + path)
	for _, top := range []string{"/etc", "/var"} {
		if path == top || strings.HasPrefix(path, top+"/") {
			return filepath.Join(n.cfg.Dir, path)
		}
	}
	return fmt.Sprintf("/proc/%d/root%s", n.Leader(), path)
}

// Address is the path of containerd's socket for this process. It is another one after each boot.
func (n *Node) Address() string { return n.Path("/run/containerd/containerd.sock") }

// CRI connects to the node's containerd. The connection outlives restarts of containerd, but no reboot.
func (n *Node) CRI(ctx context.Context) (*CRI, error) { return DialCRI(ctx, n.Address()) }

// Listen listens on the node's own network, for servers of this process that programs of the node are to reach. The host of
// the address is IP's. The listener outlives the node, and reaches no other boot of it.
func (n *Node) Listen(address string) (net.Listener, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", n.Leader()))
	if err != nil {
		return nil, fmt.Errorf("open the node's network: %w", err)
	}
	defer file.Close()
	return (&netns{file}).listen(address)
}

// Kill takes the power away: everything on the node ends at once. What it wrote stays, for the disk is this machine's.
func (n *Node) Kill() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leader.Store(0)
	if n.proc == nil {
		return nil
	}
	if err := n.proc.signal(unix.SIGKILL); err != nil {
		return err
	}
	// systemd-nspawn is gone when all of its PID namespace is.
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	select {
	case <-n.proc.done:
		return nil
	case <-timer.C:
		return fmt.Errorf("the node (pid %d) does not end although it was killed %s ago", n.proc.pid(), startTimeout)
	}
}

// PowerOff shuts the node down in order, with Kill when that takes longer than ten seconds or ctx ends. Containers end;
// /etc, /var and all other files but those in /run and /tmp stay.
func (n *Node) PowerOff(ctx context.Context) error { return n.shutDown(ctx) }

// Reboot does PowerOff and Boot.
func (n *Node) Reboot(ctx context.Context) error {
	if err := n.PowerOff(ctx); err != nil {
		return err
	}
	return n.Boot(ctx)
}

// Close ends the node at once and leaves neither process, mount, namespace nor cgroup. Its files stay for a look at
// them.
func (n *Node) Close() error { return errors.Join(n.Kill(), n.cg.remove()) }
