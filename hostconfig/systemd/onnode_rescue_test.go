//go:build e2e || onnode

package systemd_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd/systemdtest"
)

// wait waits until ok. The time bounds a test that hangs, it is no measure.
func (n *realNode) wait(what string, ok func() bool) {
	n.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.Fatalf("waited in vain until %s", what)
		}
	}
}

func (n *realNode) waitState(name string, want systemd.RescueState) {
	n.Helper()
	n.wait(name+" is "+string(want), func() bool {
		state, err := n.RescueState(n.Context(), name)
		if err != nil {
			n.Fatal(err)
		}
		return state == want
	})
}

func (n *realNode) file(name, content string) (path string) {
	n.Helper()
	path = filepath.Join(n.dir, name)
	if err := errors.Join(os.WriteFile(path+".new", []byte(content), 0o644), os.Rename(path+".new", path)); err != nil {
		n.Fatal(err)
	}
	return path
}

// An armed rescue survives what packages do to systemd when they are upgraded.
func TestNodeRescueSurvivesReloadAndReexec(t *testing.T) {
	n := newRealNode(t)
	file, backup := n.file("a file", "new"), n.file("a backup", "old")
	name := n.Prefix() + "rescue"
	steps := append(systemd.RestoreFile(backup, file), systemd.RestartUnit(n.Prefix()+"nowhere.service")...)
	steps[len(steps)-1].IgnoreFailure = true
	rescue := systemd.Rescue{Name: name, Description: "a rescue", After: 20 * time.Second, Steps: steps}
	if err := n.Arm(t.Context(), rescue); err != nil {
		t.Fatal(err)
	}
	due := n.due(name)
	for range 2 {
		if err := n.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := n.Reexecute(t.Context()); err != nil {
			t.Fatal(err)
		}
		if state, err := n.RescueState(t.Context(), name); err != nil || state != systemd.RescueArmed {
			t.Fatal(state, err)
		}
		// systemd rounds to milliseconds when it writes the timer to a file.
		if got := n.due(name); got > due || got < due-time.Second {
			t.Errorf("it was due at %v, and now at %v: whoever reloads systemd puts it off", due, got)
		}
	}
	if got := n.steps(name); !cmp.Equal(steps, got) {
		t.Errorf("its steps have become (-want +got):\n%s", cmp.Diff(steps, got))
	}
	n.waitState(name, systemd.RescueRan)
	if content, err := os.ReadFile(file); err != nil || string(content) != "old" {
		t.Errorf("the file holds %q, %v", content, err)
	}
	// That it ran is known even then.
	if err := errors.Join(n.Reload(t.Context()), n.Reexecute(t.Context())); err != nil {
		t.Fatal(err)
	}
	if state, err := n.Disarm(t.Context(), name); err != nil || state != systemd.RescueRan {
		t.Fatal(state, err)
	}
	if err := n.Forget(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}

// due is when a rescue begins, on the node's monotonic clock.
func (n *realNode) due(name string) time.Duration {
	n.Helper()
	timer, err := n.Timer(n.Context(), name+".timer")
	if err != nil {
		n.Fatal(err)
	}
	µs, ok := timer["NextElapseUSecMonotonic"].(uint64)
	if !ok {
		n.Fatalf("the timer is due at %v", timer["NextElapseUSecMonotonic"])
	}
	return time.Duration(µs) * time.Microsecond
}

// steps are those that systemd knows of a rescue.
func (n *realNode) steps(name string) (steps []systemd.Step) {
	n.Helper()
	u, err := n.Unit(n.Context(), name+".service")
	if err != nil {
		n.Fatal(err)
	}
	for _, e := range u.ExecStart {
		steps = append(steps, systemd.Step{Argv: e.Argv, IgnoreFailure: e.IgnoreFailure})
	}
	return steps
}

func TestNodeTimerOfARescue(t *testing.T) {
	n := newRealNode(t)
	name := n.Prefix() + "rescue"
	rescue := systemd.Rescue{
		Name: name, Description: "a rescue", After: time.Hour, Steps: []systemd.Step{{Argv: []string{"/bin/true"}}},
	}
	if err := n.Arm(t.Context(), rescue); err != nil {
		t.Fatal(err)
	}
	timer, err := n.Timer(t.Context(), name+".timer")
	if err != nil {
		t.Fatal(err)
	}
	// systemd's default for AccuracyUSec is a minute. NextElapseUSecRealtime is 0 when the wall clock plays no part.
	want := map[string]any{
		"AccuracyUSec": uint64(100_000), "RemainAfterElapse": false, "NextElapseUSecRealtime": uint64(0),
		"OnClockChange": false, "Persistent": false, "Unit": name + ".service",
	}
	got := map[string]any{}
	for key := range want {
		got[key] = timer[key]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if state, err := n.Disarm(t.Context(), name); err != nil || state != systemd.RescueDisarmed {
		t.Fatal(state, err)
	}
	if _, err := os.Stat("/run/systemd/transient/" + name + ".timer"); err == nil {
		t.Error("the timer's file is still there, by which a boot unit knows that there is a rescue")
	}
}

// Every character that a step may hold is the same after systemd has written the unit to a file and read it again.
func TestNodeStepsSurviveReload(t *testing.T) {
	n := newRealNode(t)
	name := n.Prefix() + "rescue"
	steps := []systemd.Step{{Argv: []string{"/bin/echo", "ümläut und 汉字", "a b", "-n", "--", "@x", "+x", "!x", ":x"}}}
	for c := rune(' '); c < 0x7f; c++ {
		for _, word := range []string{string(c), "a" + string(c) + "b", string(c) + "a", "a" + string(c), "a " + string(c) + " b"} {
			if systemd.CheckText(word) == nil {
				steps = append(steps, systemd.Step{Argv: []string{"/bin/echo", word}, IgnoreFailure: len(steps)%2 == 0})
			}
		}
	}
	rescue := systemd.Rescue{Name: name, Description: `somebody's "rescue" (of a test); #1, $X`, After: time.Hour, Steps: steps}
	if err := n.Arm(t.Context(), rescue); err != nil {
		t.Fatal(err)
	}
	if err := n.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(steps, n.steps(name)); diff != "" {
		t.Errorf("after a reload (-want +got):\n%s", diff)
	}
	if u, err := n.Unit(t.Context(), name+".timer"); err != nil || u.Description != rescue.Description {
		t.Errorf("the description has become %q, %v", u.Description, err)
	}
	if state, err := n.Disarm(t.Context(), name); err != nil || state != systemd.RescueDisarmed {
		t.Fatal(state, err)
	}
}

// What is refused has a reason. Should this fail with a newer systemd, the rule may go once the older ones are gone.
func TestNodeWhyDollarsAndSemicolonsAreRefused(t *testing.T) {
	n := newRealNode(t)
	for word, becomes := range map[string]string{"$HOME": `\$HOME`, ";": `\;`} {
		if systemd.CheckText(word) == nil {
			t.Errorf("%q is let through", word)
		}
		name := n.Prefix() + "rescue"
		rescue := systemd.Rescue{
			Name: name, Description: "a rescue", After: time.Hour,
			Steps: []systemd.Step{{Argv: []string{"/bin/echo", "a" + word}}},
		}
		if err := n.ArmAnything(t.Context(), rescue); err != nil {
			t.Fatal(err)
		}
		if got := n.steps(name); !cmp.Equal(rescue.Steps, got) {
			t.Errorf("%q is %v at first", word, got)
		}
		if err := n.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := n.steps(name)[0].Argv[1]; got != "a"+becomes {
			t.Errorf("%q becomes %q by a reload, not %q", "a"+word, got, "a"+becomes)
		}
		if _, err := n.Disarm(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
}

// A job whose result cannot arrive is no reason to wait for ever.
func TestNodeReexecWhileARestartWaits(t *testing.T) {
	n := newRealNode(t)
	svc := systemdtest.Service{Name: n.Prefix() + "app.service", Control: n.file("app", string(systemdtest.Hang))}
	n.Define(svc)
	type answer struct {
		result string
		err    error
	}
	answers := make(chan answer, 1)
	go func() {
		result, err := n.Restart(context.WithoutCancel(t.Context()), svc.Name)
		answers <- answer{result, err}
	}()
	n.wait("it starts", func() bool {
		u, err := n.Unit(t.Context(), svc.Name)
		return err == nil && u.Job != 0 && u.SubState == "start"
	})
	other := connect(t)
	if err := other.Reexecute(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.file("app", string(systemdtest.Run))
	if result, err := other.Restart(t.Context(), svc.Name); err != nil || result != systemd.ResultDone {
		t.Errorf("a restart after the re-execution: %q, %v", result, err)
	}
	switch a := <-answers; {
	case a.err == nil && a.result == systemd.ResultDone, errors.Is(a.err, systemd.ErrResultLost):
		t.Logf("who waited meanwhile got %q, %v", a.result, a.err)
	default:
		t.Errorf("who waited meanwhile got %q, %v", a.result, a.err)
	}
	if u, err := n.Unit(t.Context(), svc.Name); err != nil || u.SubState != "running" {
		t.Errorf("it is %s, %v", u.SubState, err)
	}
}

// Calls find their way while systemd is being re-executed again and again, and none is done twice.
func TestNodeCallsDuringReexec(t *testing.T) {
	n := newRealNode(t)
	svc := systemdtest.Service{
		Name: n.Prefix() + "app.service", Control: n.file("app", string(systemdtest.Run)), StartLimitBurst: 1000,
	}
	n.Define(svc)
	done := make(chan error, 1)
	go func() {
		other := connect(t)
		var errs []error
		for range 5 {
			errs = append(errs, other.Reexecute(t.Context()))
		}
		done <- errors.Join(errs...)
	}()
	starts := 0
	for finished := false; !finished; {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			finished = true
		default:
		}
		result, err := n.Restart(t.Context(), svc.Name)
		if err != nil && !errors.Is(err, systemd.ErrResultLost) && !errors.Is(err, systemd.ErrConnectionLost) {
			t.Error(err)
		}
		if err == nil && result != systemd.ResultDone {
			t.Errorf("a restart ended as %s", result)
		}
		starts++
		if _, err := n.Unit(t.Context(), svc.Name); err != nil {
			t.Error(err)
		}
		if _, err := n.Processes(t.Context(), svc.Name); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d restarts", starts)
}

func TestNodeRunsCommands(t *testing.T) {
	n := newRealNode(t)
	run := func(argv ...string) (systemd.Result, error) {
		return n.RunOnHost(t.Context(), systemd.Command{Name: "test", Argv: argv, Timeout: time.Minute})
	}
	// More than a pipe holds, on both outputs at once.
	n.file("both.sh", "head -c 300000 /dev/zero >&2 & head -c 200000 /dev/zero; wait\n")
	r, err := run("/bin/sh", filepath.Join(n.dir, "both.sh"))
	if err != nil || len(r.Stdout) != 200000 || len(r.Stderr) != 300000 || r.Truncated {
		t.Errorf("%d and %d bytes, truncated: %v, %v", len(r.Stdout), len(r.Stderr), r.Truncated, err)
	}
	r, err = run("/usr/bin/head", "-c", "5000000", "/dev/zero")
	if err != nil || len(r.Stdout) != systemd.MaxOutput || !r.Truncated || r.ExitCode != 0 {
		t.Errorf("%d bytes, truncated: %v, exit code %d, %v", len(r.Stdout), r.Truncated, r.ExitCode, err)
	}
	n.file("exit.sh", "echo out; echo err >&2; exit 42\n")
	r, err = run("/bin/sh", filepath.Join(n.dir, "exit.sh"))
	want := systemd.Result{ExitCode: 42, Stdout: []byte("out\n"), Stderr: []byte("err\n")}
	if diff := cmp.Diff(want, r); err != nil || diff != "" {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	n.file("signal.sh", "echo out; kill -9 $$\n")
	if r, err = run("/bin/sh", filepath.Join(n.dir, "signal.sh")); err == nil || string(r.Stdout) != "out\n" {
		t.Errorf("killed by a signal: %+v, %v", r, err)
	}
	// What a command leaves running is ended with it, and its output ends.
	n.file("left.sh", "sleep 1000 & echo out\n")
	if r, err = run("/bin/sh", filepath.Join(n.dir, "left.sh")); err != nil || string(r.Stdout) != "out\n" || r.Truncated {
		t.Errorf("with a child that it leaves: %+v, %v", r, err)
	}
	if r, err = run("/etc/hostname"); !errors.Is(err, systemd.ErrNotExecutable) {
		t.Errorf("a file that is no program: %+v, %v", r, err)
	}
	shown := systemd.Command{
		Name: "test", Argv: []string{"/bin/cat", n.file("config", "old")},
		Binds: []systemd.Bind{{Source: n.file("candidate", "new"), Target: filepath.Join(n.dir, "config")}},
	}
	if r, err := n.RunOnHost(t.Context(), shown); err != nil || string(r.Stdout) != "new" {
		t.Errorf("it saw %q, %v", r.Stdout, err)
	}
	if r, err := run("/bin/cat", filepath.Join(n.dir, "config")); err != nil || string(r.Stdout) != "old" {
		t.Errorf("others see %q, %v", r.Stdout, err)
	}
}

// Nothing is left of commands, however they ended, and what a dead caller left is taken away.
func TestNodeKeepsNothingOfCommands(t *testing.T) {
	n := newRealNode(t)
	if err := n.FailAndForget(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.Sweep(t.Context(), time.Hour)
	left := "hotplate-run-left.service"
	if names, err := n.RunUnits(t.Context()); err != nil || !slices.Contains(names, left) {
		t.Errorf("%q, %v: one that failed just now belongs to somebody", names, err)
	}
	n.Sweep(t.Context(), 0)
	for _, argv := range [][]string{{"/bin/true"}, {"/bin/false"}, {"/bin/nowhere"}, {"/bin/sleep", "100"}} {
		_, _ = n.RunOnHost(t.Context(), systemd.Command{Name: "test", Argv: argv, Timeout: time.Second})
	}
	ended, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, _ = n.RunOnHost(ended, systemd.Command{Name: "test", Argv: []string{"/bin/sleep", "100"}})
	n.wait("no unit of a command is left", func() bool {
		names, err := n.RunUnits(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(names) == 0
	})
}
