package supervised

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// role is the environment variable that makes this test another program: a daemon, or what must run in a PID namespace.
const role = "HOTPLATE_TEST_ROLE"

func TestMain(m *testing.M) {
	switch name := os.Getenv(role); name {
	case "":
		goleak.VerifyTestMain(m)
	case "listens", "deaf", "hangs", "parent":
		daemon(name, os.Getenv("SOCKET"))
	default:
		inside(name)
	}
}

// daemon is a containerd that listens and nothing more; or is deaf to SIGTERM, which it notes in a file; or hangs before it
// listens; or only starts another one.
func daemon(how, socket string) {
	if dir := os.Getenv("HIDE"); dir != "" { // in a mount namespace of its own
		check(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		check(unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	}
	switch how {
	case "deaf":
		told := make(chan os.Signal, 1)
		signal.Notify(told, unix.SIGTERM)
		go func() {
			<-told
			check(os.WriteFile(socket+".told", nil, 0o644))
		}()
	case "hangs":
		check(unix.Pause())
	case "parent":
		cmd := command(filepath.Join(filepath.Dir(os.Getenv("PROGRAM")), "containerd"), os.Getenv("CHILD"), socket)
		check(cmd.Start())
		fmt.Println(cmd.Process.Pid)
		check(unix.Pause())
	}
	_ = os.Remove(socket)
	l, err := net.Listen("unix", socket)
	check(err)
	for {
		conn, err := l.Accept()
		check(err)
		conn.Close()
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// argv is the command line of daemons.
var argv = []string{"/usr/bin/containerd", "--config", "/etc/containerd/config.toml"}

// named is this test as a program that the kernel calls by a name.
func named(t testing.TB, name string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"containerd", name} {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, name)
}

// command makes a daemon.
func command(program, how, socket string) *exec.Cmd {
	cmd := exec.Command(program)
	cmd.Args = argv
	cmd.Env = append(os.Environ(), role+"="+how, "SOCKET="+socket, "PROGRAM="+program)
	cmd.Stderr = os.Stderr
	return cmd
}

// start starts a command, which ends with the test.
func start(t testing.TB, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(cmd) })
	return cmd
}

// end kills a command and waits for it. It may be called again.
func end(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// listen starts a daemon and waits until it listens.
func listen(t testing.TB, m *Manager, how string) *exec.Cmd {
	t.Helper()
	cmd := start(t, command(named(t, "containerd"), how, m.socket))
	eventually(t, "a daemon to listen", func() bool { return m.pid(t) == cmd.Process.Pid })
	return cmd
}

// pid is the number of who listens, or 0.
func (m *Manager) pid(t testing.TB) int {
	t.Helper()
	p, err := m.listener(t.Context())
	if err != nil {
		return 0
	}
	defer p.close()
	return p.pid
}

// manager makes a Manager with a socket of the test's.
func manager(t testing.TB) *Manager {
	t.Helper()
	dir, err := os.MkdirTemp("", "sv-") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m, err := newManager(Config{Socket: filepath.Join(dir, "containerd.sock")})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// oldKernel makes a Manager do as before Linux 6.5.
func (m *Manager) oldKernel() { m.peerPidfd = func(int) (int, error) { return 0, unix.ENOPROTOOPT } }

// kernels runs a test with both ways to find out who listens.
func kernels(t *testing.T, test func(t *testing.T, m *Manager)) {
	t.Run("SO_PEERPIDFD", func(t *testing.T) {
		m := manager(t)
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[0])
		defer unix.Close(pair[1])
		fd, err := peerPidfd(pair[0])
		if errors.Is(err, unix.ENOPROTOOPT) {
			t.Skip("this kernel is older than Linux 6.5, and has no SO_PEERPIDFD")
		}
		unix.Close(fd)
		test(t, m)
	})
	t.Run("SO_PEERCRED", func(t *testing.T) {
		m := manager(t)
		m.oldKernel()
		test(t, m)
	})
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !ok() {
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
