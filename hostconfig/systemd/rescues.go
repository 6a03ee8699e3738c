package systemd

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Rescues are the names of all Rescues that wait or run and whose names begin with prefix, whoever armed them, sorted.
func (m *Manager) Rescues(ctx context.Context, prefix string) ([]string, error) {
	if err := checkOwnName(strings.TrimSuffix(prefix, "-")); err != nil {
		return nil, err
	}
	timers, err := m.list(ctx, "", prefix+"*.timer")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, timer := range timers {
		name := strings.TrimSuffix(timer, ".timer")
		state, err := m.RescueState(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("list rescues: %w", err)
		}
		if state == RescueArmed || state == RescueRunning {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}
