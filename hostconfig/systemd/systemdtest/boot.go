package systemdtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// Enable is as a Manager's. It knows services, and unit files that systemd.BootUnit wrote.
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
			text, err := os.ReadFile(file)
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

// runUnitFile does what a unit of systemd.BootUnit does, as long as no timer of a rescue is there.
func (f *Fake) runUnitFile(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "ConditionPathExists":
			if _, err := os.Stat(value); err != nil {
				return nil
			}
		case "ExecCondition":
			if r := f.exec(f.ctx, systemd.Command{Argv: words(value)}); r.ExitCode != 0 {
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
