package rig

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// FreeAddr is an address of the loopback with a port from first to last that is free now, for a server that must come back
// on the same one. Who keeps to a range of their own is not in the way of others while theirs is down; the rig's is 20000 to
// 32767, below the range from which the kernel takes ports for outgoing connections (ip_local_port_range).
func FreeAddr(first, last int) (string, error) {
	return freePort(netip.AddrFrom4([4]byte{127, 0, 0, 1}), first, last)
}

// freeAddr replaces port 0 of an address of IPv4, or no address at all, by a port of the rig's own range that is free now.
// Another address is returned as it is.
func freeAddr(addr string) (string, error) {
	const first, last = 20000, 32767
	if addr == "" {
		return FreeAddr(first, last)
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
	return freePort(ip, first, last)
}

func freePort(ip netip.Addr, first, last int) (string, error) {
	const tries = 100
	var err error
	for range tries {
		n := first + rand.IntN(last-first+1)
		if err = tryBind(unix.SockaddrInet4{Port: n, Addr: ip.As4()}); err == nil {
			return netip.AddrPortFrom(ip, uint16(n)).String(), nil
		}
	}
	return "", fmt.Errorf("no free port on %s after %d tries: %w", ip, tries, err)
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
