package supervised

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// program writes a shell script.
func program(t *testing.T, text string) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "containerd"), "#!/bin/sh\n"+text, 0o755)
}

func write(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRun(t *testing.T) {
	t.Setenv("SECRET", "x")
	m := manager(t)
	r, err := m.RunOnHost(t.Context(), systemd.Command{Argv: []string{
		program(t, `echo "$1"; pwd; env | grep -v -e ^_= -e ^PWD= -e ^SHLVL= -e ^OLDPWD=; echo bad >&2; exit 3`), "a b",
	}})
	want := systemd.Result{
		ExitCode: 3, Stderr: []byte("bad\n"),
		Stdout: []byte("a b\n/\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"),
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("it ended as (-want +got):\n%s", diff)
	}
}

func TestRunThatDoesNotEndByItself(t *testing.T) {
	m := manager(t)
	r, err := m.RunOnHost(t.Context(), systemd.Command{Argv: []string{program(t, "echo first; exec sleep 1000")}, Timeout: time.Second})
	if err == nil || !strings.Contains(err.Error(), "had not ended after 1s") {
		t.Errorf("one that takes too long is %q, %v", r.Stdout, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.RunOnHost(ctx, systemd.Command{Argv: []string{program(t, "exec sleep 1000")}}); !errors.Is(err, context.Canceled) {
		t.Errorf("one that is not waited for is %v", err)
	}
	if _, err := m.RunOnHost(t.Context(), systemd.Command{Argv: []string{program(t, "kill -9 $$")}}); err == nil ||
		!strings.Contains(err.Error(), "killed") {
		t.Errorf("one that is killed is %v", err)
	}
}

func TestRunThatWritesTooMuch(t *testing.T) {
	m := manager(t)
	r, err := m.RunOnHost(t.Context(), systemd.Command{
		Argv: []string{program(t, fmt.Sprintf("head -c %d /dev/zero; echo end >&2", systemd.MaxOutput+1))}, Timeout: time.Minute,
	})
	if err != nil || len(r.Stdout) != systemd.MaxOutput || string(r.Stderr) != "end\n" || !r.Truncated {
		t.Errorf("%d bytes, %q, truncated %t, %v", len(r.Stdout), r.Stderr, r.Truncated, err)
	}
}

func TestProgramThatIsNotHere(t *testing.T) {
	m := manager(t)
	listen(t, m, "listens")
	for _, path := range []string{"containerd", "/no/such/containerd", write(t, filepath.Join(t.TempDir(), "x"), "#!/no/such/sh\n", 0o755),
		write(t, filepath.Join(t.TempDir(), "x"), "#!/bin/sh\n", 0o644)} {
		if _, err := m.RunOnHost(t.Context(), systemd.Command{Argv: []string{path}}); !errors.Is(err, ErrCannotCheck) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// config is a directory with a configuration, and a candidate elsewhere.
type config struct {
	*testing.T
	*Manager
	dir, file, candidate, program string
}

// dump is a program that prints what it finds at the paths of its configuration.
const dump = `test "$1" = --config || exit 9
echo "$2:"; cat "$2"; cd "$(dirname "$2")"; cat conf.d/*.toml; ls -A; echo "error in $2" >&2`

func newConfig(t *testing.T, old, text string) *config {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "etc")
	c := &config{T: t, Manager: manager(t), dir: dir, file: filepath.Join(dir, "config.toml"), program: program(t, dump)}
	write(t, c.file, old, 0o644)
	write(t, filepath.Join(dir, "conf.d/10.toml"), "# drop-in\n", 0o644)
	c.candidate = write(t, filepath.Join(t.TempDir(), "candidate"), text, 0o600)
	return c
}

func (c *config) run(config, target string) (systemd.Result, error) {
	c.Helper()
	r, err := c.RunOnHost(c.Context(), systemd.Command{
		Argv: []string{c.program, "--config", config, "config", "dump"}, Binds: []systemd.Bind{{Source: c.candidate, Target: target}},
	})
	if _, serr := os.Lstat(filepath.Join(c.dir, candidate)); !errors.Is(serr, os.ErrNotExist) {
		c.Errorf("the candidate is left: %v", serr)
	}
	return r, err
}

func TestStage(t *testing.T) {
	c := newConfig(t, "old\n", "imports = ['conf.d/*.toml']\n")
	write(t, filepath.Join(c.dir, candidate), "left by a crash", 0o644)
	r, err := c.run(c.file, c.file)
	if err != nil {
		t.Fatal(err)
	}
	want := c.file + ":\nimports = ['conf.d/*.toml']\n# drop-in\n.hotplate-candidate\nconf.d\nconfig.toml\n"
	if string(r.Stdout) != want || string(r.Stderr) != "error in "+c.file+"\n" {
		t.Errorf("it printed %s%s", r.Stdout, r.Stderr)
	}
	if data, err := os.ReadFile(c.file); err != nil || string(data) != "old\n" {
		t.Errorf("the original is %q, %v", data, err)
	}
}

// TestStageBesideALink has a configuration that is a link, whose relative imports are beside the link.
func TestStageBesideALink(t *testing.T) {
	c := newConfig(t, "", "imports = ['conf.d/*.toml']\n")
	real := write(t, filepath.Join(t.TempDir(), "real.toml"), "old\n", 0o644)
	if err := errors.Join(os.Remove(c.file), os.Symlink(real, c.file)); err != nil {
		t.Fatal(err)
	}
	r, err := c.run(c.file, real)
	if err != nil || !strings.Contains(string(r.Stdout), "# drop-in") {
		t.Errorf("it printed %s, %v", r.Stdout, err)
	}
	write(t, c.candidate, "imports = ['"+real+"']\n", 0o600)
	if _, err := c.run(c.file, real); !errors.Is(err, ErrCannotCheck) {
		t.Errorf("an import of the file that the link leads to is %v", err)
	}
}

// TestPlainRunTakesLeftoverAway is about a candidate that a crash has left.
func TestPlainRunTakesLeftoverAway(t *testing.T) {
	c := newConfig(t, "old\n", "")
	write(t, filepath.Join(c.dir, candidate), "left by a crash", 0o644)
	r, err := c.RunOnHost(t.Context(), systemd.Command{Argv: []string{c.program, "--config", c.file}})
	if err != nil || !strings.HasSuffix(string(r.Stdout), "# drop-in\nconf.d\nconfig.toml\n") {
		t.Errorf("it printed %s, %v", r.Stdout, err)
	}
}

func TestWhatCannotBeStaged(t *testing.T) {
	for name, test := range map[string]struct {
		text   string                 // of the candidate
		target func(c *config) string // empty: the configuration
	}{
		"a drop-in":                       {"", func(c *config) string { return filepath.Join(c.dir, "conf.d/10.toml") }},
		"a file that is not there":        {"", func(c *config) string { return filepath.Join(c.dir, "other.toml") }},
		"imports of its own directory":    {"imports = ['*.toml']", nil},
		"imports of any name":             {"imports = ['*']", nil},
		"imports of the candidate's name": {"imports = ['.hot*']", nil},
		"an import of itself":             {"imports = ['conf.d/../config.toml']", nil},
		"an import of an import":          {"imports = ['sub/a.toml']", nil},
		"an import that is not there":     {"imports = ['missing.toml']", nil},
		"a broken import":                 {"imports = ['broken.toml']", nil},
		"no TOML":                         {"imports = [", nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := newConfig(t, "old\n", test.text)
			write(t, filepath.Join(c.dir, "sub/a.toml"), "imports = ['b.toml', 'a.toml']", 0o644)
			write(t, filepath.Join(c.dir, "sub/b.toml"), "imports = ['../*.toml']", 0o644)
			write(t, filepath.Join(c.dir, "broken.toml"), "secret = hunter2", 0o644)
			target := c.file
			if test.target != nil {
				target = test.target(c)
			}
			_, err := c.run(c.file, target)
			if !errors.Is(err, ErrCannotCheck) {
				t.Errorf("it is %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("it tells a secret: %v", err)
			}
		})
	}
}

// TestOtherFiles has a daemon that does not see the files which are here.
func TestOtherFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a mount namespace needs root")
	}
	for name, test := range map[string]struct {
		hidden func(c *config) string
		remove bool // the file is not here either
		ok     bool
	}{
		"another program":            {hidden: func(c *config) string { return filepath.Dir(c.program) }},
		"another configuration":      {hidden: func(c *config) string { return c.dir }},
		"another directory":          {hidden: func(c *config) string { return c.dir }, remove: true},
		"the same":                   {hidden: func(c *config) string { return filepath.Join(c.dir, "conf.d") }, ok: true},
		"the same, and no such file": {hidden: func(c *config) string { return filepath.Join(c.dir, "conf.d") }, remove: true, ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newConfig(t, "old\n", "")
			if test.remove {
				if err := os.Remove(c.file); err != nil {
					t.Fatal(err)
				}
			}
			cmd := command(named(t, "containerd"), "listens", c.socket)
			cmd.Env = append(cmd.Env, "HIDE="+test.hidden(c))
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
			start(t, cmd)
			await(t, c.Manager, 0)
			_, err := c.RunOnHost(t.Context(), systemd.Command{Argv: []string{c.program, "--config", c.file}})
			if test.ok && err != nil || !test.ok && (!errors.Is(err, ErrCannotCheck) || !strings.Contains(err.Error(), "has another file at")) {
				t.Errorf("it is %v", err)
			}
		})
	}
}
