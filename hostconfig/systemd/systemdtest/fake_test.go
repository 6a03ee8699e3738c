package systemdtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeNode is a Fake whose files are those of this machine.
type fakeNode struct {
	*Fake
	dir string
}

func (n fakeNode) Systemd() Systemd         { return n.Fake }
func (n fakeNode) Dir() string              { return n.dir }
func (n fakeNode) Local(path string) string { return path }
func (n fakeNode) Prefix() string           { return "hotplate-test-" }

func TestFakeIsLikeSystemd(t *testing.T) {
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				f := New()
				defer f.Close()
				c.Test(t, fakeNode{f, dir})
			})
		})
	}
}

// inBubble runs a test with a Fake on a clock of its own.
func inBubble(t *testing.T, test func(t *testing.T, f *Fake, dir string)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := New()
		defer f.Close()
		test(t, f, dir)
	})
}

// A call fails without having done anything, or having done it.
func TestFakeFails(t *testing.T) {
	inBubble(t, func(t *testing.T, f *Fake, _ string) {
		f.Define(Service{Name: "app.service", OnStart: func() Outcome { return Run }})
		broken := errors.New("broken")
		var calls []Call
		f.Before = func(c Call) error {
			calls = append(calls, c)
			if c.Method == "Start" {
				return broken
			}
			return nil
		}
		if _, err := f.Start(t.Context(), "app.service"); !errors.Is(err, broken) {
			t.Error(err)
		}
		if u, err := f.Unit(t.Context(), "app.service"); err != nil || u.ActiveState != "inactive" {
			t.Errorf("it is %s, %v: it was started all the same", u.ActiveState, err)
		}
		if diff := cmp.Diff([]Call{{"Start", "app.service"}, {"Unit", "app.service"}}, calls); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
		f.Before = nil
		f.After = func(c Call) error {
			if c.Method == "Start" {
				return broken
			}
			return nil
		}
		if _, err := f.Start(t.Context(), "app.service"); !errors.Is(err, broken) {
			t.Error(err)
		}
		if u, err := f.Unit(t.Context(), "app.service"); err != nil || u.ActiveState != "active" {
			t.Errorf("it is %s, %v: it was not started", u.ActiveState, err)
		}
	})
}

// A program of the test stands for one of the node.
func TestFakePrograms(t *testing.T) {
	inBubble(t, func(t *testing.T, f *Fake, _ string) {
		f.Programs["/usr/bin/containerd"] = func(_ context.Context, c systemd.Command) systemd.Result {
			return systemd.Result{ExitCode: 1, Stderr: fmt.Append(nil, c.Argv[1:], c.Binds)}
		}
		r, err := f.RunOnHost(t.Context(), systemd.Command{
			Name: "dump", Argv: []string{"/usr/bin/containerd", "config", "dump"}, Binds: []systemd.Bind{{Source: "/a", Target: "/b"}},
		})
		if err != nil || r.ExitCode != 1 || string(r.Stderr) != "[config dump] [{/a /b}]" {
			t.Errorf("%d %q, %v", r.ExitCode, r.Stderr, err)
		}
	})
}

// A reboot takes rescues away, and a boot unit does what it does on a node: see TestBootUnit in package systemd.
func TestFakeReboots(t *testing.T) {
	inBubble(t, func(t *testing.T, f *Fake, dir string) {
		path := func(name string) string { return filepath.Join(dir, name) }
		write := func(name, content string) {
			t.Helper()
			if err := os.WriteFile(path(name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want := func(what, content string) {
			t.Helper()
			if got, err := os.ReadFile(path("config")); err != nil || string(got) != content {
				t.Errorf("%s: the configuration is %q, %v", what, got, err)
			}
		}
		reboot := func() {
			t.Helper()
			if err := f.Reboot(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if u, err := f.Unit(t.Context(), "app.service"); err != nil || u.ActiveState != "active" {
				t.Errorf("after a reboot the service is %s, %v", u.ActiveState, err)
			}
		}
		unit := systemd.BootUnit{
			Name: "hotplate-boot", Description: "x", Marker: path("marker"), Rescues: "hotplate-rescue-", Before: "app.service",
			Unchanged: path("sums"), Steps: systemd.RestoreFile(path("backup"), path("config")),
		}
		text, err := unit.Render()
		if err != nil {
			t.Fatal(err)
		}
		write("hotplate-boot.service", text)
		f.UnitDir = dir
		f.Define(Service{Name: "app.service", OnStart: func() Outcome { return Run }})
		if err := f.Enable(t.Context(), "hotplate-boot.service", "app.service"); err != nil {
			t.Fatal(err)
		}

		write("backup", "old")
		write("config", "new")
		write("sums", fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte("new")), path("config")))
		reboot()
		want("no marker", "new")

		write("marker", "")
		rescue := systemd.Rescue{
			Name: "hotplate-rescue-1", Description: "x", After: time.Hour, Steps: []systemd.Step{{Argv: []string{"/bin/true"}}},
		}
		if err := f.Arm(t.Context(), rescue); err != nil {
			t.Fatal(err)
		}
		reboot()
		want("a marker", "old")
		if _, err := os.Stat(systemd.Restored(path("marker"))); err != nil {
			t.Error(err)
		}
		if state, err := f.RescueState(t.Context(), rescue.Name); err != nil || state != systemd.RescueAbsent {
			t.Errorf("the rescue is %s, %v", state, err)
		}

		write("marker", "")
		write("config", "somebody else's")
		reboot()
		want("somebody else's", "somebody else's")
	})
}
