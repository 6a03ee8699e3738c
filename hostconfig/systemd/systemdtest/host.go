package systemdtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// Program is a program of the node. ctx ends when it is to end.
type Program func(ctx context.Context, c systemd.Command) systemd.Result

// missing is what systemd says of a program that is not there.
const missing = 203

// exec runs a program of the node to its end. It needs f.mu not to be held.
func (f *Fake) exec(ctx context.Context, c systemd.Command) systemd.Result {
	program, args := c.Argv[0], c.Argv[1:]
	if p := f.Programs[program]; p != nil {
		return p(ctx, c)
	}
	switch program {
	case "/bin/true", "/bin/sync":
		return systemd.Result{}
	case "/bin/false":
		return systemd.Result{ExitCode: 1}
	case "/bin/echo":
		return systemd.Result{Stdout: []byte(strings.Join(args, " ") + "\n")}
	case "/bin/sleep":
		return sleep(ctx, args)
	case "/bin/cat", "/bin/cp", "/bin/ln", "/bin/mv", "/bin/rm":
		return f.files(program, args)
	case "/usr/bin/sha256sum":
		if len(args) == 1 && args[0] != "--version" {
			_, err := os.ReadFile(f.local(args[0]))
			return failure(err)
		}
		return failure(f.checkSums(args[len(args)-1]))
	case "/bin/kill":
		return f.kill(args)
	case "/bin/systemctl":
		return f.systemctl(args)
	}
	return systemd.Result{ExitCode: missing}
}

func failure(err error) systemd.Result {
	if err == nil {
		return systemd.Result{}
	}
	return systemd.Result{ExitCode: 1, Stderr: []byte(err.Error() + "\n")}
}

func sleep(ctx context.Context, args []string) systemd.Result {
	seconds, err := strconv.ParseFloat(args[0], 64)
	if err != nil {
		return failure(err)
	}
	t := time.NewTimer(time.Duration(seconds * float64(time.Second)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return systemd.Result{}
}

// files does to the files of the node what the program does, as far as hotplate uses it.
func (f *Fake) files(program string, args []string) systemd.Result {
	if args[0] == "--version" {
		return systemd.Result{Stdout: []byte(program + "\n")}
	}
	var paths []string
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			paths = append(paths, f.local(a))
		}
	}
	switch program {
	case "/bin/cat":
		content, err := os.ReadFile(paths[0])
		if err != nil {
			return failure(err)
		}
		return systemd.Result{Stdout: content}
	case "/bin/cp":
		if _, err := os.Stat(paths[1]); err == nil && slices.Contains(args, "-n") {
			return systemd.Result{}
		}
		return failure(copyFile(paths[0], paths[1]))
	case "/bin/ln":
		if err := os.Remove(paths[1]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return failure(err)
		}
		return failure(os.Link(paths[0], paths[1]))
	case "/bin/mv":
		return failure(os.Rename(paths[0], paths[1]))
	}
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return failure(err)
		}
	}
	return systemd.Result{}
}

// copyFile is cp -p.
func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, content, info.Mode().Perm()); err != nil {
		return err
	}
	if err := os.Chmod(to, info.Mode()); err != nil {
		return err
	}
	return os.Chtimes(to, info.ModTime(), info.ModTime())
}

// checkSums is sha256sum --check.
func (f *Fake) checkSums(file string) error {
	list, err := os.ReadFile(f.local(file))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(list)) {
		sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		content, err := os.ReadFile(f.local(name))
		if err != nil {
			return err
		}
		if fmt.Sprintf("%x", sha256.Sum256(content)) != sum {
			return fmt.Errorf("%s: FAILED", name)
		}
	}
	return nil
}

// kill is kill -9 of a main process.
func (f *Fake) kill(args []string) systemd.Result {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range f.units {
		if strconv.Itoa(u.pid) == args[len(args)-1] {
			u.ended("signal", 0, 9)
			return systemd.Result{}
		}
	}
	return failure(errors.New("no such process"))
}

// systemctl understands what systemd.RestartUnit says, and what goes without --no-block too.
func (f *Fake) systemctl(args []string) systemd.Result {
	if args[0] == "--version" {
		return systemd.Result{Stdout: []byte("systemd 252\n")}
	}
	block := args[0] != "--no-block"
	if !block {
		args = args[1:]
	}
	if len(args) != 2 {
		return failure(fmt.Errorf("systemctl %q is not in the fake", args))
	}
	verb, name := args[0], args[1]
	result := make(chan string, 1)
	f.mu.Lock()
	u, err := f.find(name)
	if err == nil {
		switch verb {
		case "reset-failed":
			f.resetFailed(name)
			result <- systemd.ResultDone
		case "restart":
			u.restart(result)
		case "start":
			u.start(result)
		case "stop":
			u.stop(result)
		default:
			err = fmt.Errorf("systemctl %s is not in the fake", verb)
		}
	}
	f.mu.Unlock()
	if err != nil || !block {
		return failure(err)
	}
	select {
	case r := <-result:
		if r != systemd.ResultDone {
			return failure(fmt.Errorf("the job ended as %s", r))
		}
		return systemd.Result{}
	case <-f.ctx.Done():
		return failure(f.ctx.Err())
	}
}

// RunOnHost is as a Manager's, with the programs that a Fake has.
func (f *Fake) RunOnHost(ctx context.Context, c systemd.Command) (systemd.Result, error) {
	if err := c.Validate(); err != nil {
		return systemd.Result{}, err
	}
	if err := f.before(ctx, "RunOnHost", c.Argv[0]); err != nil {
		return systemd.Result{}, err
	}
	if c.Timeout <= 0 {
		c.Timeout = systemd.DefaultRunTimeout
	}
	limited, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	r := f.exec(limited, c)
	var err error
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case limited.Err() != nil:
		err = fmt.Errorf("it had not ended after %v", c.Timeout)
	case r.ExitCode == missing:
		err = systemd.ErrNotExecutable
	default:
		err = f.after("RunOnHost", c.Argv[0])
	}
	if err != nil {
		return r, fmt.Errorf("run %s on the host: %w", c.Argv[0], err)
	}
	return r, nil
}

// Executable is as a Manager's.
func (f *Fake) Executable(ctx context.Context, path string) error {
	_, err := f.RunOnHost(ctx, systemd.Command{Name: "try", Argv: []string{path, "--version"}})
	return err
}
