package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
)

// The files that an agent keeps in its state directory, beside those of hostconfig/apply.
const (
	lastGoodName = "last-good-config.yaml"
	provenName   = "proven-cas.json"
	// directiveName is what the coordinator said last.
	directiveName = "last-directive.json"
)

// stagingName is the directory for partial layers, which package prefetch keeps there where containerd unpacks.
const stagingName = "staging"

// Forget removes what agents have kept in the state directory, so that a later one starts without a past. No agent may
// be running.
func Forget(stateDir string) error {
	var errs []error
	for _, name := range []string{lastGoodName, provenName, directiveName, SocketName} {
		if err := os.Remove(filepath.Join(stateDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("forget an earlier agent: %w", err))
		}
	}
	if err := os.RemoveAll(filepath.Join(stateDir, stagingName)); err != nil {
		errs = append(errs, fmt.Errorf("forget layers that were not finished: %w", err))
	}
	return errors.Join(errs...)
}

// saveLastGood keeps the document of s. The files that it names are not copied: they hold secrets, and where one of them
// is broken after a restart, what stands in the hosts directory already stays in force.
func saveLastGood(path string, s config.Snapshot) error {
	if err := apply.WriteFile(path, s.Raw, 0o600); err != nil {
		return fmt.Errorf("save the config as the last good one: %w", err)
	}
	return nil
}

// loadLastGood reads the document that was kept, and looks names of objects up in those that are there now.
func loadLastGood(path string, objects config.Objects) (config.Snapshot, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return config.Snapshot{}, fmt.Errorf("read the last good config: %w", err)
	}
	return config.Read(path, raw, objects), nil
}
