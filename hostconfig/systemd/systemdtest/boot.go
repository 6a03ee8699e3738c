package systemdtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// Enable is as a Manager's, but does not reload. It knows services, and unit files that systemd.BootUnit wrote.
func (f *Fake) Enable(ctx context.Context, files ...string) error {
	return f.call(ctx, "Enable", strings.Join(files, " "), func() error {
		for _, file := range files {
			if u := f.units[file]; u != nil {
				u.enabled = true
				continue
			}
			if !filepath.IsAbs(file) {
				file = filepath.Join(f.UnitDir, file)
			}
			text, err := os.ReadFile(f.local(file))
			if err != nil {
				return err
			}
			if !strings.Contains(string(text), "[Install]") {
				return errors.New("no [Install] section in them")
			}
			f.linked[path.Base(file)] = file
		}
		return nil
	})
}

// Disable is as a Manager's.
func (f *Fake) Disable(ctx context.Context, units ...string) error {
	return f.call(ctx, "Disable", strings.Join(units, " "), func() error {
		for _, name := range units {
			if u := f.units[name]; u != nil {
				u.enabled = false
			}
			delete(f.linked, name)
		}
		return nil
	})
}

// Reboot ends everything, forgets what is transient, runs the enabled boot units, and starts the enabled services. It
// returns when all of this is done; a service may still be starting.
func (f *Fake) Reboot() error {
	f.mu.Lock()
	for _, r := range f.rescues {
		r.timer.Stop()
	}
	clear(f.rescues)
	for _, u := range f.units {
		u.finish(systemd.ResultCanceled)
		u.halt()
		u.starts, u.restarts, u.invocation = nil, 0, ""
	}
	var files []string
	for _, file := range f.linked {
		files = append(files, file)
	}
	f.mu.Unlock()
	var errs []error
	for _, file := range files {
		if err := f.runUnitFile(file); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", file, err))
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range f.units {
		if u.enabled {
			u.queue(nil)
			u.begin(true)
		}
	}
	return errors.Join(errs...)
}

// pullIn runs the unit files that are enabled and wanted by a unit that is about to start. It needs f.mu not to be held.
func (f *Fake) pullIn(unit string) {
	f.mu.Lock()
	var files []string
	for _, file := range f.linked {
		files = append(files, file)
	}
	f.mu.Unlock()
	for _, file := range files {
		if text, err := os.ReadFile(f.local(file)); err == nil && slices.Contains(strings.Fields(setting(text, "WantedBy")), unit) {
			_ = f.runUnitFile(file) // who only wants it starts all the same
		}
	}
}

// setting is what a unit file says last of a key.
func setting(text []byte, key string) (value string) {
	for line := range strings.Lines(string(text)) {
		if k, v, _ := strings.Cut(strings.TrimSpace(line), "="); k == key {
			value = v
		}
	}
	return value
}

// unitOfFile describes a unit of which there is only a file. It needs f.mu.
func (f *Fake) unitOfFile(name string) (systemd.Unit, error) {
	u := systemd.Unit{
		Name: name, LoadState: "loaded", ActiveState: "inactive", SubState: "dead", Type: "oneshot",
		FragmentPath: filepath.Join(f.UnitDir, name), UnitFileState: "disabled",
	}
	if file, ok := f.linked[name]; ok {
		u.FragmentPath, u.UnitFileState = file, "enabled"
	}
	text, err := os.ReadFile(f.local(u.FragmentPath))
	if err != nil {
		return systemd.Unit{}, systemd.ErrNoUnit
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart="); ok {
			value, ignore := strings.CutPrefix(value, "-")
			argv := words(value)
			u.ExecStart = append(u.ExecStart, systemd.Exec{Path: argv[0], Argv: argv, IgnoreFailure: ignore})
		}
	}
	return u, nil
}

// rescueWaits tells whether a timer of a rescue is there. pattern is that of a BootUnit's condition.
func (f *Fake) rescueWaits(pattern string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.rescues {
		if ok, _ := path.Match(pattern, "/run/systemd/transient/"+r.Name+".timer"); ok && r.loaded {
			return true
		}
	}
	return false
}

// runUnitFile does what a unit of systemd.BootUnit does.
func (f *Fake) runUnitFile(file string) error {
	text, err := os.ReadFile(f.local(file))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "ConditionPathExists":
			if _, err := os.Stat(f.local(value)); err != nil {
				return nil
			}
		case "ConditionPathExistsGlob":
			if f.rescueWaits(strings.TrimPrefix(value, "!")) {
				return nil
			}
		case "ExecCondition":
			if r := f.exec(f.ctx, systemd.Command{Argv: words(value)}); r.ExitCode != 0 && !f.NoExecCondition {
				return nil
			}
		case "ExecStart":
			value, ignore := strings.CutPrefix(value, "-")
			if r := f.exec(f.ctx, systemd.Command{Argv: words(value)}); r.ExitCode != 0 && !ignore {
				return fmt.Errorf("%s: exit code %d: %s", value, r.ExitCode, r.Stderr)
			}
		}
	}
	return nil
}

// words takes a command line apart. Quotes around a word are all it knows.
func words(line string) []string {
	var list []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		word, rest := "", ""
		if strings.HasPrefix(line, `"`) {
			word, rest, _ = strings.Cut(line[1:], `"`)
		} else {
			word, rest, _ = strings.Cut(line, " ")
		}
		list, line = append(list, word), rest
	}
	return list
}
