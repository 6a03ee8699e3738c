package rig

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"

	"k8s.io/client-go/rest"
)

// makeClients makes those of this process: the admin's, and one that asks programs whether they are well.
func (c *Cluster) makeClients() error {
	var err error
	if c.admin, err = c.RESTConfigFor("admin", groupAdmins); err != nil {
		return err
	}
	if c.client, err = rest.HTTPClientFor(c.admin); err != nil {
		return err
	}
	c.prober = &http.Client{Transport: &http.Transport{
		DialContext: c.Dial, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // some make a certificate for themselves
	}}
	return nil
}

// RESTConfig is how this process reaches the API server as an administrator. It may be changed.
func (c *Cluster) RESTConfig() *rest.Config { return rest.CopyConfig(c.admin) }

// CA is the authority of everything in the cluster. Nodes trust it as they trust any other on the internet.
func (c *Cluster) CA() *CA { return c.ca }

// Dial connects from the network of the control plane, from where the API server, the registry, nodes, and with nodes'
// help pods and services, can be reached by their addresses of IP.
func (c *Cluster) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return c.network.dial(ctx, network, address)
}

// Listen listens on the network of the control plane, for servers of this process that nodes and pods are to reach. The
// host of the address is IP's.
func (c *Cluster) Listen(address string) (net.Listener, error) { return c.network.listen(address) }

// IP is the address of the control plane.
func (c *Cluster) IP() string { return clusterIP }

// Kubectl runs kubectl as an administrator and returns what it prints.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.Exec(ctx, append([]string{"kubectl"}, args...)...)
}

// Helm runs helm as an administrator and returns what it prints.
func (c *Cluster) Helm(ctx context.Context, args ...string) (string, error) {
	return c.Exec(ctx, append([]string{"helm"}, args...)...)
}

// Exec runs a program of this machine on the control plane's network, with kubectl, helm and an administrator's
// configuration in its environment, and returns its standard output. When it fails, the error has its standard error.
func (c *Cluster) Exec(ctx context.Context, argv ...string) (string, error) {
	return runLine(ctx, c.network.enter(argv...), c.env(), argv)
}

// Command is what Exec runs, for those that want to do more with it.
func (c *Cluster) Command(ctx context.Context, argv ...string) *exec.Cmd {
	line := c.network.enter(argv...)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Env = c.env()
	return cmd
}

// env has nothing of the user's own clusters.
func (c *Cluster) env() []string {
	return []string{
		"PATH=" + c.bin.kubernetes + ":" + c.bin.helm + ":/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + filepath.Join(c.cfg.Dir, "home"), "KUBECONFIG=" + c.pki("admin.conf"), "LC_ALL=C.UTF-8",
	}
}

// get reads an object of the API.
func (c *Cluster) get(ctx context.Context, path string, into any) error {
	return c.call(ctx, http.MethodGet, path, nil, into)
}

// create makes an object of the API.
func (c *Cluster) create(ctx context.Context, path string, object table) error {
	return c.call(ctx, http.MethodPost, path, object, nil)
}

func (c *Cluster) call(ctx context.Context, method, path string, object, into any) error {
	var body io.Reader
	if object != nil {
		text, err := json.Marshal(object)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.admin.Host+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}
