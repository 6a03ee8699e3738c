package rig

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// place is where a containerd runs: a Node, or what a Supervisor runs on.
type place interface {
	// enter returns the command line that runs argv there. It fails when there is no such place now.
	enter(argv ...string) ([]string, error)
	// env is the environment for it.
	env() []string
	// shared is one directory: here is its path for this process, there is its path for containerd.
	shared() (here, there string)
	// cgroup is the cgroup, in every hierarchy as containerd sees it, below which containers are to be. Empty: any.
	cgroup() string
	// daemon is the command line of containerd, and of ctr, without a command.
	daemon() (containerd, ctr []string)
	CRI(ctx context.Context) (*CRI, error)
}

// enterArgs runs what follows in the namespaces, given as options of nsenter, of a process.
func enterArgs(pid int, namespaces ...string) []string {
	return append(append([]string{"nsenter", "--target", strconv.Itoa(pid)}, namespaces...), "--")
}

// run runs a program in a place and returns its standard output. When it fails, the error has its standard error. When
// ctx ends, it is killed with what it started.
func run(ctx context.Context, p place, argv ...string) (string, error) {
	line, err := p.enter(argv...)
	if err != nil {
		return "", err
	}
	return runLine(ctx, line, p.env(), argv)
}

// runLine runs a command line; argv is what errors call it.
func runLine(ctx context.Context, line, env, argv []string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env, cmd.Dir = env, "/"
	// nsenter forks, since only a child is in another PID namespace: kill both.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// subdir makes a directory that only this name has, below the shared one.
func subdir(p place, name string) (here, there string, err error) {
	here, there = p.shared()
	here, there = filepath.Join(here, name), filepath.Join(there, name)
	if err := os.MkdirAll(filepath.Dir(here), 0o755); err != nil {
		return "", "", err
	}
	return here, there, os.Mkdir(here, 0o755)
}

// await calls check until it returns nil, or ctx ends; the error then has the last answer of check.
func await(ctx context.Context, what string, check func(context.Context) error) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; last answer: %w", what, ctx.Err(), err)
		}
	}
}
