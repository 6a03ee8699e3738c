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
// remove, and an open transaction or a configuration to put back. stateDir is its path for this process.
func Installed(stateDir string) (unit, more bool, err error) {
	there := func(name string) bool {
		_, lerr := os.Lstat(filepath.Join(stateDir, "restart", name))
		if lerr != nil && !errors.Is(lerr, fs.ErrNotExist) {
			err = errors.Join(err, lerr)
		}
		return lerr == nil
	}
	unit, more = there(BootUnit), there(journalFile) || there(originalsFile)
	return unit, more, err
}

// Receipt is what Uninstall has done.
type Receipt struct {
	// Ended is the outcome of a transaction that was open; nil if none was.
	Ended *Outcome
	// Restored are configurations of containerd that are as they were again, Left those that somebody has changed.
	Restored []string
	Left     []Left
}

// Uninstall ends what an earlier transaction has left, as Recover does, puts containerd's configuration back as it was before
// hotplate, and takes the boot unit and the state away, but for locks and what is somebody else's: copies of what they had
// written, and of what a configuration that they have changed was before. containerd is not
// restarted for that: the hosts directory, which it reads until its next start, is put back by its own writer. Where the
// outcome is Failed, or with an error, what is left is left for the next call.
func (r *Restarter) Uninstall(ctx context.Context) (done Receipt, err error) {
	unlock, err := r.lock()
	if err != nil {
		return done, err
	}
	defer unlock()
	done.Ended, err = r.recover(ctx)
	if err != nil || done.Ended != nil && done.Ended.Kind == Failed {
		return done, err
	}
	if done.Restored, done.Left, err = r.putBack(); err != nil {
		return done, err
	}
	if err := r.removeBoot(ctx); err != nil {
		return done, fmt.Errorf("remove %s: %w", bootFile, err)
	}
	// The text of the boot unit last: Installed goes by it.
	for _, file := range []string{recordFile, poisonFile, BootUnit} {
		if err := r.remove(r.state(file)); err != nil {
			return done, err
		}
	}
	return done, nil
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
