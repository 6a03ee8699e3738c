package supervised

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// dialTimeout bounds a connect to the socket, which takes no time unless the daemon has not accepted for long.
const dialTimeout = 2 * time.Second

// listener is the process that listens on the socket; its error is errNobody if there is none. The caller closes it.
func (m *Manager) listener(ctx context.Context) (*process, error) {
	conn, err := m.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	fd, err := control(conn, m.peerPidfd)
	switch {
	case errors.Is(err, unix.ENOPROTOOPT): // before Linux 6.5
		fd, err = m.peerByNumber(ctx, conn)
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENODATA):
		return nil, errNobody // it has ended since, and was waited for
	}
	if err != nil {
		return nil, fmt.Errorf("ask who listens on %s: %w", m.socket, err)
	}
	p, err := openProcess(fd)
	if errors.Is(err, errEnded) {
		return nil, errNobody
	}
	if err != nil {
		return nil, err
	}
	if p.comm != "containerd" {
		p.close()
		return nil, fmt.Errorf("%w: process %d on %s is %q", ErrNotContainerd, p.pid, m.socket, p.comm)
	}
	if p.takesAll() {
		p.close()
		return nil, fmt.Errorf("process %d: %w", p.pid, ErrTakesAll)
	}
	m.remember(p)
	return p, nil
}

func (m *Manager) dial(ctx context.Context) (*net.UnixConn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", m.socket)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return nil, errNobody
	case err != nil:
		return nil, fmt.Errorf("connect to containerd's socket: %w", err)
	}
	return conn.(*net.UnixConn), nil
}

// control asks something of a connection's descriptor.
func control(conn *net.UnixConn, ask func(fd int) (int, error)) (answer int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	if cerr := raw.Control(func(fd uintptr) { answer, err = ask(int(fd)) }); cerr != nil {
		return 0, cerr
	}
	return answer, err
}

// peerPidfd is a pidfd of the process that called listen(2).
func peerPidfd(fd int) (int, error) {
	return unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
}

// peerNumber is the number of that process, 0 if it is in no PID namespace of ours.
func peerNumber(fd int) (int, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// peerByNumber opens a pidfd where the kernel gives only a number, which may be another process's by the time. So it looks
// once more who listens, after that: if it is the same number, and the pidfd's process lives still, they lived at one time
// and are the same.
func (m *Manager) peerByNumber(ctx context.Context, conn *net.UnixConn) (fd int, err error) {
	pid, err := control(conn, peerNumber)
	if err != nil {
		return 0, err
	}
	if pid == 0 {
		return 0, ErrPIDNamespace
	}
	if fd, err = m.pidfdOpen(pid); err != nil {
		return 0, gone(err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	again, err := m.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer again.Close()
	now, err := control(again, peerNumber)
	if err == nil && (now != pid || !alive(fd)) {
		err = errNobody // another one is about to listen, or does
	}
	return fd, err
}

// gone makes ESRCH errNobody.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return errNobody
	}
	return err
}
