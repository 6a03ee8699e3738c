package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/godbus/dbus/v5"
)

var (
	// ErrUnreachable is in the error of every call when neither socket leads to the node's systemd.
	ErrUnreachable = errors.New("the node's systemd cannot be reached")
	// ErrNoUnit means that systemd knows no such unit, or that the process belongs to none.
	ErrNoUnit = errors.New("systemd knows no such unit")
	// ErrUnitExists means that a unit of this name is loaded already, so a second one was not made.
	ErrUnitExists = errors.New("a unit of this name is loaded already")
	// ErrConnectionLost means that the connection ended after the request was sent. Whether systemd acted on it must
	// be read from the unit.
	ErrConnectionLost = errors.New("the connection to systemd was lost; whether it did what it was asked is not known")
	// ErrResultLost means that a job has ended, or is no longer known, without its result having arrived: systemd
	// re-executed meanwhile. How it ended must be read from the unit.
	ErrResultLost = errors.New("the job has ended, but its result was lost (systemd was re-executed)")
	// ErrNotExecutable means that the host has no such program, or may not execute it.
	ErrNotExecutable = errors.New("no such program on the host, or not executable")
	// ErrClosed is returned by a Manager after Close.
	ErrClosed = errors.New("systemd: manager is closed")
)

// Names of D-Bus errors, from systemd's src/libsystemd/sd-bus/bus-common-errors.h (252) and the D-Bus specification.
const (
	nameNoSuchUnit   = "org.freedesktop.systemd1.NoSuchUnit"
	nameNoUnitForPID = "org.freedesktop.systemd1.NoUnitForPID"
	nameNoSuchJob    = "org.freedesktop.systemd1.NoSuchJob"
	nameUnitExists   = "org.freedesktop.systemd1.UnitExists"
	nameNoSuchProc   = "org.freedesktop.systemd1.NoSuchProcess"
	nameUnixProcess  = "org.freedesktop.DBus.Error.UnixProcessIdUnknown"
	nameNoReply      = "org.freedesktop.DBus.Error.NoReply"
	nameDisconnected = "org.freedesktop.DBus.Error.Disconnected"
	nameUnknown      = "org.freedesktop.DBus.Error.ServiceUnknown"
	nameNoOwner      = "org.freedesktop.DBus.Error.NameHasNoOwner"
	prefixSpawn      = "org.freedesktop.DBus.Error.Spawn."
)

// dbusName is the D-Bus name of an error that systemd or the bus answered, or empty.
func dbusName(err error) string {
	var e dbus.Error
	if errors.As(err, &e) {
		return e.Name
	}
	var p *dbus.Error
	if errors.As(err, &p) {
		return p.Name
	}
	return ""
}

// known adds our sentinel to an answer of systemd that means the same.
func known(err error) error {
	switch dbusName(err) {
	case nameNoSuchUnit, nameNoUnitForPID, nameNoSuchProc, nameUnixProcess:
		return fmt.Errorf("%w: %w", ErrNoUnit, err)
	case nameUnitExists:
		return fmt.Errorf("%w: %w", ErrUnitExists, err)
	}
	return err
}

// neverSent reports whether a request certainly did not reach systemd: the bus had nobody to give it to, as during a
// re-execution, when PID 1 leaves the bus and comes back.
func neverSent(err error) bool {
	name := dbusName(err)
	return name == nameUnknown || name == nameNoOwner || strings.HasPrefix(name, prefixSpawn)
}

// lost reports whether the connection ended under a request, so that nobody knows what became of it.
func lost(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	switch dbusName(err) {
	case nameNoReply, nameDisconnected:
		return true
	}
	return errors.Is(err, dbus.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}
