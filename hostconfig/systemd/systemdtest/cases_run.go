package systemdtest

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

func runOnHost(t *testing.T, n Node) {
	s := newScene(t, n)
	file := filepath.Join(s.Dir(), "file with a space")
	s.write(file, "content\n")
	run := func(argv ...string) (systemd.Result, error) {
		return s.sys.RunOnHost(s.ctx, systemd.Command{Name: "test", Argv: argv})
	}
	if r, err := run("/bin/cat", file); err != nil || r.ExitCode != 0 || string(r.Stdout) != "content\n" ||
		len(r.Stderr) != 0 || r.Truncated {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := run("/bin/cat", file+"s"); err != nil || r.ExitCode != 1 || len(r.Stderr) == 0 || len(r.Stdout) != 0 {
		t.Errorf("a command that fails: %+v, %v", r, err)
	}
	if r, err := run("/bin/true"); err != nil || r.ExitCode != 0 || len(r.Stdout)+len(r.Stderr) != 0 {
		t.Errorf("a silent command: %+v, %v", r, err)
	}
	if r, err := run("/bin/nowhere"); !errors.Is(err, systemd.ErrNotExecutable) {
		t.Errorf("a program that is not there: %+v, %v", r, err)
	}
	if err := s.sys.Executable(s.ctx, "/bin/cp"); err != nil {
		t.Error(err)
	}
	if err := s.sys.Executable(s.ctx, "/bin/nowhere"); !errors.Is(err, systemd.ErrNotExecutable) {
		t.Error(err)
	}
	if r, err := run("/bin/echo", "$HOME"); err == nil {
		t.Errorf("a $ was let through: %+v", r)
	}
}

func runOnHostIsStopped(t *testing.T, n Node) {
	s := newScene(t, n)
	c := systemd.Command{Name: "test", Argv: []string{"/bin/sleep", "3600"}, Timeout: time.Second}
	if r, err := s.sys.RunOnHost(s.ctx, c); err == nil {
		t.Errorf("after its timeout: %+v", r)
	}
	short, cancel := context.WithTimeout(s.ctx, time.Second)
	defer cancel()
	c.Timeout = time.Hour
	if r, err := s.sys.RunOnHost(short, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the context's end: %+v, %v", r, err)
	}
}
