package rig

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
)

// ClusterNodeConfig describes a node of a cluster.
type ClusterNodeConfig struct {
	// NodeConfig is that of the machine. Name is node-1 and so on if it is empty, Line 2.4, and Dir one below the
	// cluster's.
	NodeConfig
	// KubeletArgs are further arguments of the kubelet, as "--register-with-taints=example.com/x:NoSchedule".
	KubeletArgs []string
	// KubeletConfig is merged over the kubelet's configuration.
	KubeletConfig map[string]any
}

// ClusterNode is a machine with containerd, kubelet and kube-proxy. Boot, Kill, PowerOff and Reboot do with it what they
// do with any Node; its object in the API stays. Its methods may be called concurrently, but for those that boot or end
// it.
type ClusterNode struct {
	*Node
	// Name is that of the host and of its object in the API.
	Name string
	// IP is its address on the cluster's network, PodCIDR the addresses of its pods.
	IP, PodCIDR string

	cluster *Cluster
	number  int

	mu      sync.Mutex
	network *netns // of the last boot
	boots   int
	cut     bool
}

// maxNodes is how many nodes there can be in the life of a cluster, which is given by their addresses.
const maxNodes = 200

// AddNode boots a further node, which joins when its kubelet has found the API server: see WaitNodesReady.
func (c *Cluster) AddNode(ctx context.Context, cfg ClusterNodeConfig) (*ClusterNode, error) {
	n, err := c.newNode(&cfg)
	if err != nil {
		return nil, err
	}
	if n.Node, err = StartNode(ctx, cfg.NodeConfig); err != nil {
		return nil, errors.Join(fmt.Errorf("node %s: %w", n.Name, err), n.network.close())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = append(c.nodes, n)
	slices.SortFunc(c.nodes, func(a, b *ClusterNode) int { return a.number - b.number })
	return n, nil
}

// newNode gives the node its name and addresses, and completes its configuration.
func (c *Cluster) newNode(cfg *ClusterNodeConfig) (*ClusterNode, error) {
	c.mu.Lock()
	number := c.next
	c.next++
	c.mu.Unlock()
	if number > maxNodes {
		return nil, fmt.Errorf("a cluster can have %d nodes", maxNodes)
	}
	cfg.Name = orDefault(cfg.Name, fmt.Sprintf("node-%d", number))
	cfg.Line = orDefault(cfg.Line, "2.4")
	cfg.Dir = orDefault(cfg.Dir, filepath.Join(c.cfg.Dir, cfg.Name))
	n := &ClusterNode{
		Name: cfg.Name, IP: fmt.Sprintf("10.77.0.%d", 10+number), PodCIDR: fmt.Sprintf("10.78.%d.0/24", number),
		cluster: c, number: number,
	}
	if err := c.configureNode(cfg, n); err != nil {
		return nil, fmt.Errorf("configure node %s: %w", n.Name, err)
	}
	cfg.network = n.plugIn
	cfg.nspawn = []string{
		"--bind=/dev/kmsg", // the kubelet wants to read it
		"--bind-ro=" + c.bin.kubernetes + ":" + kubernetesDir, "--bind-ro=" + c.bin.cni + ":/opt/cni/bin",
	}
	return n, nil
}

// Remove ends the node at once and takes its object and its pods out of the API, which without that would be there for
// another minute.
func (n *ClusterNode) Remove(ctx context.Context) error {
	if err := n.Close(); err != nil {
		return err
	}
	if _, err := n.cluster.Kubectl(ctx, "delete", "node", n.Name); err != nil {
		return err
	}
	_, err := n.cluster.Kubectl(ctx, "delete", "pods", "--all-namespaces", "--field-selector=spec.nodeName="+n.Name,
		"--force", "--grace-period=0")
	return err
}

// Close ends the node at once and forgets it. Its object in the API stays.
func (n *ClusterNode) Close() error {
	err := n.Node.Close()
	n.mu.Lock()
	err = errors.Join(err, n.network.close())
	n.network = nil
	n.mu.Unlock()
	n.cluster.mu.Lock()
	defer n.cluster.mu.Unlock()
	n.cluster.nodes = slices.DeleteFunc(n.cluster.nodes, func(other *ClusterNode) bool { return other == n })
	return err
}
