//go:build e2e

package configtoml_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
	"github.com/hotplate-dev/hotplate/hack/tools"
	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/configtoml"
)

// TestSameAsContainerd compares ConfigPath with what the real containerd makes of each case of the corpus and of
// generated configurations (`config dump`, which starts nothing), and checks that an edit changes config_path in it and
// nothing else. Where hotplate says that containerd does not start, it must not be able to read the configuration.
func TestSameAsContainerd(t *testing.T) {
	for _, line := range rigtest.Lines(t) {
		t.Run(line, func(t *testing.T) {
			d := newDumper(t, line)
			for name, files := range corpus(t) {
				t.Run(name, func(t *testing.T) { d.compare(t, files) })
			}
			n := 300
			if rigtest.Full() {
				n = 1000
			}
			t.Run("generated", func(t *testing.T) {
				for i := range n {
					files := newGenerator(uint64(i)).files()
					d.compare(t, files)
					if t.Failed() {
						t.Fatalf("generated configuration %d:\n%s", i, show(files))
					}
				}
			})
			d.tell(t)
		})
	}
}

// dumper runs the containerd of one line.
type dumper struct {
	path    string
	version hostconfig.Version
	// what came out of it, for the log
	edits, refusals, notStarting, defaults int
}

func newDumper(t *testing.T, line string) *dumper {
	t.Helper()
	b, err := tools.NewBuilder(tools.Config{})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := b.Ensure(t.Context(), "containerd-"+line)
	if err != nil {
		t.Fatal(err)
	}
	d := &dumper{path: filepath.Join(dir, "containerd")}
	out, err := exec.CommandContext(t.Context(), d.path, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	d.version = version(t, strings.Fields(string(out))[2])
	return d
}

func (d *dumper) tell(t *testing.T) {
	t.Logf("containerd %s: %d edits, %d refusals, %d that it does not start with, %d with its default", d.version, d.edits,
		d.refusals, d.notStarting, d.defaults)
	if d.edits == 0 || d.refusals == 0 {
		t.Error("nothing was edited, or nothing was refused")
	}
}

// dump runs `containerd config dump`. ok is false if it cannot read the configuration.
func (d *dumper) dump(t *testing.T, file string) (out []byte, ok bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.path, "--config", file, "config", "dump")
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + filepath.Dir(d.path)}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return stdout.Bytes(), err == nil
}

// compare lays the files out in a directory, which stands for /etc/containerd in them too.
func (d *dumper) compare(t *testing.T, files map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		write(t, filepath.Join(dir, name), strings.ReplaceAll(text, "/etc/containerd/", dir+"/"))
	}
	file := filepath.Join(dir, "config.toml")
	c, err := configtoml.Read(os.DirFS("/"), file, d.version)
	if err != nil {
		t.Fatal(err)
	}
	before, ok := d.dump(t, file)
	d.compareStart(t, c, ok)
	if ok && !undecided(c) {
		d.compareValue(t, c, before)
	}
	edit, err := c.Plan(dir+"/certs.d", configtoml.Options{Convert: true, AcceptLost: true})
	var refused *configtoml.RefusedError
	switch {
	case errors.As(err, &refused):
		d.refusals++
		return
	case err != nil:
		t.Fatal(err)
	case edit.IsZero():
		return
	}
	d.edits++
	write(t, edit.Path, string(edit.New))
	after, ok := d.dump(t, file)
	if !ok {
		t.Fatalf("containerd cannot read the configuration after the edit\n%s", edit.Diff())
	}
	if got := dumped(t, d.version, after); got != dir+"/certs.d" {
		t.Errorf("after the edit config_path is %q\n%s", got, edit.Diff())
	}
	if !c.Exists() && d.version.Major == 1 {
		return // there is no dump of a file that does not exist
	}
	if err := configtoml.OnlyRegistryDiffers(before, after); err != nil {
		t.Errorf("%v\n%s", err, edit.Diff())
	}
}

// compareStart: containerd must be able to read the configuration if and only if hotplate says so.
func (d *dumper) compareStart(t *testing.T, c *configtoml.Config, ok bool) {
	t.Helper()
	fatal := []string{"bad-toml", "bad-version", "bad-imports", "bad-pattern", "bad-type", "version-too-new", "newer-drop-in",
		"short-plugin-name"}
	if d.version.Major == 1 {
		fatal = append(fatal, "missing-import") // 2.x dumps what it could read, and then does not start
	}
	says := !slices.ContainsFunc(c.Warnings(), func(w hostconfig.Warning) bool {
		// The linter of single files says so of keys as well.
		return slices.Contains(fatal, w.Code) && !strings.Contains(w.Where, ": ")
	})
	if !c.Exists() && d.version.Major == 1 {
		says = false
	}
	if !says {
		d.notStarting++
	}
	if says != ok {
		t.Errorf("containerd %s can read the configuration: %t; hotplate says %t: %v", d.version, ok, says, c.Warnings())
	}
}

// undecided tells of configurations whose meaning nobody can foretell, or of which the dump says nothing.
func undecided(c *configtoml.Config) bool {
	return slices.ContainsFunc(c.Warnings(), func(w hostconfig.Warning) bool {
		return slices.Contains([]string{"two-names", "odd-case", "relative-pattern", "missing-import", "cri-disabled"}, w.Code)
	})
}

func (d *dumper) compareValue(t *testing.T, c *configtoml.Config, dump []byte) {
	t.Helper()
	s := c.ConfigPath()
	want := s.Value
	rules, _ := d.version.ConfigRules()
	if s.Default && rules.EmptyIsDefault {
		d.defaults++
		want = "" // set later, when the plugin starts
	}
	if got := dumped(t, d.version, dump); got != want {
		t.Errorf("containerd %s: config_path is %q, and hotplate says %v\n%s", d.version, got, s, warningsOf(c))
	}
}

func dumped(t *testing.T, v hostconfig.Version, dump []byte) string {
	t.Helper()
	var doc struct {
		Plugins map[string]struct {
			Registry struct {
				ConfigPath string `toml:"config_path"`
			} `toml:"registry"`
		} `toml:"plugins"`
	}
	if err := toml.Unmarshal(dump, &doc); err != nil {
		t.Fatal(err)
	}
	name := v3
	if v.Major == 1 {
		name = v2
	}
	if _, ok := doc.Plugins[name]; !ok {
		t.Fatalf("the dump has no plugin %s, but %v", name, slices.Sorted(maps.Keys(doc.Plugins)))
	}
	return doc.Plugins[name].Registry.ConfigPath
}

func warningsOf(c *configtoml.Config) string {
	var b strings.Builder
	for _, w := range c.Warnings() {
		fmt.Fprintln(&b, w)
	}
	return b.String()
}
