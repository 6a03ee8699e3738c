package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	versionapi "github.com/containerd/containerd/api/services/version/v1"

	"github.com/hotplate-dev/hotplate/hack/tools"
)

// startTimeout is how long a part may take until it answers.
const startTimeout = time.Minute

// ContainerdConfig describes a private containerd.
type ContainerdConfig struct {
	// Line is the release line, one of Lines.
	Line string
	// Dir keeps everything of the daemon: root, state, configuration, log and, if its path is short enough, the sockets.
	// It is created. It must be on a filesystem that overlayfs can use. It is not removed.
	Dir string
	// HostsDir is the CRI plugin's registry config_path. Empty leaves it unset.
	HostsDir string
	// ExtraConfig is TOML that is merged over the generated configuration, table by table. Its plugin names are those of
	// the line: version 2 names for 1.x, version 3 names for 2.x.
	ExtraConfig string
	// NoCRI does not wait for CRI, for configurations that containerd's CRI plugins refuse.
	NoCRI bool
	// Env is added to the daemon's environment, as NAME=VALUE. Proxy variables are not inherited.
	Env []string
}

// Containerd is a private daemon. Its methods may be called concurrently.
type Containerd struct {
	bin        string
	paths      containerdPaths
	socketsNew bool

	mu      sync.Mutex
	cfg     ContainerdConfig
	proc    *process
	version string
}

// StartContainerd starts a daemon and waits until its version and CRI services answer. ctx bounds the start alone. It
// needs root. The part is built first if it is not in the cache, which takes minutes.
func StartContainerd(ctx context.Context, cfg ContainerdConfig) (*Containerd, error) {
	c, err := newContainerd(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := c.Restart(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// newContainerd prepares a daemon that is not started yet.
func newContainerd(ctx context.Context, cfg ContainerdConfig) (*Containerd, error) {
	if !slices.Contains(Lines(), cfg.Line) {
		return nil, fmt.Errorf("no containerd line %q; there are %s", cfg.Line, strings.Join(Lines(), ", "))
	}
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("containerd's Dir %q is not an absolute path", cfg.Dir)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("containerd needs root")
	}
	bin, err := ensurePart(ctx, "containerd-"+cfg.Line)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("create containerd's directory: %w", err)
	}
	sockets, isNew, err := socketDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("create a directory for containerd's sockets: %w", err)
	}
	return &Containerd{bin: bin, cfg: cfg, socketsNew: isNew, paths: containerdPaths{
		root:    filepath.Join(cfg.Dir, "root"),
		state:   filepath.Join(cfg.Dir, "state"),
		private: filepath.Join(cfg.Dir, "private"),
		config:  filepath.Join(cfg.Dir, "config.toml"),
		log:     filepath.Join(cfg.Dir, "containerd.log"),
		grpc:    filepath.Join(sockets, "containerd.sock"),
		ttrpc:   filepath.Join(sockets, "containerd.sock.ttrpc"),
	}}, nil
}

// ensurePart returns the directory of a part's programs.
func ensurePart(ctx context.Context, name string) (string, error) {
	b, err := tools.NewBuilder(tools.Config{})
	if err != nil {
		return "", err
	}
	return b.Ensure(ctx, name)
}

// Address is the path of the daemon's socket. It stays the same across restarts.
func (c *Containerd) Address() string { return c.paths.grpc }

// LogPath is the file with the output of all runs of the daemon.
func (c *Containerd) LogPath() string { return c.paths.log }

// ConfigPath is the daemon's configuration file. Restart writes it anew.
func (c *Containerd) ConfigPath() string { return c.paths.config }

// Root is the daemon's root directory.
func (c *Containerd) Root() string { return c.paths.root }

// State is the daemon's state directory.
func (c *Containerd) State() string { return c.paths.state }

// Version is what the daemon's version service says, for example 2.4.2.
func (c *Containerd) Version() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

// PID is the process id of the daemon, or 0 when it does not run.
func (c *Containerd) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc == nil || !c.proc.running() {
		return 0
	}
	return c.proc.pid()
}

// Restart stops the daemon if it runs, applies the changes to its configuration and starts it on the same directories
// and socket. Containers keep running. Line and Dir cannot be changed.
func (c *Containerd) Restart(ctx context.Context, changes ...func(*ContainerdConfig)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc != nil {
		if err := c.proc.stop(ctx); err != nil {
			return err
		}
	}
	cfg := c.cfg
	for _, change := range changes {
		change(&cfg)
	}
	cfg.Line, cfg.Dir = c.cfg.Line, c.cfg.Dir
	c.cfg = cfg
	if err := c.writeConfig(); err != nil {
		return err
	}
	var err error
	c.proc, err = command{
		path:    filepath.Join(c.bin, "containerd"),
		args:    []string{"--config", c.paths.config},
		env:     cleanEnv(c.bin, cfg.Env),
		logPath: c.paths.log,
	}.start()
	if err != nil {
		return fmt.Errorf("start containerd %s: %w", cfg.Line, err)
	}
	return c.waitReady(ctx)
}

func (c *Containerd) writeConfig() error {
	text, err := daemonConfig(c.cfg, c.paths)
	if err != nil {
		return fmt.Errorf("configure containerd: %w", err)
	}
	if err := os.WriteFile(c.paths.config, text, 0o644); err != nil {
		return fmt.Errorf("configure containerd: %w", err)
	}
	return nil
}

func (c *Containerd) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	conn, err := dialUnix(c.paths.grpc)
	if err != nil {
		return err
	}
	defer conn.Close()
	return c.proc.waitReady(ctx, c.paths.log, func(ctx context.Context) error {
		// A call on a socket that nobody serves yet fails at once; one that hangs is asked again.
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		v, err := versionapi.NewVersionClient(conn).Version(ctx, &emptypb.Empty{})
		if err != nil {
			conn.ResetConnectBackoff()
			return fmt.Errorf("version service: %w", err)
		}
		c.version = v.GetVersion()
		if c.cfg.NoCRI {
			return nil
		}
		if _, err := runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
			return fmt.Errorf("CRI service: %w", err)
		}
		return nil
	})
}

func dialUnix(path string) (*grpc.ClientConn, error) {
	const maxMessage = 16 << 20 // containerd's own default
	conn, err := grpc.NewClient("unix://"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("dial %q: %w", path, err)
	}
	return conn, nil
}

// Kill ends the daemon with SIGKILL. Its containers and mounts stay, as after a crash; Restart starts it again.
func (c *Containerd) Kill() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc == nil {
		return nil
	}
	return c.proc.kill()
}

// Terminate ends the daemon with SIGTERM, as systemd does, or SIGKILL when it takes too long or ctx ends. Its containers and
// mounts stay; Restart starts it again.
func (c *Containerd) Terminate(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc == nil {
		return nil
	}
	return c.proc.stop(ctx)
}

// Stop ends the pods, the daemon with SIGTERM, or SIGKILL when it takes too long or ctx ends, then what is left of its
// containers and every mount below Dir. Restart starts the daemon again.
func (c *Containerd) Stop(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	if c.proc != nil {
		c.removePods(ctx)
		errs = append(errs, c.proc.stop(ctx))
	}
	killShims(c.paths.grpc)
	errs = append(errs, unmountUnder(c.cfg.Dir))
	return errors.Join(errs...)
}

// removePods lets containerd end its pods in order, so that their cgroups go as well. Where it cannot, because it does
// not run or its CRI is broken, the shims are killed later, which leaves only empty cgroups.
func (c *Containerd) removePods(ctx context.Context) {
	if !c.proc.running() || c.cfg.NoCRI {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	cri, err := DialCRI(ctx, c.paths.grpc)
	if err != nil {
		return
	}
	defer cri.Close()
	list, err := cri.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return
	}
	for _, pod := range list.GetItems() {
		_, _ = cri.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod.GetId()})
		_, _ = cri.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod.GetId()})
	}
}

// Close stops the daemon and removes its sockets. The other files stay for a look at them.
func (c *Containerd) Close() error {
	err := c.Stop(context.Background())
	if c.socketsNew {
		err = errors.Join(err, os.RemoveAll(filepath.Dir(c.paths.grpc)))
	}
	return err
}
