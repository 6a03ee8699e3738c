package supervised

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// drainTimeout is how long output may still come after a program has ended.
const drainTimeout = 5 * time.Second

// RunOnHost runs a program here, with an environment of nothing but PATH, in the directory /. It is ErrCannotCheck where that
// is not the program that the daemon sees at this path, and where a file of Binds cannot be shown to it: only the one after
// --config in Argv can, and only for a daemon whose configuration does not import its own directory. A caller that dies takes
// the program along.
func (m *Manager) RunOnHost(ctx context.Context, c systemd.Command) (systemd.Result, error) {
	if len(c.Argv) == 0 || !filepath.IsAbs(c.Argv[0]) {
		return systemd.Result{}, fmt.Errorf("%w: the path of the program in %q is not known", ErrCannotCheck, c.Argv)
	}
	s, err := newStage(c)
	if err != nil {
		return systemd.Result{}, err
	}
	if err := m.seen(ctx, c.Argv[0], s.config); err != nil {
		return systemd.Result{}, err
	}
	if err := s.put(); err != nil {
		return systemd.Result{}, err
	}
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = systemd.DefaultRunTimeout
	}
	result, err := run(ctx, s.argv, timeout)
	if err = errors.Join(err, s.end(&result)); err != nil {
		return result, fmt.Errorf("run %s: %w", c.Argv[0], err)
	}
	return result, nil
}

// seen looks whether the daemon sees the same files at these paths, as far as the kernel lets us know that. Without a
// daemon, or without capabilities, the paths are believed if there is something.
func (m *Manager) seen(ctx context.Context, program, config string) error {
	if _, err := os.Stat(program); err != nil {
		return fmt.Errorf("%w: containerd's own program is needed for that: %w", ErrCannotCheck, err)
	}
	p, err := m.listener(ctx)
	if errors.Is(err, errNobody) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.close()
	for _, path := range []string{program, config} {
		if path != "" && !p.sees(path) && alive(p.fd) {
			return fmt.Errorf("%w: containerd (process %d) has another file at %s than hotplate", ErrCannotCheck, p.pid, path)
		}
	}
	return nil
}

// sees tells whether a path leads the process where it leads us, or where there is nothing, whether its directory does.
// What must not be known is believed.
func (p *process) sees(path string) bool {
	root := filepath.Join("/proc", strconv.Itoa(p.pid), "root")
	for ; ; path = filepath.Dir(path) {
		here, errHere := os.Stat(path)
		there, errThere := os.Stat(root + path)
		switch {
		case errors.Is(errThere, fs.ErrPermission):
			return true
		case errHere == nil && errThere == nil:
			return os.SameFile(here, there)
		case !errors.Is(errHere, fs.ErrNotExist) || !errors.Is(errThere, fs.ErrNotExist):
			return false
		}
	}
}

// run runs a program to its end, and bounds its time and its output.
func run(ctx context.Context, argv []string, timeout time.Duration) (systemd.Result, error) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(bounded, argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	cmd.WaitDelay = drainTimeout
	var stdout, stderr output
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// The kernel takes the end of the thread that started it for that of its parent (prctl(2)).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	err := cmd.Run()
	r := systemd.Result{
		Stdout: stdout.kept, Stderr: stderr.kept,
		Truncated: stdout.truncated || stderr.truncated || errors.Is(err, exec.ErrWaitDelay),
	}
	exit := (*exec.ExitError)(nil)
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return r, nil
	case ctx.Err() != nil:
		return r, ctx.Err()
	case bounded.Err() != nil:
		return r, fmt.Errorf("it had not ended after %v", timeout)
	case errors.As(err, &exit) && exit.Exited():
		r.ExitCode = exit.ExitCode()
		return r, nil
	case errors.As(err, &exit):
		return r, fmt.Errorf("it was killed: %w", err)
	case errors.Is(err, fs.ErrNotExist): // the program itself was seen
		return r, fmt.Errorf("%w: what it is linked with is not here: %w", ErrCannotCheck, err)
	}
	return r, fmt.Errorf("%w: %w", ErrCannotCheck, err) // it was not started
}

// output keeps the beginning of what is written to it.
type output struct {
	kept      []byte
	truncated bool
}

func (o *output) Write(p []byte) (int, error) {
	keep := p[:min(len(p), systemd.MaxOutput-len(o.kept))]
	o.truncated = o.truncated || len(keep) < len(p)
	o.kept = append(o.kept, keep...)
	return len(p), nil
}
