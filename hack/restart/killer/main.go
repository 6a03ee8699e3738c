// Command killer is hotplate restart with an accident at one moment.
//
//	killer [-soak DURATION] WHEN:METHOD[#N]
//
// At the N-th call of that method of restart.Systemd (the first, if nothing is said) it does what WHEN says:
//
//	before    ends as if it was killed: what the call does has not happened
//	after     the same when the call has returned: it has
//	damage    overwrites the backup, and goes on
//	fire      lets the rescue act, and goes on
//	hold      makes the file held in the state directory, and goes on when it is gone
//
// It prints the outcome as JSON, as hotplate restart does.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hostconfig/apply"
	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/probe"
	"github.com/hotplate-dev/hotplate/hostconfig/restart"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

const (
	address  = "/run/containerd/containerd.sock"
	hostsDir = "/etc/containerd/certs.d"
	stateDir = "/var/lib/hotplate"
)

func main() {
	soak := flag.Duration("soak", time.Second, "as of hotplate restart")
	flag.Parse()
	if err := run(context.Background(), *soak, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "killer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, soak time.Duration, point string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	host, err := apply.Open(ctx, apply.Config{HostsDir: hostsDir, StateDir: stateDir, Log: log})
	if err != nil {
		return err
	}
	defer host.Close()
	ctrd, err := daemon.Connect(address)
	if err != nil {
		return err
	}
	defer ctrd.Close()
	manager, err := systemd.Connect(ctx, systemd.Config{})
	if err != nil {
		return err
	}
	defer manager.Close()
	prober, err := probe.New(probe.Config{Pull: ctrd.PullImage, Publish: host.PublishTemporary})
	if err != nil {
		return err
	}
	a, err := newAccident(manager, point)
	if err != nil {
		return err
	}
	r, err := restart.New(restart.Config{
		Log: log, Systemd: a, Daemon: ctrd, Probe: prober.Probe, StateDir: stateDir, HostsDir: hostsDir, Soak: soak,
	})
	if err != nil {
		return err
	}
	outcome, err := r.Run(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(outcome)
}

// accident is systemd, and what happens at one call.
type accident struct {
	restart.Systemd
	when, method string
	nth          int

	mu     sync.Mutex
	calls  int    // guarded by mu
	rescue string // guarded by mu: the one that was armed last
}

func newAccident(s restart.Systemd, point string) (*accident, error) {
	when, method, ok := strings.Cut(point, ":")
	method, number, has := strings.Cut(method, "#")
	a := &accident{Systemd: s, when: when, method: method, nth: 1}
	var err error
	if has {
		a.nth, err = strconv.Atoi(number)
	}
	if !ok || err != nil {
		return nil, fmt.Errorf("%q is not WHEN:METHOD or WHEN:METHOD#N", point)
	}
	return a, nil
}

// at is called around each call.
func (a *accident) at(method string) (after func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if method != a.method {
		return func() {}
	}
	if a.calls++; a.calls != a.nth {
		return func() {}
	}
	switch a.when {
	case "before":
		die()
	case "after":
		return die
	case "damage":
		must(os.WriteFile(stateDir+"/restart/backup", []byte("damaged\n"), 0o644))
	case "fire":
		_, err := a.Start(context.Background(), a.rescue+".service")
		must(err)
	case "hold":
		hold()
	}
	return func() {}
}

// hold waits, for as long as nothing hangs for good, until somebody has done what they want to do.
func hold() {
	const file, most, pause = stateDir + "/held", time.Minute, 50 * time.Millisecond
	must(os.WriteFile(file, nil, 0o600))
	for range most / pause {
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(pause)
	}
	panic(file + " is still there")
}

// die ends like one that is killed. As the first process of its PID namespace it cannot send itself a SIGKILL.
func die() { os.Exit(128 + int(unix.SIGKILL)) }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func (a *accident) Restart(ctx context.Context, unit string) (string, error) {
	defer a.at("Restart")()
	return a.Systemd.Restart(ctx, unit)
}

func (a *accident) ResetFailed(ctx context.Context, unit string) error {
	defer a.at("ResetFailed")()
	return a.Systemd.ResetFailed(ctx, unit)
}

func (a *accident) RunOnHost(ctx context.Context, c systemd.Command) (systemd.Result, error) {
	defer a.at("RunOnHost")()
	return a.Systemd.RunOnHost(ctx, c)
}

func (a *accident) Reload(ctx context.Context) error {
	defer a.at("Reload")()
	return a.Systemd.Reload(ctx)
}

func (a *accident) Enable(ctx context.Context, files ...string) error {
	defer a.at("Enable")()
	return a.Systemd.Enable(ctx, files...)
}

func (a *accident) Arm(ctx context.Context, r systemd.Rescue) error {
	a.mu.Lock()
	a.rescue = r.Name
	a.mu.Unlock()
	defer a.at("Arm")()
	return a.Systemd.Arm(ctx, r)
}

func (a *accident) Disarm(ctx context.Context, name string) (systemd.RescueState, error) {
	defer a.at("Disarm")()
	return a.Systemd.Disarm(ctx, name)
}

func (a *accident) Forget(ctx context.Context, name string) error {
	defer a.at("Forget")()
	return a.Systemd.Forget(ctx, name)
}
