package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// dialTimeout bounds the first connect to the socket. Once made, the connection heals itself when the daemon restarts.
const dialTimeout = 10 * time.Second

// Client speaks with one containerd daemon. It is safe for concurrent use.
type Client struct {
	address string
	ctrd    *containerd.Client
	runtime runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
}

// Connect opens a connection to the containerd socket at address, a path.
func Connect(address string) (*Client, error) {
	ctrd, err := containerd.New(address, containerd.WithTimeout(dialTimeout))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s (is it running, and is this its socket?): %w", address, err)
	}
	conn, ok := ctrd.Conn().(*grpc.ClientConn)
	if !ok {
		ctrd.Close()
		return nil, fmt.Errorf("connect to containerd at %s: no gRPC connection", address)
	}
	return &Client{
		address: address,
		ctrd:    ctrd,
		runtime: runtimeapi.NewRuntimeServiceClient(conn),
		images:  runtimeapi.NewImageServiceClient(conn),
	}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.ctrd.Close() }

// Info is what a daemon says of itself.
type Info struct {
	// Version is as the daemon prints it, such as 2.4.2 or 1.6.20~ds1.
	Version string
	// UUID and PID change or stay with the daemon's data directory and its process. PID is 0 when it cannot be
	// known, as from another PID namespace.
	UUID string
	PID  int
	// ConfigPath is the registry config_path that the daemon claims; empty when it claims none or the line (2.0 to
	// 2.3) cannot say. A hint only.
	ConfigPath string
	// Proxy is the proxy setting of the daemon's environment, passwords removed; nil when it cannot be read.
	Proxy *Proxy
}

// Info asks the daemon. Only the version is required to answer; what else cannot be had stays empty.
func (c *Client) Info(ctx context.Context) (Info, error) {
	v, err := c.ctrd.Version(ctx)
	if err != nil {
		return Info{}, fmt.Errorf("ask containerd at %s for its version: %w", c.address, err)
	}
	info := Info{Version: v.Version}
	if server, err := c.ctrd.IntrospectionService().Server(ctx); err == nil {
		info.UUID = server.UUID
		info.PID = int(server.Pid) // 0 on 1.6
	}
	if info.PID == 0 {
		info.PID = peerPID(ctx, c.address)
	}
	info.ConfigPath = c.configPath(ctx)
	info.Proxy = processProxy(info.PID)
	return info, nil
}

// CheckCRI returns nil when the daemon's CRI plugin serves images and its runtime is ready. A daemon whose CRI plugin
// did not load is up for every other purpose, so an answer of the version API proves nothing.
func (c *Client) CheckCRI(ctx context.Context) error {
	status, err := c.runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return errors.Join(fmt.Errorf("ask containerd's CRI plugin for its status: %w", err), c.failedCRI(ctx))
	}
	for _, cond := range status.GetStatus().GetConditions() {
		if cond.Type == runtimeapi.RuntimeReady && !cond.Status {
			return fmt.Errorf("containerd's CRI runtime is not ready: %s: %s", cond.Reason, cond.Message)
		}
	}
	if _, err := c.images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{}); err != nil {
		return errors.Join(fmt.Errorf("ask containerd's CRI plugin for its image file system: %w", err), c.failedCRI(ctx))
	}
	return nil
}

// PullImage asks the daemon to pull ref as the kubelet would.
func (c *Client) PullImage(ctx context.Context, ref string) error {
	_, err := c.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	return err
}

// failedCRI names the CRI plugins that did not load, with the daemon's own reason; nil when there are none or the
// daemon cannot say.
func (c *Client) failedCRI(ctx context.Context) error {
	plugins, err := c.plugins(ctx)
	if err != nil {
		return nil //nolint:nilerr // it only adds a reason to an error that is returned anyway
	}
	var errs []error
	for _, p := range plugins {
		if p.GetInitErr() != nil && strings.Contains(p.Type+"."+p.ID, "cri") {
			errs = append(errs, fmt.Errorf("plugin %s.%s did not load: %s", p.Type, p.ID, p.InitErr.Message))
		}
	}
	return errors.Join(errs...)
}

// configPath is the config_path that the daemon claims: 1.x in CRI's verbose status, 2.4 and later as an export of the
// images plugin, the lines between not at all.
func (c *Client) configPath(ctx context.Context) string {
	if status, err := c.runtime.Status(ctx, &runtimeapi.StatusRequest{Verbose: true}); err == nil {
		var config struct {
			Registry struct {
				ConfigPath string `json:"configPath"`
			} `json:"registry"`
		}
		if json.Unmarshal([]byte(status.GetInfo()["config"]), &config) == nil && config.Registry.ConfigPath != "" {
			return config.Registry.ConfigPath
		}
	}
	plugins, err := c.plugins(ctx)
	if err != nil {
		return ""
	}
	for _, p := range plugins {
		if p.Type == "io.containerd.cri.v1" && p.ID == "images" {
			return p.Exports["RegistryConfigPath"]
		}
	}
	return ""
}

func (c *Client) plugins(ctx context.Context) ([]*introspectionapi.Plugin, error) {
	resp, err := c.ctrd.IntrospectionService().Plugins(ctx)
	if err != nil {
		return nil, err
	}
	return resp.Plugins, nil
}
