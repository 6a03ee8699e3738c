package hostconfigtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	dockerconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// Host is one host as containerd would ask it.
type Host struct {
	// URL is scheme://host/path.
	URL          string
	Capabilities []hostconfig.Capability
	Header       http.Header
	// RootCAs is nil where the system's roots are used as they are.
	RootCAs      *x509.CertPool
	SkipVerify   bool
	Certificates []tls.Certificate
}

// Load returns what containerd makes of the hosts directory dir for a registry host. The error is one that would fail
// every pull.
func Load(ctx context.Context, dir, host string) ([]Host, error) {
	// ConfigureHosts may wrap a host's transport so that its TLS settings cannot be reached any more. It calls
	// UpdateClient before that, with the client that it hands out later.
	transports := map[*http.Client]*http.Transport{}
	configure := dockerconfig.ConfigureHosts(ctx, dockerconfig.HostOptions{
		HostDir: dockerconfig.HostDirFromRoot(dir),
		UpdateClient: func(c *http.Client) error {
			t, ok := c.Transport.(*http.Transport)
			if !ok {
				return fmt.Errorf("containerd's client has the transport %T", c.Transport)
			}
			transports[c] = t
			return nil
		},
	})
	found, err := configure(host)
	if err != nil {
		return nil, err
	}
	hosts := make([]Host, len(found))
	for i, h := range found {
		t := transports[h.Client].TLSClientConfig
		hosts[i] = Host{
			URL: h.Scheme + "://" + h.Host + h.Path, Capabilities: capabilities(h.Capabilities), Header: h.Header,
			RootCAs: t.RootCAs, SkipVerify: t.InsecureSkipVerify, Certificates: t.Certificates,
		}
	}
	return hosts, nil
}

func capabilities(c docker.HostCapabilities) []hostconfig.Capability {
	var out []hostconfig.Capability
	for _, x := range []struct {
		bit  docker.HostCapabilities
		name hostconfig.Capability
	}{
		{docker.HostCapabilityPull, hostconfig.CapabilityPull},
		{docker.HostCapabilityResolve, hostconfig.CapabilityResolve},
		{docker.HostCapabilityPush, hostconfig.CapabilityPush},
		{docker.HostCapabilityReferrers, hostconfig.CapabilityReferrers},
	} {
		if c.Has(x.bit) {
			out = append(out, x.name)
		}
	}
	return out
}

// WriteTree writes tree into dir, which must exist, with no care for crashes.
func WriteTree(dir string, tree hostconfig.Tree) error {
	for _, p := range tree.Paths() {
		name := filepath.Join(dir, filepath.FromSlash(p))
		if err := os.MkdirAll(filepath.Dir(name), hostconfig.DirMode); err != nil {
			return err
		}
		if err := os.WriteFile(name, tree[p].Data, tree[p].Mode); err != nil {
			return err
		}
		if err := os.Chmod(name, tree[p].Mode); err != nil { // past the umask
			return err
		}
	}
	return nil
}
