package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"syscall"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// Names of systemd's D-Bus API, see org.freedesktop.systemd1(5).
const (
	destination      = "org.freedesktop.systemd1"
	managerPath      = "/org/freedesktop/systemd1"
	managerInterface = "org.freedesktop.systemd1.Manager"
	timerInterface   = "org.freedesktop.systemd1.Timer"
	properties       = "org.freedesktop.DBus.Properties"
)

// jobRemoved is the rule by which the message bus passes on the results of jobs.
const jobRemoved = "type='signal',path='" + managerPath + "',interface='" + managerInterface + "',member='JobRemoved'"

// socket is one way to systemd.
type socket struct {
	path string
	bus  bool // it is the message bus, not PID 1 itself
}

// connect connects, and asks systemd something: a bus may be there without a systemd on it.
func (s socket) connect(ctx context.Context) (*link, error) {
	l := &link{jobs: newJobs()}
	// Not with ctx, which would end the connection with the call that happened to open it.
	conn, err := dbus.Dial("unix:path="+dbus.EscapeBusAddressValue(s.path), dbus.WithSignalHandler(l.jobs))
	if err != nil {
		return nil, err
	}
	l.conn = conn
	stop := context.AfterFunc(ctx, func() { conn.Close() }) // Auth and Hello wait without a context
	defer stop()
	if err := s.introduce(ctx, l); err != nil {
		conn.Close()
		return nil, because(ctx, err)
	}
	return l, nil
}

func (s socket) introduce(ctx context.Context, l *link) error {
	// The numeric uid, as a name could not be looked up everywhere.
	uid := strconv.Itoa(os.Geteuid())
	if err := l.conn.Auth([]dbus.Auth{dbus.AuthExternal(uid)}); err != nil {
		return fmt.Errorf("authenticate as uid %s: %w", uid, err)
	}
	if s.bus { // PID 1 itself is no bus: it has no Hello, and sends all signals to everyone
		if err := l.conn.Hello(); err != nil {
			return fmt.Errorf("authenticate as uid %s: %w", uid, err)
		}
		err := l.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.AddMatch", 0, jobRemoved).Err
		if err != nil {
			return fmt.Errorf("subscribe to the results of jobs: %w", err)
		}
	}
	if _, err := l.version(ctx); err != nil {
		return fmt.Errorf("ask for systemd's version: %w", err)
	}
	return nil
}

// because is err, or the end of ctx where that is what closed the connection and so made err.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// advice says what a person can do about an error of connect.
func (s socket) advice(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return "on the node: is systemd its init? In a pod: mount the node's directory " + s.dir() + ", not the socket"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody listens there: it is restarting, or a socket instead of its directory " + s.dir() + " is mounted"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, io.EOF), errors.Is(err, syscall.EPIPE),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, net.ErrClosed), errors.Is(err, dbus.ErrClosed):
		return "run as uid 0 of the node, without a user namespace"
	case neverSent(err):
		return "there is a message bus, but no systemd on it"
	case errors.Is(err, context.DeadlineExceeded):
		return "it accepts connections but does not answer: is PID 1 stopped, or very busy?"
	}
	return "see whether systemctl works on the node"
}

// dir is where the socket lies on a node.
func (s socket) dir() string {
	if s.bus {
		return "/run/dbus"
	}
	return "/run/systemd"
}

// link is one connection to systemd. It is safe for concurrent use.
type link struct {
	conn *dbus.Conn
	jobs *jobs
}

func (l *link) isGone() bool { return !l.conn.Connected() }

// call calls a method of systemd's Manager.
func (l *link) call(ctx context.Context, method string, args ...any) *dbus.Call {
	return l.object(managerPath).CallWithContext(ctx, managerInterface+"."+method, 0, args...)
}

func (l *link) object(path dbus.ObjectPath) dbus.BusObject { return l.conn.Object(destination, path) }

// job calls a method that queues a job. Its result goes to result, which needs room for it.
func (l *link) job(ctx context.Context, result chan<- string, method string, args ...any) (dbus.ObjectPath, error) {
	return l.jobs.queue(func() (job dbus.ObjectPath, err error) {
		err = l.call(ctx, method, args...).Store(&job)
		return job, err
	}, result)
}

// all are the properties of an object.
func (l *link) all(ctx context.Context, path dbus.ObjectPath) (map[string]dbus.Variant, error) {
	var props map[string]dbus.Variant
	err := l.object(path).CallWithContext(ctx, properties+".GetAll", 0, "").Store(&props)
	return props, err
}

// get reads one property of an object.
func (l *link) get(ctx context.Context, path dbus.ObjectPath, iface, name string, v *dbus.Variant) error {
	return l.object(path).CallWithContext(ctx, properties+".Get", 0, iface, name).Store(v)
}

func (l *link) version(ctx context.Context) (string, error) {
	var v dbus.Variant
	if err := l.get(ctx, managerPath, managerInterface, "Version", &v); err != nil {
		return "", err
	}
	version, ok := v.Value().(string)
	if !ok {
		return "", fmt.Errorf("version is a %s, not a string", v.Signature())
	}
	return version, nil
}

// unitPath is the object of a unit. systemd loads the unit, if there is one, when its object is asked for.
func unitPath(name string) dbus.ObjectPath {
	return dbus.ObjectPath(managerPath + "/unit/" + sd.PathBusEscape(name))
}
