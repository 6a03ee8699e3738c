package apply

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// watch runs Watch until the test ends, and returns the number of calls so far.
func watch(t *testing.T, dir string, also func()) *atomic.Int64 {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	var calls atomic.Int64
	go func() {
		done <- Watch(ctx, dir, func() {
			if also != nil {
				also()
			}
			calls.Add(1)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	return &calls
}

// poke does something again and again until Watch has told of a change: its watches come in their own time.
func poke(t *testing.T, calls *atomic.Int64, what string, do func()) {
	t.Helper()
	before := calls.Load()
	waitFor(t, what, func() bool {
		do()
		return calls.Load() > before
	})
}

// told runs the loop until it tells of a change.
func (w *watcher) told(t *testing.T, what string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	called := false
	if err := w.loop(ctx, func() { called = true; cancel() }); err != nil || !called {
		t.Errorf("%s: not told, %v", what, err)
	}
}

func TestWatchTellsOfEveryKindOfChange(t *testing.T) {
	const file = "docker.io/hosts.toml"
	for name, do := range map[string]func(dir string) error{
		"a file is written":            func(dir string) error { return os.WriteFile(dir+"/"+file, nil, 0o644) },
		"a file is emptied":            func(dir string) error { return os.Truncate(dir+"/"+file, 0) },
		"its mode changes":             func(dir string) error { return os.Chmod(dir+"/"+file, 0o600) },
		"a file is removed":            func(dir string) error { return os.Remove(dir + "/" + file) },
		"a file is renamed away":       func(dir string) error { return os.Rename(dir+"/"+file, dir+"/x") },
		"a directory comes":            func(dir string) error { return os.Mkdir(dir+"/new.example.com", 0o755) },
		"a directory is moved in":      func(dir string) error { return os.Rename(dir+".aside", dir+"/new") },
		"a directory goes":             func(dir string) error { return os.RemoveAll(dir + "/docker.io") },
		"a certificate goes":           func(dir string) error { return os.Remove(dir + "/.hotplate/ca.pem") },
		"the hosts directory goes":     os.RemoveAll,
		"the hosts directory is moved": func(dir string) error { return os.Rename(dir, dir+".old") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.write(file, "x")
			r.write(".hotplate/ca.pem", "x")
			if err := os.Mkdir(r.hosts+".aside", 0o755); err != nil {
				t.Fatal(err)
			}
			w, err := newWatcher(r.hosts)
			if err != nil {
				t.Fatal(err)
			}
			defer w.fw.Close()
			if err := do(r.hosts); err != nil {
				t.Fatal(err)
			}
			w.told(t, name)
		})
	}
}

func TestWatchFollowsDirectoriesThatComeLater(t *testing.T) {
	r := newRig(t)
	w, err := newWatcher(r.hosts)
	if err != nil {
		t.Fatal(err)
	}
	defer w.fw.Close()
	for _, p := range []string{".", "docker.io"} {
		if err := os.Mkdir(filepath.Join(r.hosts, p), 0o755); err != nil {
			t.Fatal(err)
		}
		w.told(t, p+" comes")
	}
	r.write("docker.io/hosts.toml", "x")
	w.told(t, "a file in it")
}

// This is what the probe does. It has been seen to end the watch within ten rounds.
func TestWatchSurvivesADirectoryThatIsRenamedAndRemoved(t *testing.T) {
	r := newRig(t)
	r.write(".hotplate/tmp/keep", "x")
	calls := watch(t, r.hosts, nil)
	here, there := filepath.Join(r.hosts, "probe.invalid"), filepath.Join(r.hosts, ".hotplate/tmp/probe")
	for range 20 {
		poke(t, calls, "the directory that comes", func() {
			if err := os.MkdirAll(filepath.Join(here, "x"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(filepath.Join(here, "x")); err != nil {
				t.Fatal(err)
			}
		})
		if err := os.Rename(here, there); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(there); err != nil {
			t.Fatal(err)
		}
	}
	poke(t, calls, "a change after all that", func() { r.write("late.example.com/hosts.toml", "x") })
}

func TestWatchFindsAHostsDirectoryThatComesLaterOrIsReplaced(t *testing.T) {
	r := newRig(t)
	calls := watch(t, r.hosts, nil)
	poke(t, calls, "the hosts directory comes", func() { r.write("docker.io/hosts.toml", "x") })
	if err := os.Rename(r.hosts, r.hosts+".old"); err != nil {
		t.Fatal(err)
	}
	poke(t, calls, "another hosts directory is in its place", func() { r.write("docker.io/hosts.toml", "x") })
	if err := os.RemoveAll(r.hosts); err != nil {
		t.Fatal(err)
	}
	poke(t, calls, "it is removed and made again", func() { r.write("docker.io/hosts.toml", "x") })
}

func TestWatchTellsCloseChangesAsOne(t *testing.T) {
	r := newRig(t)
	r.write("docker.io/hosts.toml", "x")
	// While changed runs, nothing is told: what happens meanwhile is one more call, not hundreds.
	entered, release := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	calls := watch(t, r.hosts, func() {
		if first.CompareAndSwap(false, true) {
			close(entered)
			<-release
		}
	})
	waitFor(t, "the first call", func() bool {
		r.write("docker.io/hosts.toml", "y")
		select {
		case <-entered:
			return true
		default:
			return false
		}
	})
	for range 500 {
		r.write("docker.io/hosts.toml", "z")
	}
	close(release)
	waitFor(t, "the second call", func() bool { return calls.Load() >= 2 })
	if n := calls.Load(); n > 50 {
		t.Errorf("500 changes were told in %d calls", n)
	}
}

// TestDriftIsRepairedByWatchAndApply connects the two as the agent does.
func TestDriftIsRepairedByWatchAndApply(t *testing.T) {
	r := newRig(t)
	h := r.start()
	defer r.close(h)
	tree := render(t, mirror("docker.io", "https://one.example.com", "one"))
	r.apply(h, tree)
	var applies atomic.Int64
	t.Run("while it is watched", func(t *testing.T) {
		calls := watch(t, r.hosts, func() {
			applies.Add(1)
			if _, err := h.Apply(context.Background(), tree, Options{}); err != nil {
				t.Errorf("apply: %v", err)
			}
		})
		poke(t, calls, "drift", func() { r.write("docker.io/hosts.toml", "# by other-tool") })
		waitFor(t, "repair", func() bool {
			return strings.Contains(view(r.hosts, "docker.io"), "one.example.com")
		})
	})
	if receipt := r.apply(h, tree); len(receipt.Changed) > 0 {
		t.Errorf("not repaired: %v", receipt.Changed)
	}
}
