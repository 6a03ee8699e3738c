package rig

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// pauseImage is what nodes have before they join, under this name and under the one that containerd wants.
const pauseImage = "registry.invalid/rig/pause:v1"

// startRegistry starts the registry and, in front of it, a proxy that counts, with a certificate of the cluster's CA.
func (c *Cluster) startRegistry(ctx context.Context) error {
	var err error
	c.registry, err = StartRegistry(ctx, RegistryConfig{
		Dir: filepath.Join(c.cfg.Dir, "registry"), Addr: registryAddr, network: c.network,
	})
	if err != nil {
		return err
	}
	cert, key, err := c.ca.Issue(frontAddr)
	if err != nil {
		return err
	}
	c.front, err = c.StartProxy(ProxyConfig{
		Upstream: c.registry.URL(), Addr: frontAddr, CertPEM: cert, KeyPEM: key,
	})
	if err != nil {
		return err
	}
	return c.writePause()
}

func (c *Cluster) writePause() error {
	tag, err := name.NewTag(pauseImage, name.StrictValidation)
	if err != nil {
		return err
	}
	img, err := assemble([]tree{{types.OCILayer, baseFiles(0), "pause"}}, "", "")
	if err != nil {
		return err
	}
	c.pause = filepath.Join(c.cfg.Dir, "pause.tar")
	if err := tarball.WriteToFile(c.pause, tag, img); err != nil {
		return fmt.Errorf("write the sandbox's image: %w", err)
	}
	return nil
}

// Registry is the registry itself, which nobody but the proxy in front of it reaches.
func (c *Cluster) Registry() *Registry { return c.registry }

// Front is the proxy in front of the registry. Its Host is what image references begin with.
func (c *Cluster) Front() *Proxy { return c.front }

// StopRegistry makes the registry go away: connections break, and new ones are refused.
func (c *Cluster) StopRegistry() error { return c.front.Stop() }

// StartRegistry brings it back.
func (c *Cluster) StartRegistry() error { return c.front.Start() }

// StartProxy starts a further proxy on the control plane's network, in front of this registry, of another or of none.
// The caller closes it, or Stops it, before the cluster's Close. Its Addr needs a port.
func (c *Cluster) StartProxy(cfg ProxyConfig) (*Proxy, error) {
	cfg.network = c.network
	return StartProxy(cfg)
}

// StartOtherRegistry starts a further registry on the control plane's network, for example one with passwords. The
// caller closes it. Its Addr needs a port; on 127.0.0.1 only proxies reach it, on the cluster's IP everybody does.
func (c *Cluster) StartOtherRegistry(ctx context.Context, cfg RegistryConfig) (*Registry, error) {
	cfg.network = c.network
	return StartRegistry(ctx, cfg)
}

// Push uploads the image to a repository with a tag, as "models/llama:v1", of the cluster's registry. It returns the
// reference for pods and the digest.
func (c *Cluster) Push(ctx context.Context, repository string, img v1.Image) (ref, digest string, err error) {
	ref = c.front.Host() + "/" + repository
	digest, err = Push(ctx, ref, img, PushOptions{CA: c.ca.PEM(), Dial: c.Dial})
	return ref, digest, err
}

// BusyboxImage makes an image with busybox's commands in /bin, which without a command of the pod's prints help and
// ends.
func BusyboxImage(ctx context.Context) (v1.Image, error) {
	root, err := ensurePart(ctx, "node-root")
	if err != nil {
		return nil, err
	}
	busybox, err := os.ReadFile(filepath.Join(root, "usr/bin/busybox"))
	if err != nil {
		return nil, err
	}
	files := []entry{
		dir("bin/", 0o755), dir("etc/", 0o755), file("etc/passwd", 0o644, []byte("root:x:0:0:root:/:/bin/sh\n")),
		dir("models/", 0o755), dir("tmp/", 0o1777), file("bin/busybox", 0o755, busybox),
	}
	link := func(path, target string) entry {
		return entry{header: tar.Header{Typeflag: tar.TypeSymlink, Name: path, Linkname: target, Mode: 0o777}}
	}
	// Debian's wget is not among them: it crashes where there is no libc.
	for _, command := range []string{"cat", "httpd", "id", "ls", "mkdir", "nc", "nslookup", "sh", "sleep", "stat"} {
		files = append(files, link("bin/"+command, "busybox"))
	}
	files = append(files, dir("usr/", 0o755), dir("usr/bin/", 0o755), link("usr/bin/serve", "../../bin/busybox"))
	return assemble([]tree{{types.OCILayer, files, "busybox"}}, "", "")
}
