package rig

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// FreeAddr replaces port 0 of a loopback address of IPv4, or no address at all, by a port of it that is free now, for a
// server that cannot tell which port it got or that must come back on the same one. Another address is returned as it
// is. The port is below the range from which the kernel takes ports for outgoing connections (ip_local_port_range), so
// that none of those takes it while the server is down.
func FreeAddr(addr string) (string, error) {
	const first, last, tries = 20000, 32767, 100
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("address to listen on: %w", err)
	}
	if port != "0" {
		return addr, nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.Is4() {
		return "", fmt.Errorf("address to listen on: %q is not an address of IPv4", host)
	}
	for range tries {
		n := first + rand.IntN(last-first+1)
		if err = tryBind(unix.SockaddrInet4{Port: n, Addr: ip.As4()}); err == nil {
			return net.JoinHostPort(host, strconv.Itoa(n)), nil
		}
	}
	return "", fmt.Errorf("no free port on %q after %d tries: %w", host, tries, err)
}

// tryBind tells whether somebody could listen on the address. It does not listen itself: a child that another goroutine
// is starting has a copy of every socket until it executes its program, and a copy of one that listens keeps the port
// for that time, although it is closed here.
func tryBind(addr unix.SockaddrInet4) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) // as net.Listen does
	if err == nil {
		err = unix.Bind(fd, &addr)
	}
	return errors.Join(err, unix.Close(fd))
}
