package rig

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// superviseScript is all of the supervisor. As the first process of a PID namespace it needs a proc that shows it.
const superviseScript = `
if [ $$ = 1 ]; then
	mount --make-rprivate /
	mount -t proc proc /proc
fi
trap 'kill $daemon; wait $daemon; exit 0' TERM
while :; do
	setpriv --pdeathsig KILL "$@" &
	daemon=$!
	wait $daemon
	sleep 0.2
done
`

// SupervisorConfig describes a containerd that is kept running without systemd.
type SupervisorConfig struct {
	// ContainerdConfig describes the daemon.
	ContainerdConfig
	// PIDNamespace runs supervisor, daemon and containers in a PID and a mount namespace of their own.
	PIDNamespace bool
	// Wrapper is a program that is run with containerd's command line, which it should execute in the end. Empty: none.
	Wrapper string
}

// Supervisor is a plain loop that runs a private containerd and starts it again 200 ms after it ended, for whatever
// reason, on the same socket. Its methods may be called concurrently.
type Supervisor struct {
	// containerd's proc is the loop.
	containerd *Containerd
	isolated   bool
	wrapper    string
	cg         cgroup // of the containers

	mu        sync.Mutex
	sandboxes []*Sandboxed
}

// StartSupervisor starts the loop and waits until the daemon answers. ctx bounds the start alone. It needs root.
func StartSupervisor(ctx context.Context, cfg SupervisorConfig) (*Supervisor, error) {
	c, err := newContainerd(ctx, cfg.ContainerdConfig)
	if err != nil {
		return nil, err
	}
	cg, err := newCgroup()
	if err != nil {
		return nil, err
	}
	s := &Supervisor{containerd: c, isolated: cfg.PIDNamespace, wrapper: cfg.Wrapper, cg: cg}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Supervisor) start(ctx context.Context) error {
	c := s.containerd
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.writeConfig(); err != nil {
		return err
	}
	daemon, _ := s.daemon()
	if s.wrapper != "" {
		daemon = append([]string{s.wrapper}, daemon...)
	}
	cmd := command{
		path: "/bin/sh", args: append([]string{"-c", superviseScript, "supervisor"}, daemon...),
		env: s.env(), logPath: c.paths.log,
	}
	if s.isolated {
		cmd.namespaces = unix.CLONE_NEWPID | unix.CLONE_NEWNS
	}
	var err error
	if c.proc, err = cmd.start(); err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	return c.waitReady(ctx)
}

// Address is the path of the daemon's socket. It stays the same.
func (s *Supervisor) Address() string { return s.containerd.Address() }

// LogPath is the file with the output of all runs of the daemon.
func (s *Supervisor) LogPath() string { return s.containerd.LogPath() }

// ConfigPath is the daemon's configuration file, which is read at each start and not written again.
func (s *Supervisor) ConfigPath() string { return s.containerd.ConfigPath() }

// CRI connects to the daemon. The connection outlives restarts of it.
func (s *Supervisor) CRI(ctx context.Context) (*CRI, error) { return DialCRI(ctx, s.Address()) }

// PID is the daemon's process id for this process, or 0 while there is none.
func (s *Supervisor) PID() int {
	for _, pid := range childrenOf(s.containerd.PID()) {
		if commandName(pid) == "containerd" {
			return pid
		}
	}
	return 0
}

// WaitRespawn waits until another daemon than the one with this process id answers over CRI, and returns its process
// id.
func (s *Supervisor) WaitRespawn(ctx context.Context, old int) (pid int, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err = await(ctx, "the supervisor to start containerd again", func(ctx context.Context) error {
		if pid = s.PID(); pid == 0 || pid == old {
			return fmt.Errorf("its process id is %d", pid)
		}
		cri, err := s.CRI(ctx)
		if err != nil {
			return err
		}
		return cri.Close()
	})
	return pid, err
}

// StartCounter does what that of Node does.
func (s *Supervisor) StartCounter(ctx context.Context, name string) (*Counter, error) {
	return startCounter(ctx, s, name)
}

// RunSandboxed does what that of Node does: on this machine's network, and with HostPID in its PID namespace, or that
// of the supervisor. The program ends with Close.
func (s *Supervisor) RunSandboxed(ctx context.Context, cfg SandboxConfig) (*Sandboxed, error) {
	p, err := runSandboxed(ctx, s, cfg)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sandboxes = append(s.sandboxes, p)
	return p, nil
}

// Close ends the programs in sandboxes, the pods, the supervisor and the daemon. The files stay for a look at them.
func (s *Supervisor) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, p := range s.sandboxes {
		errs = append(errs, p.Kill(ctx))
	}
	return errors.Join(append(errs, s.containerd.Close(), s.cg.remove())...)
}

func (s *Supervisor) enter(argv ...string) ([]string, error) {
	if !s.isolated {
		return argv, nil
	}
	pid := s.containerd.PID()
	if pid == 0 {
		return nil, errors.New("the supervisor has ended")
	}
	return append(enterArgs(pid, "--mount", "--pid"), argv...), nil
}

func (s *Supervisor) env() []string { return cleanEnv(s.containerd.bin, s.containerd.cfg.Env) }

func (s *Supervisor) shared() (here, there string) {
	dir := filepath.Join(s.containerd.cfg.Dir, "pods")
	return dir, dir
}

func (s *Supervisor) cgroup() string { return "/" + filepath.Base(s.cg[0]) }

func (s *Supervisor) daemon() (containerd, ctr []string) {
	c := s.containerd
	return []string{filepath.Join(c.bin, "containerd"), "--config", c.paths.config},
		[]string{filepath.Join(c.bin, "ctr"), "--address", c.paths.grpc}
}
