package restart

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// TestKilledTwice kills an agent at each operation, and the one after it at another.
func TestKilledTwice(t *testing.T) {
	for i, f := range matrixFaults {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			everyOperation(t, func(t *testing.T, at int) (hit string) {
				for _, second := range seconds(at, i) {
					hit = killedTwice(t, f, at, second, sequels[(at+second)%len(sequels)])
				}
				return hit
			})
		})
	}
}

// seconds are the operations at which the second process dies: all, or one that differs from operation to operation.
func seconds(first, i int) (all []int) {
	for at := range 30 {
		if full() || at == (first*7+i*3)%30 {
			all = append(all, at)
		}
	}
	return all
}

func killedTwice(t *testing.T, f fault, first, second int, s sequel) (hit string) {
	tr := newTrial(t, f)
	a, b := tr.newAgent(), tr.newAgent()
	a.at, a.after = first, a.kill
	b.at, b.after = second, b.kill
	a.run()
	if s == rescue || s == rescueToo {
		tr.what = fmt.Sprintf("killed after %q", a.hit)
		tr.follow(rescue)
	}
	res := b.run()
	tr.what = fmt.Sprintf("killed after %q, again after %q; %s", a.hit, b.hit, s)
	tr.follow(s)
	tr.settle(res.Kind)
	if t.Failed() {
		t.Log(tr.log)
	}
	return a.hit
}

// mishap is something that happens to an agent that lives on.
type mishap struct {
	name string
	// prepare says what happens at operation a.at.
	prepare func(tr *trial, a *agent)
	// wait says that it concerns containerd itself, so that it may take a moment until it is well again.
	wait bool
	// once says that it is no reason to take a good configuration back for good.
	once bool
	// fails says that hotplate may have seen a containerd that does not work with its old configuration either.
	fails bool
	// expect, if not nil, says what is wrong with what the agent says itself.
	expect func(tr *trial, res result) string
}

// errFault is what an operation returns that fails.
var errFault = fmt.Errorf("a fault of the test: %w", unix.EIO)

// mishaps are all that may happen.
var mishaps = []mishap{
	{name: "fails, not done", once: true, prepare: func(_ *trial, a *agent) { a.before = func() error { return errFault } }},
	{name: "fails, done all the same", once: true, prepare: func(_ *trial, a *agent) { a.after = func() error { return errFault } }},
	{name: "the connection to systemd is lost there", once: true, prepare: func(_ *trial, a *agent) {
		a.after = func() error { return systemd.ErrConnectionLost }
	}},
	{name: "systemd is away from there on", prepare: func(_ *trial, a *agent) {
		a.always = func(name string) error {
			if isOfSystemd(name) {
				return systemd.ErrUnreachable
			}
			return nil
		}
	}},
	{name: "the disk is full from there on", prepare: func(_ *trial, a *agent) {
		a.always = func(name string) error {
			if strings.HasPrefix(name, "write ") || strings.HasPrefix(name, "mkdir ") {
				return unix.ENOSPC
			}
			return nil
		}
	}},
	{name: "the disk is read-only from there on", prepare: func(_ *trial, a *agent) {
		a.always = func(name string) error {
			if strings.HasPrefix(name, "write ") || strings.HasPrefix(name, "mkdir ") || strings.HasPrefix(name, "remove ") || strings.HasPrefix(name, "rename ") {
				return unix.EROFS
			}
			return nil
		}
	}},
	{name: "the caller gives up before", once: true, prepare: func(_ *trial, a *agent) {
		a.before = func() error { a.cancel(); return nil }
	}},
	{name: "the caller gives up after", once: true, prepare: func(_ *trial, a *agent) {
		a.after = func() error { a.cancel(); return nil }
	}},
	{name: "the agent is paused until the rescue has acted", prepare: func(_ *trial, a *agent) {
		a.before = func() error { time.Sleep(a.r.after() + time.Minute); return nil }
	}},
	{name: "it takes a second", once: true, prepare: func(_ *trial, a *agent) {
		a.before = func() error { time.Sleep(time.Second); return nil }
	}},
	{name: "containerd is killed", wait: true, fails: true, prepare: func(tr *trial, a *agent) {
		a.before = func() error { tr.kill(); return nil }
	}},
	{name: "somebody restarts containerd", wait: true, prepare: func(tr *trial, a *agent) {
		a.before = func() error { tr.restart(); return nil }
	}},
	{name: "somebody writes a good configuration", prepare: func(tr *trial, a *agent) {
		tr.foreign = true
		a.before = func() error { tr.write(usualConfig, foreignConfig); return nil }
	}},
	{name: "somebody writes a good configuration and restarts containerd", wait: true, prepare: func(tr *trial, a *agent) {
		tr.foreign = true
		a.before = func() error { tr.write(usualConfig, foreignConfig); tr.restart(); return nil }
	}},
	{name: "somebody writes the old configuration", prepare: func(tr *trial, a *agent) {
		a.before = func() error { tr.write(usualConfig, oldConfig); return nil }
	}},
}

// foreignConfig is somebody else's.
const foreignConfig = "version = 3\n# by somebody else\n"

// isOfSystemd tells operations of systemd from those of files and of containerd.
func isOfSystemd(name string) bool {
	switch verb, _, _ := strings.Cut(name, " "); verb {
	case "read", "write", "rename", "remove", "mkdir", "Probe", "Info", "CheckCRI", "Running", "Lost", "Ingests":
		return false
	}
	return true
}

// restart is somebody else's systemctl restart.
func (n *node) restart() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, _ = n.sys.Restart(ctx, unitName)
}

// TestMishapAtEveryOperation lets something happen at each operation, and then new agents go on.
func TestMishapAtEveryOperation(t *testing.T) {
	for i, m := range mishaps {
		for j, f := range matrixFaults {
			if !full() && f != good && j != 1+i%(len(matrixFaults)-1) {
				continue
			}
			t.Run(m.name+", with "+string(f), func(t *testing.T) {
				t.Parallel()
				from, step := 0, 1
				if !full() { // another mishap or another configuration is for those between
					from, step = (i+j)%2, 2
				}
				operations(t, from, step, func(t *testing.T, at int) (hit string) {
					for _, s := range some(at/step + i) {
						hit = happens(t, f, m, at, s)
					}
					return hit
				})
			})
		}
	}
}

func happens(t *testing.T, f fault, m mishap, at int, s sequel) (hit string) {
	tr := newTrial(t, f)
	a := tr.newAgent()
	a.at = at
	m.prepare(tr, a)
	res := a.run()
	tr.what = fmt.Sprintf("%q: %s (%s); %s", a.hit, m.name, res, s)
	if file, ok := strings.CutPrefix(a.hit, "remove "); ok {
		tr.stays = strings.TrimPrefix(file, stateDir+"/restart/")
	}
	if res.killed || res.err == nil && res.Kind == "" {
		tr.errorf("it ended without a kind")
	}
	if res.Kind == Failed && !m.fails {
		tr.errorf("it failed")
	}
	if m.expect != nil {
		if bad := m.expect(tr, res); bad != "" {
			tr.errorf("%s", bad)
		}
	}
	if m.wait {
		time.Sleep(time.Minute)
	}
	tr.follow(s)
	kinds := tr.settle(res.Kind)
	if m.once && s == atOnce && f == good && slices.Contains(kinds, RolledBack) && !strings.HasPrefix(a.hit, "Restart ") {
		tr.errorf("a good configuration was taken back: %v", kinds)
	}
	if a.hit != "" {
		t.Logf("%2d %s: %v", at, tr.what, kinds)
	}
	if t.Failed() {
		t.Log(tr.log)
	}
	return a.hit
}
