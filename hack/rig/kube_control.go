package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"sync"
	"time"
)

// daemon is a program of the control plane. Its methods may be called concurrently.
type daemon struct {
	name  string
	argv  []string
	log   string
	ready func(context.Context) error

	mu   sync.Mutex
	proc *process
}

// start starts the program, unless it runs, and waits until it is ready.
func (d *daemon) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.proc == nil || !d.proc.running() {
		var err error
		d.proc, err = command{path: d.argv[0], args: d.argv[1:], env: cleanEnv("", nil), logPath: d.log}.start()
		if err != nil {
			return fmt.Errorf("start %s: %w", d.name, err)
		}
		d.proc.name = d.name
	}
	return d.proc.waitReady(ctx, d.log, d.ready)
}

func (d *daemon) stop(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.proc == nil {
		return nil
	}
	return d.proc.stop(ctx)
}

func (d *daemon) kill() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.proc == nil {
		return nil
	}
	return d.proc.kill()
}

// daemons are the programs of the control plane that there are.
func (c *Cluster) daemons() []*daemon {
	if c.etcd == nil {
		return nil
	}
	return []*daemon{c.etcd, c.api, c.manager, c.scheduler, c.dns}
}

func (c *Cluster) makeDaemons() {
	c.etcd = c.daemon(filepath.Join(c.bin.etcd, "server"), "etcd", etcdURL+"/health", c.etcdArgs())
	c.api = c.daemon(c.program("kube-apiserver"), "kube-apiserver", "https://"+apiAddr+"/readyz",
		append(c.apiArgs(), c.cfg.APIServerArgs...))
	c.manager = c.daemon(c.program("kube-controller-manager"), "kube-controller-manager", "https://127.0.0.1:10257/healthz",
		append(c.managerArgs(), c.cfg.ControllerManagerArgs...))
	c.scheduler = c.daemon(c.program("kube-scheduler"), "kube-scheduler", "https://127.0.0.1:10259/healthz",
		c.clientArgs(userScheduler))
	c.dns = c.daemon(filepath.Join(c.bin.coredns, "coredns"), "coredns", "http://127.0.0.1:8181/ready",
		[]string{"-conf=" + c.pki("Corefile")})
}

func (c *Cluster) daemon(path, name, health string, args []string) *daemon {
	return &daemon{
		name: name,
		argv: c.network.enter(append([]string{path}, args...)...),
		log:  filepath.Join(c.cfg.Dir, "log", name+".log"),
		ready: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			return c.answers(ctx, health)
		},
	}
}

// answers checks that an address answers with 200.
func (c *Cluster) answers(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := c.prober.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if resp.StatusCode != http.StatusOK {
		return errors.Join(fmt.Errorf("%s answers %s: %s", url, resp.Status, body), err)
	}
	return err
}

// startAPI starts what has to be there before anything else.
func (c *Cluster) startAPI(ctx context.Context) error {
	c.makeDaemons()
	if err := c.etcd.start(ctx); err != nil {
		return err
	}
	if err := c.api.start(ctx); err != nil {
		return err
	}
	// kube-proxy's identity, which kubeadm and others bind as well.
	return c.create(ctx, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", table{
		"metadata": table{"name": "rig-kube-proxy"},
		"roleRef":  table{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
		"subjects": []table{{"kind": "User", "name": userProxy}},
	})
}

// startControllers starts those that ended as well, since they do when they cannot reach the API server for long.
func (c *Cluster) startControllers(ctx context.Context) error {
	for _, d := range []*daemon{c.manager, c.scheduler, c.dns} {
		if err := d.start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// StopAPIServer ends the API server; its connections break, and new ones are refused. etcd keeps everything.
func (c *Cluster) StopAPIServer(ctx context.Context) error { return c.api.stop(ctx) }

// StartAPIServer starts it again and waits until it answers. It does nothing if it runs.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	if err := c.api.start(ctx); err != nil {
		return err
	}
	return c.startControllers(ctx)
}

func (c *Cluster) program(name string) string { return filepath.Join(c.bin.kubernetes, name) }

func (c *Cluster) etcdArgs() []string {
	return []string{
		"--data-dir=" + filepath.Join(c.cfg.Dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL,
		"--listen-peer-urls=" + etcdPeerURL, "--initial-advertise-peer-urls=" + etcdPeerURL,
		"--initial-cluster=default=" + etcdPeerURL,
	}
}

func (c *Cluster) apiArgs() []string {
	const issuer = "https://kubernetes.default.svc." + clusterDomain
	return []string{
		"--etcd-servers=" + etcdURL, "--advertise-address=" + clusterIP, "--secure-port=6443",
		"--client-ca-file=" + c.pki("ca.crt"),
		"--tls-cert-file=" + c.pki("apiserver.crt"), "--tls-private-key-file=" + c.pki("apiserver.key"),
		"--kubelet-client-certificate=" + c.pki("kubelet-client.crt"),
		"--kubelet-client-key=" + c.pki("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=" + issuer, "--api-audiences=" + issuer,
		"--service-account-key-file=" + c.pki("sa.pub"), "--service-account-signing-key-file=" + c.pki("sa.key"),
		"--service-cluster-ip-range=" + serviceCIDR,
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
	}
}

func (c *Cluster) managerArgs() []string {
	return append(c.clientArgs(userManager),
		"--use-service-account-credentials", "--service-account-private-key-file="+c.pki("sa.key"),
		"--root-ca-file="+c.pki("ca.crt"),
		"--cluster-signing-cert-file="+c.pki("ca.crt"), "--cluster-signing-key-file="+c.pki("ca.key"))
}

// clientArgs are those of a program that is the only one of its kind.
func (c *Cluster) clientArgs(user string) []string {
	config := c.pki(user + ".conf")
	return []string{
		"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
		"--leader-elect=false",
	}
}
