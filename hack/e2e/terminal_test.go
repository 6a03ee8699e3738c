//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// onTerminal runs a program with a terminal as its output, and returns what it wrote there.
func (n *node) onTerminal(path string, args ...string) string {
	n.t.Helper()
	master, slave, err := terminal()
	if err != nil {
		n.t.Fatal(err)
	}
	defer master.Close()
	ctx, cancel := context.WithTimeout(n.t.Context(), waitLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = append(n.environ(), "TERM=xterm"), slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	slave.Close()
	// Reading fails with EIO once nobody has the other end open.
	out, _ := io.ReadAll(master)
	n.say(string(out))
	if err := cmd.Wait(); err != nil {
		n.t.Errorf("%s %v: %v\n%s", path, args, err, out)
	}
	return string(out)
}

// terminal opens a pseudo terminal (pts(4)) of 120 columns.
func terminal() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, fmt.Errorf("name the terminal: %w", err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	return master, slave, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 120})
}
