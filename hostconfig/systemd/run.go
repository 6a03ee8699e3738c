package systemd

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

const (
	// DefaultRunTimeout is how long a command on the host may take where Command does not say.
	DefaultRunTimeout = 10 * time.Second
	// MaxOutput bounds what RunOnHost keeps of each output stream, in bytes.
	MaxOutput = 4 << 20

	// stopTimeout is how long a command that has to end has from SIGTERM to SIGKILL.
	stopTimeout = 2 * time.Second
	// cleanupTimeout bounds what is done after the caller's context has ended.
	cleanupTimeout = 10 * time.Second
	// drainTimeout is how long output may still come after the command has ended.
	drainTimeout = 5 * time.Second
	// leftoverAge is when a failed unit of RunOnHost that nobody has taken away is known to be abandoned.
	leftoverAge = time.Minute

	runPrefix = ownPrefix + "run-"
	// exitExec is the exit code that systemd gives a command that it could not execute (EXIT_EXEC, systemd.exec(5)).
	exitExec = 203
)

// Command is a program of the node to be run on the node, in its namespaces, as root.
type Command struct {
	// Name is part of the name of the unit that runs it, for whoever reads the journal: a-z, 0-9 and -.
	Name string
	// Argv is the program by its absolute path on the node, and its arguments; the same words as in a Step.
	Argv []string
	// Timeout is when it is ended. Default DefaultRunTimeout.
	Timeout time.Duration
	// Binds are shown to this program alone, in the place of other files.
	Binds []Bind
}

// Bind shows the file Source in the place of the file Target, which must exist. Both are paths on the node.
type Bind struct{ Source, Target string }

// Validate says what would keep systemd from running the command as it is.
func (c Command) Validate() error {
	if err := checkOwnName(runPrefix + c.Name); err != nil {
		return err
	}
	for _, b := range c.Binds {
		if err := errors.Join(checkPath(b.Source), checkPath(b.Target)); err != nil {
			return err
		}
	}
	return checkArgv(c.Argv)
}

// Result is what a command left that ended by itself.
type Result struct {
	ExitCode       int
	Stdout, Stderr []byte
	// Truncated means that there was more output than MaxOutput, or that it did not end with the command.
	Truncated bool
}

// RunOnHost runs a program of the node, in a transient unit of its own, without a shell. A program that ended by itself
// is no error, whatever its exit code. ErrNotExecutable, a timeout, a signal and the end of ctx are errors; the command
// is then stopped, and Result holds what it had written.
//
// A caller that dies leaves the command to its Timeout. If it fails after that, its unit stays in systemctl --failed
// until someone runs RunOnHost again, a minute later or more.
func (m *Manager) RunOnHost(ctx context.Context, c Command) (Result, error) {
	if err := c.Validate(); err != nil {
		return Result{}, err
	}
	if c.Timeout <= 0 {
		c.Timeout = DefaultRunTimeout
	}
	m.sweep(ctx, leftoverAge)
	unit := runPrefix + c.Name + "-" + strings.ToLower(rand.Text()[:10]) + ".service"
	result, err := m.run(ctx, unit, c)
	if err != nil {
		return result, fmt.Errorf("run %s on the host: %w", c.Argv[0], err)
	}
	return result, nil
}

func (m *Manager) run(ctx context.Context, unit string, c Command) (r Result, err error) {
	stdout, err := newDrain()
	if err != nil {
		return Result{}, err
	}
	defer stdout.close()
	stderr, err := newDrain()
	if err != nil {
		return Result{}, err
	}
	defer stderr.close()

	// The start job of a oneshot is over when the command has ended.
	outcome, err := m.job(ctx, "start", unit, func(ctx context.Context, l *link, result chan<- string) (dbus.ObjectPath, error) {
		job, err := l.job(ctx, result, "StartTransientUnit", unit, "fail", runProperties(c, stdout, stderr), []sd.PropertyCollection{})
		if !neverSent(err) {
			stdout.closeWriter() // systemd has its own now; with ours open, the output would not end
			stderr.closeWriter()
		}
		return job, err
	})
	if err != nil || outcome != ResultDone {
		r.ExitCode, err = m.endRun(ctx, unit, c, err)
	}
	r.Stdout, r.Stderr = stdout.wait(), stderr.wait()
	r.Truncated = stdout.truncated || stderr.truncated
	if err == nil && r.ExitCode == exitExec && len(r.Stdout)+len(r.Stderr) == 0 {
		return r, ErrNotExecutable
	}
	return r, err
}

func runProperties(c Command, stdout, stderr *drain) []sd.Property {
	props := []sd.Property{
		property("Description", "hotplate: "+c.Name),
		property("Type", "oneshot"),
		property("ExecStart", []execStart{{c.Argv[0], c.Argv, false}}),
		property("TimeoutStartUSec", microseconds(c.Timeout)),
		property("TimeoutStopUSec", microseconds(stopTimeout)),
		// A unit that failed is kept, for its exit code is lost with it; endRun takes it away.
		property("CollectMode", "inactive"),
		property("StandardOutputFileDescriptor", dbus.UnixFD(stdout.writer)),
		property("StandardErrorFileDescriptor", dbus.UnixFD(stderr.writer)),
	}
	if len(c.Binds) > 0 {
		props = append(props, property("BindReadOnlyPaths", bindPaths(c.Binds)))
	}
	return props
}

// endRun finds out how a command ended that did not succeed, ends it if it still runs, and takes its unit away. cause is
// why there is no result of the job, or nil.
func (m *Manager) endRun(ctx context.Context, unit string, c Command, cause error) (exitCode int, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if cause != nil {
		_, err := m.Stop(ctx, unit)
		if errors.Is(err, ErrNoUnit) {
			return 0, cause // it never started, or has just succeeded
		}
		return 0, errors.Join(cause, err, m.ResetFailed(ctx, unit))
	}
	u, err := m.Unit(ctx, unit)
	if err != nil {
		return 0, fmt.Errorf("learn how it ended: %w", err)
	}
	err = m.ResetFailed(ctx, unit)
	switch {
	case u.Result == "exit-code":
		return u.ExitCode, err
	case u.Result == "timeout":
		return 0, errors.Join(fmt.Errorf("it had not ended after %v", c.Timeout), err)
	case u.Signal != 0:
		return 0, errors.Join(fmt.Errorf("it was killed: %s, signal %d", u.Result, u.Signal), err)
	}
	return 0, errors.Join(fmt.Errorf("it did not run: %s", u.Result), err)
}

// sweep takes away failed units of runs, older than age, whose caller died before it could. It is housekeeping: what it does not get
// done now, the next run will.
func (m *Manager) sweep(ctx context.Context, age time.Duration) {
	list, err := m.list(ctx, "failed", runPrefix+"*.service")
	if err != nil {
		return
	}
	for _, name := range list {
		if u, err := m.Unit(ctx, name); err == nil && time.Since(u.StateChange) > age {
			_ = m.ResetFailed(ctx, name)
		}
	}
}

// Executable returns nil when the host can execute the program at path, which it shows by executing it with the one
// argument --version. The error otherwise is ErrNotExecutable, or why it cannot be known.
func (m *Manager) Executable(ctx context.Context, path string) error {
	_, err := m.RunOnHost(ctx, Command{Name: "try", Argv: []string{path, "--version"}})
	return err
}

// drain reads one output stream of a command to its end, and keeps its beginning.
type drain struct {
	reader *os.File
	writer int // a file descriptor, or -1

	done      chan struct{} // closed when the goroutine has ended, which owns the rest until then
	data      bytes.Buffer
	truncated bool
}

func newDrain() (*drain, error) {
	var fds [2]int
	// Not os.Pipe: it makes the end for the command non-blocking, and few programs can write to such an output.
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil { // so that a deadline ends a read
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, os.NewSyscallError("fcntl", err)
	}
	d := &drain{reader: os.NewFile(uintptr(fds[0]), "output"), writer: fds[1], done: make(chan struct{})}
	go d.read()
	return d, nil
}

func (d *drain) read() {
	defer close(d.done)
	_, err := io.Copy(&d.data, io.LimitReader(d.reader, MaxOutput))
	if err == nil {
		var rest int64 // is read as well, or the command would wait for ever
		rest, err = io.Copy(io.Discard, d.reader)
		d.truncated = rest > 0
	}
	d.truncated = d.truncated || err != nil
}

func (d *drain) closeWriter() {
	if d.writer >= 0 {
		unix.Close(d.writer)
		d.writer = -1
	}
}

// wait returns what was written, once all writers are gone or drainTimeout has passed.
func (d *drain) wait() []byte {
	if err := d.reader.SetReadDeadline(time.Now().Add(drainTimeout)); err != nil {
		d.reader.Close()
	}
	<-d.done
	return d.data.Bytes()
}

func (d *drain) close() {
	d.closeWriter()
	d.reader.Close()
	<-d.done
}
