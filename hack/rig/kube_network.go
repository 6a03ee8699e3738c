package rig

import (
	"context"
	"errors"
	"fmt"
)

// bridge is where the nodes' cables end, on the network of the control plane.
const bridge = "rig0"

func (c *Cluster) startNetwork(ctx context.Context) error {
	var err error
	if c.network, err = newNetns(ctx); err != nil {
		return err
	}
	err = c.network.ip(ctx, "link add "+bridge+" type bridge", "addr add "+clusterIP+"/24 dev "+bridge,
		"link set "+bridge+" up")
	if err != nil {
		return err
	}
	return c.network.forward()
}

// forward lets a network carry what is for others: packets between nodes and pods, and between pods of different nodes.
func (ns *netns) forward() error {
	var errs []error
	for name, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv4/conf/all/send_redirects": "0", "ipv4/conf/default/send_redirects": "0",
	} {
		errs = append(errs, ns.sysctl(name, value))
	}
	return errors.Join(errs...)
}

// plugIn makes the network of a node for one boot, as a machine's interfaces are new at each boot, and the cable from it
// to the bridge. The networks before went with the boots that they were for.
func (n *ClusterNode) plugIn(ctx context.Context) (*netns, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.network.close(); err != nil {
		return nil, err
	}
	n.network = nil
	ns, err := newNetns(ctx)
	if err != nil {
		return nil, err
	}
	n.network = ns
	n.boots++
	if err := n.wire(ctx, ns); err != nil {
		return nil, fmt.Errorf("connect %s to the cluster's network: %w", n.Name, err)
	}
	return ns, nil
}

// wire needs n.mu.
func (n *ClusterNode) wire(ctx context.Context, ns *netns) error {
	err := n.cluster.network.ip(ctx,
		fmt.Sprintf("link add %s type veth peer name eth0 address 02:00:0a:4d:00:%02x netns %s", n.cable(), n.number, ns.path()),
		"link set "+n.cable()+" master "+bridge,
		fmt.Sprintf("route replace %s via %s", n.PodCIDR, n.IP))
	if err != nil {
		return err
	}
	if !n.cut {
		if err := n.cluster.network.ip(ctx, "link set "+n.cable()+" up"); err != nil {
			return err
		}
	}
	err = ns.ip(ctx, "addr add "+n.IP+"/24 dev eth0", "link set eth0 up", "route add default via "+clusterIP)
	if err != nil {
		return err
	}
	return ns.forward()
}

// cable is the bridge's end of the cable. The last boot's may still be there.
func (n *ClusterNode) cable() string { return fmt.Sprintf("node%d-%d", n.number, n.boots) }

// CutOff unplugs the node: it runs, and reaches nobody but itself and its pods. That lasts across boots.
func (n *ClusterNode) CutOff(ctx context.Context) error { return n.plug(ctx, true, "down") }

// Reconnect undoes CutOff.
func (n *ClusterNode) Reconnect(ctx context.Context) error { return n.plug(ctx, false, "up") }

func (n *ClusterNode) plug(ctx context.Context, cut bool, state string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = cut
	if n.network == nil {
		return nil
	}
	return n.cluster.network.ip(ctx, "link set "+n.cable()+" "+state)
}
