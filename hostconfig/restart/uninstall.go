package restart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// BootUnit is the unit that a Restarter installs, see package doc. It stays until Uninstall, and does nothing unless a
// transaction is open.
const BootUnit = bootName + ".service"

// Installed reports what a Restarter may have left that Uninstall has to take away: the boot unit, which only systemd can
// remove, and an open transaction. stateDir is its path for this process.
func Installed(stateDir string) (unit, open bool, err error) {
	there := func(name string) bool {
		_, lerr := os.Lstat(filepath.Join(stateDir, "restart", name))
		if lerr != nil && !errors.Is(lerr, fs.ErrNotExist) {
			err = errors.Join(err, lerr)
		}
		return lerr == nil
	}
	unit, open = there(BootUnit), there(journalFile)
	return unit, open, err
}

// Uninstall ends what an earlier transaction has left, as Recover does, and then takes the boot unit and the state away, but
// for locks and what somebody else had written. containerd and its configuration stay as they are: a config_path whose
// directory is empty means nothing, and to change it needs another restart. Where the outcome is Failed, or with an error,
// what is left is left for the next call.
func (r *Restarter) Uninstall(ctx context.Context) (*Outcome, error) {
	unlock, err := r.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	o, err := r.recover(ctx)
	if err != nil || o != nil && o.Kind == Failed {
		return o, err
	}
	if err := r.removeBoot(ctx); err != nil {
		return o, fmt.Errorf("remove %s: %w", bootFile, err)
	}
	// The text of the boot unit last: Installed goes by it.
	for _, file := range []string{recordFile, poisonFile, BootUnit} {
		if err := r.remove(r.state(file)); err != nil {
			return o, err
		}
	}
	return o, nil
}

// removeBoot removes the boot unit, if it may be there.
func (r *Restarter) removeBoot(ctx context.Context) error {
	switch there, err := r.exists(r.state(BootUnit)); {
	case err != nil || !there:
		return err
	case r.cfg.NoTimer:
		return errors.New("systemd has installed it, and is not here")
	}
	switch _, err := r.cfg.Systemd.Unit(ctx, BootUnit); {
	case err == nil:
		if err := r.cfg.Systemd.Disable(ctx, BootUnit); err != nil {
			return err
		}
	case !errors.Is(err, systemd.ErrNoUnit):
		return err
	}
	for _, step := range systemd.RemoveFile(bootFile) { // by systemd, as it was written
		result, err := r.cfg.Systemd.RunOnHost(ctx, systemd.Command{Name: "uninstall", Argv: step.Argv})
		if err == nil && result.ExitCode != 0 {
			err = fmt.Errorf("%s: %s", strings.Join(step.Argv, " "), bytes.TrimSpace(result.Stderr))
		}
		if err != nil && !step.IgnoreFailure {
			return err
		}
	}
	return r.cfg.Systemd.Reload(ctx)
}
