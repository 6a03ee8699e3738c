package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
)

// SandboxConfig describes a program that runs as in a pod: with mount, PID, IPC and UTS namespaces of its own, a
// read-only root of nothing but what is mounted, NoNewPrivs, and containerd's list of hidden and read-only paths.
type SandboxConfig struct {
	// Program is a statically linked program of this machine, which the sandbox has at the path Argv[0]. Empty: the
	// program comes with one of the Mounts.
	Program string
	// Argv is the program's path in the sandbox and its arguments.
	Argv []string
	// Env is the whole environment, as NAME=VALUE.
	Env []string
	// Mounts are what the sandbox sees of the node.
	Mounts []SandboxMount
	// Caps are its capabilities, as "CAP_CHOWN". It cannot get others.
	Caps []string
	// UID is the user id, which is also the group id.
	UID uint32
	// HostPID shares the node's PID namespace.
	HostPID bool
	// OwnNetwork gives it a network namespace of its own, with a loopback interface alone.
	OwnNetwork bool
}

// SandboxMount is a directory or file of the node in a sandbox.
type SandboxMount struct {
	// Source is its path on the node. A directory is created if it is missing. Empty: an empty tmpfs.
	Source string
	// Target is its path in the sandbox. Empty: as Source.
	Target   string
	ReadOnly bool
}

// Sandboxed is a program in a sandbox. Its methods may be called concurrently.
type Sandboxed struct {
	name    string
	proc    *process    // nsenter, or runc itself, which end when the program does
	program *os.Process // the program itself; nil if it had ended before it was found
	log     string
}

// RunSandboxed starts a program in a sandbox on the node's network, and returns when it runs or has ended. It ends with
// the node. ctx bounds the start alone.
func (n *Node) RunSandboxed(ctx context.Context, cfg SandboxConfig) (*Sandboxed, error) {
	return runSandboxed(ctx, n, cfg)
}

func runSandboxed(ctx context.Context, p place, cfg SandboxConfig) (*Sandboxed, error) {
	if len(cfg.Argv) == 0 || !filepath.IsAbs(cfg.Argv[0]) {
		return nil, fmt.Errorf("the first of a sandbox's arguments %q is not an absolute path", cfg.Argv)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	b, err := newBundle(ctx, p, cfg)
	if err != nil {
		return nil, fmt.Errorf("make a sandbox for %s: %w", cfg.Argv[0], err)
	}
	line, err := p.enter("runc", "--root", filepath.Join(filepath.Dir(b.there), "runc"), "run", "--bundle", b.there,
		"--pid-file", filepath.Join(b.there, "pid"), b.name)
	if err != nil {
		return nil, err
	}
	program, err := exec.LookPath(line[0])
	if err != nil {
		return nil, err
	}
	s := &Sandboxed{name: cfg.Argv[0], log: filepath.Join(b.here, "output.log")}
	s.proc, err = command{path: program, args: line[1:], env: p.env(), logPath: s.log}.start()
	if err != nil {
		return nil, fmt.Errorf("start %s in a sandbox: %w", s.name, err)
	}
	s.proc.name = s.name + " in a sandbox"
	err = s.proc.waitReady(ctx, s.log, func(context.Context) error {
		pid, err := b.programPID(s.proc.pid())
		if err == nil {
			s.program, err = os.FindProcess(pid)
		}
		return err
	})
	if err == nil {
		return s, nil
	}
	if s.proc.running() {
		return nil, errors.Join(err, s.proc.kill())
	}
	// Without this file runc has not come so far as to start the program.
	if _, statErr := os.Stat(filepath.Join(b.here, "pid")); statErr != nil {
		return nil, err
	}
	return s, nil
}

const bootID = "/proc/sys/kernel/random/boot_id"

// bundle is a directory with a container for runc: here is its path for this process, there is its path for runc.
type bundle struct{ name, here, there string }

func newBundle(ctx context.Context, p place, cfg SandboxConfig) (bundle, error) {
	here, there := p.shared()
	if err := os.MkdirAll(here, 0o755); err != nil {
		return bundle{}, err
	}
	dir, err := os.MkdirTemp(here, "sandbox-")
	if err != nil {
		return bundle{}, err
	}
	b := bundle{name: filepath.Base(dir), here: dir, there: filepath.Join(there, filepath.Base(dir))}
	rootfs := filepath.Join(b.here, "rootfs")
	if err := os.Mkdir(rootfs, 0o755); err != nil {
		return bundle{}, err
	}
	if cfg.Program != "" {
		if err := linkOrCopy(ctx, cfg.Program, filepath.Join(rootfs, cfg.Argv[0])); err != nil {
			return bundle{}, err
		}
	}
	// Directories as with hostPath volumes of the type DirectoryOrCreate.
	const prepare = `cat ` + bootID + ` >"$0"; for path; do [ -e "$path" ] || mkdir -p "$path"; done`
	argv := append([]string{"sh", "-ec", prepare, filepath.Join(b.there, "boot_id")}, cfg.sources()...)
	if _, err := run(ctx, p, argv...); err != nil {
		return bundle{}, err
	}
	spec, err := cfg.spec(ctx, b, p.cgroup())
	if err != nil {
		return bundle{}, err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return bundle{}, err
	}
	return b, os.WriteFile(filepath.Join(b.here, "config.json"), text, 0o644)
}

func linkOrCopy(ctx context.Context, from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if os.Link(from, to) == nil {
		return nil // the same file is as good as a copy, for the root is read-only
	}
	if out, err := exec.CommandContext(ctx, "cp", "--", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w: %s", from, err, out)
	}
	return nil
}

func (cfg SandboxConfig) sources() []string {
	var sources []string
	for _, m := range cfg.Mounts {
		if m.Source != "" {
			sources = append(sources, m.Source)
		}
	}
	return sources
}

// spec is containerd's default for a container, with what the configuration says.
func (cfg SandboxConfig) spec(ctx context.Context, b bundle, cgroup string) (*oci.Spec, error) {
	rootfs := filepath.Join(b.there, "rootfs")
	opts := []oci.SpecOpts{
		oci.WithRootFSPath(rootfs), oci.WithRootFSReadonly(), oci.WithProcessArgs(cfg.Argv...), oci.WithProcessCwd("/"),
		oci.WithUIDGID(cfg.UID, cfg.UID), oci.WithCapabilities(cfg.Caps), oci.WithNoNewPrivileges,
		oci.WithoutMounts("/run"), oci.WithMounts(cfg.mounts()), oci.WithCgroup(path.Join("/", cgroup, b.name)),
	}
	if cfg.HostPID {
		opts = append(opts, oci.WithHostNamespace(specs.PIDNamespace))
	}
	if !cfg.OwnNetwork {
		opts = append(opts, oci.WithHostNamespace(specs.NetworkNamespace))
	}
	spec, err := oci.GenerateSpec(namespaces.WithNamespace(ctx, "rig"), nil, &containers.Container{ID: b.name}, opts...)
	if err != nil {
		return nil, err
	}
	spec.Process.Env = cfg.Env
	// A new proc shows the kernel's boot_id, which on a node is hidden by one that changes when the node boots. runc
	// refuses mounts below /proc, so a hook mounts it; and a copy, for systemd-nspawn's file has no name any more.
	spec.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{
		{Path: "/bin/mount", Args: []string{"mount", "--bind", filepath.Join(b.there, "boot_id"), rootfs + bootID}},
	}}
	return spec, nil
}

func (cfg SandboxConfig) mounts() []specs.Mount {
	var mounts []specs.Mount
	for _, m := range cfg.Mounts {
		if m.Source == "" {
			mounts = append(mounts, specs.Mount{
				Destination: m.Target, Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777"},
			})
			continue
		}
		options := []string{"rbind", "rprivate"}
		if m.ReadOnly {
			options = append(options, "ro")
		}
		mounts = append(mounts, specs.Mount{
			Destination: orDefault(m.Target, m.Source), Type: "bind", Source: m.Source, Options: options,
		})
	}
	return mounts
}

// programPID finds the program below runner, which is runc, or nsenter with runc as its child.
func (b bundle) programPID(runner int) (int, error) {
	text, err := os.ReadFile(filepath.Join(b.here, "pid"))
	if err != nil {
		return 0, err
	}
	want, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, err
	}
	for parents := []int{runner}; len(parents) > 0; parents = parents[1:] {
		outer, err := namespacePIDs(parents[0])
		if err != nil {
			continue // it has ended
		}
		for _, pid := range childrenOf(parents[0]) {
			// runc wrote the program's id as it is in its own PID namespace.
			if ids, err := namespacePIDs(pid); err == nil && ids[len(outer)-1] == want {
				return pid, nil
			}
			parents = append(parents, pid)
		}
	}
	return 0, fmt.Errorf("there is no process %d", want)
}

// Pid is the program's process id for this process, or 0 if it had ended when it was looked for.
func (s *Sandboxed) Pid() int {
	if s.program == nil {
		return 0
	}
	return s.program.Pid
}

// Output returns what the program has written to its standard output and error so far, at most the last megabyte of it.
func (s *Sandboxed) Output() string { return tailOf(s.log, 1<<20) }

// Running tells whether it runs.
func (s *Sandboxed) Running() bool { return s.proc.running() }

// Signal sends a signal to the program, not to what it has started. It is no error if it has ended.
func (s *Sandboxed) Signal(sig os.Signal) error {
	if s.program == nil {
		return nil
	}
	if err := s.program.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to %s: %w", sig, s.name, err)
	}
	return nil
}

// Kill ends it with SIGKILL, and in a PID namespace of its own all that it has started, and waits for it.
func (s *Sandboxed) Kill(ctx context.Context) error {
	if err := s.Signal(unix.SIGKILL); err != nil {
		return err
	}
	_, err := s.Wait(ctx)
	return err
}

// Wait waits until it has ended and returns its exit status, which is 128 and the signal's number if one ended it.
func (s *Sandboxed) Wait(ctx context.Context) (status int, err error) {
	select {
	case <-s.proc.done:
		return s.proc.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for %s to end: %w\n--- its output:\n%s", s.name, ctx.Err(), tail(s.log))
	}
}
