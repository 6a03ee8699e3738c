package agent

import (
	"fmt"
	"os"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/hostconfig/apply"
)

// saveLastGood keeps the document of s. The files that it names are not copied: they hold secrets, and where one of them
// is broken after a restart, what stands in the hosts directory already stays in force.
func saveLastGood(path string, s config.Snapshot) error {
	if err := apply.WriteFile(path, s.Raw, 0o600); err != nil {
		return fmt.Errorf("save the config as the last good one: %w", err)
	}
	return nil
}

func loadLastGood(path string) (config.Snapshot, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return config.Snapshot{}, fmt.Errorf("read the last good config: %w", err)
	}
	return config.Read(path, raw), nil
}
