package rig

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
)

// Addresses of every cluster. They do not collide, for each cluster has networks of its own.
const (
	clusterIP     = "10.77.0.1"
	serviceCIDR   = "10.79.0.0/16"
	serviceIP     = "10.79.0.1" // of the API server
	podCIDR       = "10.78.0.0/16"
	apiAddr       = clusterIP + ":6443"
	etcdURL       = "http://127.0.0.1:2379"
	etcdPeerURL   = "http://127.0.0.1:2380"
	frontAddr     = clusterIP + ":5000"
	registryAddr  = "127.0.0.1:5000"
	clusterDomain = "cluster.local"
)

// ClusterConfig describes a cluster.
type ClusterConfig struct {
	// Dir keeps everything of the cluster. It is created and not removed. It must be on a filesystem that overlayfs can
	// use.
	Dir string
	// Nodes are those to begin with: make([]ClusterNodeConfig, 3) are three ordinary ones. None: a control plane alone.
	Nodes []ClusterNodeConfig
	// APIServerArgs and ControllerManagerArgs are further arguments of these programs.
	APIServerArgs, ControllerManagerArgs []string
}

// Cluster is a Kubernetes: etcd, the API server, controller manager and scheduler, a registry and nodes. Its methods may
// be called concurrently, but for those that stop and start the same part.
type Cluster struct {
	cfg     ClusterConfig
	bin     clusterPrograms
	network *netns
	ca      *CA
	pause   string // an archive with the sandbox's image
	admin   *rest.Config
	client  *http.Client // of the admin
	prober  *http.Client // asks programs whether they are well

	registry *Registry
	front    *Proxy

	// These are not changed after StartCluster.
	etcd, api, manager, scheduler, dns *daemon

	mu    sync.Mutex
	nodes []*ClusterNode
	next  int // number of the next node
}

// clusterPrograms are the directories of the parts.
type clusterPrograms struct{ kubernetes, etcd, cni, helm, coredns string }

// StartCluster starts a cluster and waits until the API server answers and all nodes are Ready. ctx bounds the start
// alone. It needs root. Parts are built first if they are not in the cache, which takes many minutes.
func StartCluster(ctx context.Context, cfg ClusterConfig) (*Cluster, error) {
	if !filepath.IsAbs(cfg.Dir) || strings.ContainsAny(cfg.Dir, ",:") {
		return nil, fmt.Errorf("the cluster's Dir %q is not an absolute path without commas and colons", cfg.Dir)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("a cluster needs root")
	}
	bin, err := ensureCluster(ctx)
	if err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, bin: bin, next: 1}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func ensureCluster(ctx context.Context) (clusterPrograms, error) {
	var p clusterPrograms
	for name, dir := range map[string]*string{
		"kubernetes-1.36": &p.kubernetes, "etcd": &p.etcd, "cni": &p.cni, "helm": &p.helm, "coredns": &p.coredns,
	} {
		var err error
		if *dir, err = ensurePart(ctx, name); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (c *Cluster) start(ctx context.Context) error {
	for _, dir := range []string{"pki", "log", "home"} {
		if err := os.MkdirAll(filepath.Join(c.cfg.Dir, dir), 0o755); err != nil {
			return err
		}
	}
	if err := c.startNetwork(ctx); err != nil {
		return fmt.Errorf("make the cluster's network: %w", err)
	}
	if err := c.writePKI(); err != nil {
		return fmt.Errorf("make the cluster's certificates: %w", err)
	}
	if err := c.makeClients(); err != nil {
		return err
	}
	if err := c.startAPI(ctx); err != nil {
		return err
	}
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return c.startControllers(ctx) })
	all.Go(func() error {
		if err := c.startRegistry(ctx); err != nil {
			return err
		}
		return c.startNodes(ctx)
	})
	return all.Wait()
}

// startNodes boots the nodes of the configuration at once.
func (c *Cluster) startNodes(ctx context.Context) error {
	if len(c.cfg.Nodes) == 0 {
		return nil
	}
	names := make([]string, len(c.cfg.Nodes))
	all, booting := errgroup.WithContext(ctx)
	for i, cfg := range c.cfg.Nodes {
		all.Go(func() error {
			n, err := c.AddNode(booting, cfg)
			if err == nil {
				names[i] = n.Name
			}
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	return c.WaitNodesReady(ctx, names...)
}

// Nodes are the nodes that there are, in the order in which they were added.
func (c *Cluster) Nodes() []*ClusterNode {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*ClusterNode(nil), c.nodes...)
}

// Node is the node of that name, or nil.
func (c *Cluster) Node(name string) *ClusterNode {
	for _, n := range c.Nodes() {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// LogPaths are the logs of the control plane's programs and of the nodes' consoles.
func (c *Cluster) LogPaths() []string {
	var paths []string
	for _, d := range c.daemons() {
		paths = append(paths, d.log)
	}
	for _, n := range c.Nodes() {
		paths = append(paths, n.LogPath())
	}
	return paths
}

// Close ends everything at once and leaves neither process, mount, namespace nor cgroup. The files stay for a look at
// them.
func (c *Cluster) Close() error {
	var all errgroup.Group
	for _, n := range c.Nodes() {
		all.Go(n.Close)
	}
	errs := []error{all.Wait()}
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
	if c.front != nil {
		errs = append(errs, c.front.Close())
	}
	if c.registry != nil {
		errs = append(errs, c.registry.Close())
	}
	for _, d := range c.daemons() {
		errs = append(errs, d.kill())
	}
	return errors.Join(append(errs, c.network.close())...)
}
