package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// grace is how long a process may take to end after SIGTERM.
const grace = 10 * time.Second

// command is what to run.
type command struct {
	path string
	args []string
	env  []string
	// logPath gets the standard output and error, appended.
	logPath string
	// namespaces are those that it gets anew, as flags of clone(2). In a PID namespace of its own everything that it
	// started dies with it.
	namespaces uintptr
}

// process is a running child. Its methods may be called concurrently.
type process struct {
	cmd  *exec.Cmd
	name string
	// done is closed when the child has been waited for; cmd.ProcessState is set before.
	done chan struct{}
}

// start runs the command in a process group of its own, so that a Ctrl-C on the terminal reaches only us and teardown
// stays in order. The kernel kills it when this process dies, whatever the reason.
func (c command) start() (*process, error) {
	log, err := os.OpenFile(c.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(c.path, c.args...)
	cmd.Env = c.env
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL, Cloneflags: c.namespaces}
	p := &process{cmd: cmd, name: c.path, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The parent death signal is sent when the starting thread ends (prctl(2)), so keep it for as long as the child
		// lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // the error is that of ProcessState
		close(p.done)
	}()
	err = <-started
	if err := errors.Join(err, log.Close()); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// stop asks the process to end and waits; it kills it after the grace time or when ctx ends. It is no error if the
// process has ended already.
func (p *process) stop(ctx context.Context) error {
	if err := p.signal(unix.SIGTERM); err != nil {
		return err
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return p.kill()
}

// kill ends the process with SIGKILL and waits for it.
func (p *process) kill() error {
	if err := p.signal(unix.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

func (p *process) signal(sig os.Signal) error {
	err := p.cmd.Process.Signal(sig)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to %s (pid %d): %w", sig, p.name, p.pid(), err)
	}
	return nil
}

// poll is how often waits look at their condition.
const poll = 10 * time.Millisecond

// waitReady calls check until it returns nil. It gives up when the process ends or ctx does; the error then has the
// last answer of check and the end of the log.
func (p *process) waitReady(ctx context.Context, logPath string, check func(context.Context) error) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
			continue
		case <-p.done:
			err = errors.New("it ended: " + p.cmd.ProcessState.String())
		case <-ctx.Done():
			err = fmt.Errorf("%w; last answer: %w", ctx.Err(), err)
		}
		return fmt.Errorf("wait for %s to be ready: %w\n--- end of %s:\n%s", p.name, err, logPath, tail(logPath))
	}
}

// tail returns the last few kilobytes of a log, or why it cannot.
func tail(path string) string { return tailOf(path, 4<<10) }

func tailOf(path string, size int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	text, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-size), size))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// cleanEnv is our environment without what would let the machine's set-up change a part's behaviour, followed by extra.
// dir with the part's own programs comes first in PATH.
func cleanEnv(dir string, extra []string) []string {
	dropped := []string{"http_proxy", "https_proxy", "no_proxy", "all_proxy", "notify_socket", "listen_fds", "path"}
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(dropped, strings.ToLower(name)) || strings.HasPrefix(name, "OTEL_")
	})
	env = append(env, "PATH="+dir+":"+os.Getenv("PATH"))
	return append(env, extra...)
}
