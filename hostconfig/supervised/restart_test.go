package supervised

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// keep starts daemons, each when the one before has ended, as how says for each of them, the last for ever.
func keep(t *testing.T, m *Manager, how ...string) {
	t.Helper()
	program := named(t, "containerd")
	var cmd *exec.Cmd
	next := func() {
		cmd = command(program, how[0], m.socket)
		if err := cmd.Start(); err != nil {
			t.Error(err)
		}
		if len(how) > 1 {
			how = how[1:]
		}
	}
	next()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			ended := make(chan struct{})
			go func() {
				_ = cmd.Wait()
				close(ended)
			}()
			select {
			case <-ended:
				next()
			case <-stop:
				_ = cmd.Process.Kill()
				<-ended
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-stopped
	})
}

// await waits until somebody else than this process listens, and returns its number.
func await(t *testing.T, m *Manager, before int) (pid int) {
	t.Helper()
	eventually(t, "a daemon to listen", func() bool {
		pid = m.pid(t)
		return pid != 0 && pid != before
	})
	return pid
}

func TestRestart(t *testing.T) {
	kernels(t, func(t *testing.T, m *Manager) {
		keep(t, m, "listens")
		before := await(t, m, 0)
		for range 3 {
			result, err := m.Restart(t.Context(), m.name())
			if err != nil || result != systemd.ResultDone {
				t.Fatalf("it ended as %q, %v", result, err)
			}
			now := m.pid(t)
			if now == before || now == 0 {
				t.Fatalf("process %d listens, before it was %d", now, before)
			}
			before = now
		}
		if result, err := m.Start(t.Context(), m.name()); err != nil || result != systemd.ResultDone {
			t.Errorf("to start it ended as %q, %v", result, err)
		}
		if now := m.pid(t); now != before {
			t.Errorf("to start it has restarted it: process %d listens, before it was %d", now, before)
		}
	})
}

// until is a context that ends when the condition holds.
func until(t *testing.T, ok func() bool) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		for !ok() {
			select {
			case <-time.After(poll):
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return ctx
}

func TestDaemonDoesNotEnd(t *testing.T) {
	m := manager(t)
	daemon := listen(t, m, "deaf")
	ctx := until(t, func() bool {
		_, err := os.Stat(m.socket + ".told")
		return err == nil
	})
	_, err := m.Restart(ctx, m.name())
	if !errors.Is(err, ErrNotRestarted) || !strings.Contains(err.Error(), "process "+strconv.Itoa(daemon.Process.Pid)+" was told to end") {
		t.Errorf("it is %v", err)
	}
	if m.pid(t) != daemon.Process.Pid {
		t.Error("it was killed")
	}
}

func TestNobodyStartsItAgain(t *testing.T) {
	m := manager(t)
	daemon := listen(t, m, "listens")
	ended := open(t, daemon.Process.Pid)
	ctx := until(t, func() bool { return !alive(ended.fd) })
	_, err := m.Restart(ctx, m.name())
	if !errors.Is(err, ErrNotRestarted) ||
		!strings.Contains(err.Error(), "process "+strconv.Itoa(daemon.Process.Pid)+" has ended, and no other listens") {
		t.Errorf("it is %v", err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Restart(over, m.name()); !errors.Is(err, ErrNotRestarted) || !strings.Contains(err.Error(), "nobody listens") {
		t.Errorf("without a daemon it is %v", err)
	}
	if _, err := m.Start(over, m.name()); !errors.Is(err, ErrNotRestarted) {
		t.Errorf("to start it is %v", err)
	}
}

// TestNobodyListensYet restarts when there is no daemon, and one is about to come.
func TestNobodyListensYet(t *testing.T) {
	m := manager(t)
	e := &ending{manager: m, since: ticks(), told: map[string]*process{}}
	defer e.close()
	if ok, err := e.isNew(t.Context()); ok || !errors.Is(err, errNobody) {
		t.Fatalf("without a daemon it is %t, %v", ok, err)
	}
	eventually(t, "the clock to go on", func() bool { return ticks() > e.since })
	listen(t, m, "listens")
	if ok, err := e.isNew(t.Context()); !ok || err != nil {
		t.Errorf("with a new daemon it is %t, %v", ok, err)
	}
}

// TestDaemonOfBefore sees that a daemon which was started before the call, and listens only after it, is not taken for one
// that has read the new configuration.
func TestDaemonOfBefore(t *testing.T) {
	m := manager(t)
	daemon := listen(t, m, "listens")
	e := &ending{manager: m, since: ticks(), told: map[string]*process{}}
	defer e.close()
	if ok, err := e.isNew(t.Context()); ok || err != nil {
		t.Errorf("it is %t, %v", ok, err)
	}
	_ = daemon.Wait() // it was told to
	if m.pid(t) != 0 {
		t.Error("it still listens")
	}
}

// TestDaemonHangs restarts a daemon of which the successor hangs before it listens. Others that look alike are left alone.
func TestDaemonHangs(t *testing.T) {
	m := manager(t)
	keep(t, m, "listens", "hangs", "listens")
	before := await(t, m, 0)
	alike := map[string]*process{"one of another name": open(t, start(t, command(named(t, "other"), "hangs", "")).Process.Pid)}
	args := command(named(t, "containerd"), "hangs", "")
	args.Args = append(slices.Clone(argv), "--log-level", "debug")
	alike["one with another command line"] = open(t, start(t, args).Process.Pid)
	alike["somebody else's"] = grandchild(t)

	old := open(t, before)
	ctx := until(t, func() bool { return !alive(old.fd) })
	if _, err := m.Restart(ctx, m.name()); !errors.Is(err, ErrNotRestarted) {
		t.Fatalf("one that hangs is %v", err)
	}
	// One that has not seen the daemon does not know whose it is.
	stranger, err := newManager(Config{Socket: m.socket})
	if err != nil {
		t.Fatal(err)
	}
	e := &ending{manager: stranger, since: ticks(), told: map[string]*process{}}
	eventually(t, "it to hang", func() bool {
		e.searched = time.Time{}
		if ok, err := e.isNew(t.Context()); ok || !errors.Is(err, errNobody) {
			t.Fatalf("it is %t, %v", ok, err)
		}
		return strings.Contains(e.why(), "a containerd that may hang instead")
	})
	if len(e.told) > 0 {
		t.Errorf("%d processes were told to end", len(e.told))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // so that it says why
	defer cancel()
	if result, err := m.Restart(ctx, m.name()); err != nil || result != systemd.ResultDone {
		t.Errorf("it ended as %q, %v", result, err)
	}
	if now := m.pid(t); now == before || now == 0 {
		t.Errorf("process %d listens, before it was %d", now, before)
	}
	for name, p := range alike {
		if !alive(p.fd) {
			t.Errorf("%s was ended", name)
		}
	}
}

// grandchild starts a daemon that hangs by another process.
func grandchild(t *testing.T) *process {
	t.Helper()
	parent := command(named(t, "containerd"), "parent", "")
	parent.Env = append(parent.Env, "CHILD=hangs")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(t, parent)
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	p := open(t, pid)
	t.Cleanup(func() { _ = unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0) }) // before it is closed
	return p
}
