package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// netns is a network namespace that has no name: it goes when this process closes it or ends, and nobody else is in it.
// Its methods may be called concurrently.
type netns struct{ file *os.File }

const threadNetns = "/proc/thread-self/ns/net"

// newNetns makes a namespace with a loopback interface.
func newNetns(ctx context.Context) (*netns, error) {
	var ns *netns
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		file, err := os.Open(threadNetns)
		if err != nil {
			return err
		}
		ns = &netns{file}
		return nil
	})
	if err == nil {
		err = ns.ip(ctx, "link set lo up")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a network namespace: %w", err), ns.close())
	}
	return ns, nil
}

func (ns *netns) close() error {
	if ns == nil {
		return nil
	}
	if err := ns.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// onThread runs f, which may change the network namespace, on a thread of its own. A thread that does not find back ends.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good, unless all is well
		home, err := os.Open(threadNetns)
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		err = f()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			done <- errors.Join(err, fmt.Errorf("return to the network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

// do runs f on a thread in the namespace. What f starts on other threads is not there. A nil namespace is this
// process's.
func (ns *netns) do(f func() error) error {
	if ns == nil {
		return f()
	}
	return onThread(func() error {
		if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
		return f()
	})
}

// path is where processes that see this one find the namespace.
func (ns *netns) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.file.Fd()) }

// enter is the command line that runs argv in the namespace, in the same process.
func (ns *netns) enter(argv ...string) []string {
	if ns == nil {
		return argv
	}
	return append([]string{"nsenter", "--net=" + ns.path(), "--"}, argv...)
}

// ip runs commands of ip(8) in the namespace, up to the first that fails.
func (ns *netns) ip(ctx context.Context, commands ...string) error {
	line := ns.enter("ip", "-batch", "-")
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// sysctl sets a variable of the namespace, which is below net.
func (ns *netns) sysctl(name, value string) error {
	path := "/proc/sys/net/" + name
	return ns.do(func() error { return os.WriteFile(path, []byte(value), 0o644) })
}

// dial connects from the namespace. The address is one of IP, since names are looked up elsewhere.
func (ns *netns) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if err := literal(address); ns != nil && err != nil {
		return nil, err
	}
	var conn net.Conn
	err := ns.do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// listen listens in the namespace on an address of IP. It waits for up to a second for a port that is taken: where a
// listener was closed, a child that was being started at that moment keeps a copy of it until it executes its program.
func (ns *netns) listen(address string) (net.Listener, error) {
	if err := literal(address); ns != nil && err != nil {
		return nil, err
	}
	const tries, pause = 100, 10 * time.Millisecond
	var l net.Listener
	var err error
	for range tries {
		err = ns.do(func() (err error) {
			l, err = net.Listen("tcp", address)
			return err
		})
		if !errors.Is(err, unix.EADDRINUSE) {
			break
		}
		time.Sleep(pause)
	}
	return l, err
}

func literal(address string) error {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return fmt.Errorf("an address in another network namespace: %w", err)
	}
	return nil
}
