//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
)

// tree describes everything below dir: mode, owner, time of change, and the content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		desc := fmt.Sprintf("%s %s", info.Mode(), info.ModTime().Format(time.RFC3339Nano))
		switch {
		case path == dir:
			desc = info.Mode().String() // its own time changes with every entry that comes and goes
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			desc += fmt.Sprintf(" %d bytes %x", len(data), sha256.Sum256(data))
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			desc += " -> " + target
		}
		rel, err := filepath.Rel(dir, path)
		out[rel] = desc
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sameTree(t *testing.T, before, after map[string]string) {
	t.Helper()
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the hosts directory is not as it was (-was +is):\n%s", diff)
	}
}

// foreign puts host directories of somebody else into the hosts directory, with old times and odd modes.
func (n *node) foreign(files map[string]string) {
	n.t.Helper()
	for name, data := range files {
		path := filepath.Join(n.hosts(), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			n.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o640); err != nil {
			n.t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Unix(1_600_000_000, 123_000_000)); err != nil {
			n.t.Fatal(err)
		}
	}
	for name := range files {
		dir := filepath.Join(n.hosts(), filepath.Dir(name))
		if err := os.Chmod(dir, 0o750); err != nil {
			n.t.Fatal(err)
		}
		if err := os.Chtimes(dir, time.Time{}, time.Unix(1_600_000_001, 0)); err != nil {
			n.t.Fatal(err)
		}
	}
}

// otherTool is a hosts.toml that is not hotplate's.
const otherTool = "# Written by other-tool\nserver = \"https://elsewhere.invalid\"\n[host.\"https://elsewhere.invalid\"]\n"

func TestConflictAndAdoption(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "somebody else's directory is reported and left alone; adopted it works; uninstall puts it back")
		mirror := newMirror(t)
		n := newNode(t, line, nil)
		n.foreign(map[string]string{
			"taken.invalid/hosts.toml":     otherTool,
			"taken.invalid/ca.crt":         string(mirror.ca.PEM()),
			"unrelated.invalid/hosts.toml": otherTool,
		})
		before := tree(t, n.hosts())
		c := n.config("taken.invalid", config.Deny, mirror)
		c.Registries = append(c.Registries, config.Registry{Host: "free.invalid", Upstream: config.Deny,
			Mirrors: c.Registries[0].Mirrors})
		n.writeConfig(c)
		n.start()
		n.until(notReady, condition(report.HostsLive, report.True),
			registry("taken.invalid", report.RegistryConflict, "other-tool", "adopt: true"),
			registry("free.invalid", report.RegistryApplied))
		after := tree(t, n.hosts())
		for name, want := range before {
			if after[name] != want {
				t.Errorf("%s was touched: %s, was %s", name, after[name], want)
			}
		}
		img := mirror.push(t, small())
		n.mustPull(img.under("free.invalid"), img)
		row.saw("conflict named with its tool; the other registry applied and pulled through")

		c.Registries[0].Adopt = true
		n.configure(c)
		n.until(ready, registry("taken.invalid", report.RegistryApplied))
		img = mirror.push(t, small())
		n.mustPull(img.under("taken.invalid"), img)
		row.saw("adopted: pulled through")

		n.stop()
		n.uninstall()
		sameTree(t, before, tree(t, n.hosts()))
		row.saw("uninstalled: %d entries as before in content, mode and time", len(before))
	})
}

func TestUninstallLeavesNothing(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "after uninstall the hosts directory is byte for byte what it was")
		up, mirror := newUpstream(t), newMirror(t)
		n := newNode(t, line, nil)
		n.foreign(map[string]string{"unrelated.invalid/hosts.toml": otherTool, "empty.invalid/note.txt": "a note"})
		before := tree(t, n.hosts())
		img := mirror.push(t, small())
		c := n.allow(up, mirror)
		c.Images = []config.Image{{Name: "model", Ref: img.under(up.Host())}}
		n.writeConfig(c)
		n.start()
		n.until(ready)
		n.waitApplied()
		n.stop()
		if diff := cmp.Diff(before, tree(t, n.hosts())); diff == "" {
			t.Error("ending the agent changed the hosts directory: it must only do that at uninstall")
		}
		n.uninstall()
		sameTree(t, before, tree(t, n.hosts()))
		status, err := n.cri.ImageStatus(t.Context(), img.under(up.Host()))
		if err != nil {
			t.Fatal(err)
		}
		if status == nil || status.GetPinned() {
			t.Errorf("after uninstall CRI has %v, want the image without a pin", status)
		}
		row.saw("%d entries as before; the image stays, unpinned", len(before))
		n.uninstall() // again is no error
	})
}

func TestDrift(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "what somebody changes in a file of ours is repaired")
		mirror := newMirror(t)
		n := newNode(t, line, nil)
		hosts := []string{"one.invalid", "two.invalid", "three.invalid", "four.invalid"}
		c := n.config(hosts[0], config.Deny, mirror)
		for _, h := range hosts[1:] {
			c.Registries = append(c.Registries, config.Registry{Host: h, Upstream: config.Deny,
				Mirrors: c.Registries[0].Mirrors})
		}
		n.writeConfig(c)
		n.start()
		n.until(ready)
		n.waitApplied()
		// Each on a registry of its own: three times on the same one is a competitor.
		for i, change := range []struct {
			what string
			do   func(path string) error
		}{
			{"overwritten", func(path string) error { return os.WriteFile(path, []byte(otherTool), 0o644) }},
			{"removed", os.Remove},
			{"mode changed", func(path string) error { return os.Chmod(path, 0o666) }},
			{"directory removed", func(path string) error { return os.RemoveAll(filepath.Dir(path)) }},
		} {
			took := n.repaired(hosts[i], change.do)
			row.saw("%s: repaired after %s", change.what, took.Round(time.Millisecond))
		}
		if strings.Contains(n.log(), "it is not watched") {
			row.saw("the kernel granted no file watch, so the timer did it (fs.inotify.max_user_instances)")
		}
		img := mirror.push(t, small())
		n.mustPull(img.under(hosts[0]), img)
		n.until(ready)
		if !strings.Contains(n.log(), "somebody else changed the hosts directory") {
			t.Error("the log does not tell of the drift")
		}
	})
}

// repaired changes the hosts.toml of a registry, waits until it is as before, and tells how long that took.
func (n *node) repaired(host string, change func(path string) error) time.Duration {
	n.t.Helper()
	path := n.hostsTOML(host)
	want, err := os.ReadFile(path)
	if err != nil {
		n.t.Fatal(err)
	}
	mode := fileMode(n.t, path)
	start := time.Now()
	if err := change(path); err != nil {
		n.t.Fatal(err)
	}
	waitFor(n.t, "the file to be put back", func() string {
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			return fmt.Sprintf("%v: %s", err, got)
		}
		if m := fileMode(n.t, path); m != mode {
			return fmt.Sprintf("its mode is %s, not %s", m, mode)
		}
		return ""
	})
	return time.Since(start)
}

func fileMode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

func TestCompetitor(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "a program that keeps changing a file is named and left alone; other registries go on")
		mirror := newMirror(t)
		n := newNode(t, line, nil)
		c := n.config("fought.invalid", config.Deny, mirror)
		c.Registries = append(c.Registries, config.Registry{Host: "calm.invalid", Upstream: config.Deny,
			Mirrors: c.Registries[0].Mirrors})
		n.writeConfig(c)
		n.start()
		n.until(ready)
		n.waitApplied()
		// In one rename: seen half written, the file would not name its writer.
		overwrite := func(path string) error { return apply.WriteFile(path, []byte(otherTool), 0o644) }
		for range 3 {
			n.repaired("fought.invalid", overwrite)
		}
		n.until(notReady, registry("fought.invalid", report.RegistryFlapping, "Written by other-tool", "left alone until"),
			registry("calm.invalid", report.RegistryApplied))
		if err := overwrite(n.hostsTOML("fought.invalid")); err != nil {
			t.Fatal(err)
		}
		// A repair of the other registry is a pass that has seen the fourth change too.
		n.repaired("calm.invalid", os.Remove)
		got, err := os.ReadFile(n.hostsTOML("fought.invalid"))
		if err != nil || string(got) != otherTool {
			t.Errorf("the fourth change was not left alone: %v\n%s", err, got)
		}
		row.saw("Flapping after 3 changes, the 4th left alone, competitor named by its comment")
	})
}

func TestInvalidConfig(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "an invalid config is told with its lines, and the last good one stays in force, also after a restart")
		mirror := newMirror(t)
		n := newNode(t, line, nil)
		good := n.config("registry.invalid", config.Deny, mirror)
		hash := n.writeConfig(good)
		n.start()
		n.until(ready, condition(report.ConfigValid, report.True))
		n.waitApplied()

		const faulty = "apiVersion: hotplate.dev/v1alpha1\nregistries:\n- host: registry.invalid\n" +
			"  upstram: Deny\n- host: other.invalid\n  mirrors: 7\n"
		n.write("config.yaml", []byte(faulty))
		rejected := func(r report.NodeReport) string {
			all := strings.Join(r.Config.Rejected, "\n")
			return lacks("the report", all, []string{"config.yaml:4", "upstram", "config.yaml:6", "mirrors"})
		}
		inForce := func(r report.NodeReport) string {
			if r.Config.Hash != hash {
				return "config " + r.Config.Hash + " is in force, not the last good one"
			}
			return ""
		}
		n.until(ready, condition(report.ConfigValid, report.False, "upstram"), rejected, inForce)
		if text := n.run("hotplate", "status", "--state-dir", n.path("state")).out; !strings.Contains(text, "REJECTED") ||
			!strings.Contains(text, "config.yaml:4") {
			t.Errorf("hotplate status does not tell of the faults:\n%s", text)
		}
		n.repaired("registry.invalid", os.Remove)
		row.saw("ConfigValid False with 2 faults and their lines, node stays Ready, drift still repaired")

		n.stop()
		if err := os.RemoveAll(filepath.Dir(n.hostsTOML("registry.invalid"))); err != nil {
			t.Fatal(err)
		}
		n.start()
		n.until(ready, condition(report.ConfigValid, report.False), rejected, inForce)
		img := mirror.push(t, small())
		n.mustPull(img.under("registry.invalid"), img)
		row.saw("restarted with it: the last good config is applied")

		n.configure(good)
		n.until(ready, condition(report.ConfigValid, report.True), inForce, func(r report.NodeReport) string {
			return strings.Join(r.Config.Rejected, "\n")
		})
		row.saw("mended: ConfigValid True")
	})
}
