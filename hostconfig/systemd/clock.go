package systemd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// monotonic is the time on the clock that systemd counts by (CLOCK_MONOTONIC).
func monotonic() (time.Duration, error) {
	offsets, err := os.ReadFile("/proc/self/timens_offsets") // since Linux 5.6
	if err == nil && hasOwnClock(offsets) {
		return 0, errors.New("this process has another clock than the node: run it without a time namespace")
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// hasOwnClock reads timens_offsets, see time_namespaces(7).
func hasOwnClock(offsets []byte) bool {
	for line := range bytes.Lines(offsets) {
		f := bytes.Fields(line)
		if len(f) == 3 && string(f[0]) == "monotonic" && (string(f[1]) != "0" || string(f[2]) != "0") {
			return true
		}
	}
	return false
}

// startup is when systemd started, on that clock. What OnStartupSec= says is counted from there.
func (m *Manager) startup(ctx context.Context) (time.Duration, error) {
	var v dbus.Variant
	err := m.ask(ctx, answerTimeout, func(ctx context.Context, l *link) error {
		return l.get(ctx, managerPath, managerInterface, "UserspaceTimestampMonotonic", &v)
	})
	return moment(v, err)
}

// due is when a timer elapses next, on that clock.
func (m *Manager) due(ctx context.Context, timer string) (time.Duration, error) {
	var v dbus.Variant
	err := m.ask(ctx, answerTimeout, func(ctx context.Context, l *link) error {
		return l.get(ctx, unitPath(timer), timerInterface, "NextElapseUSecMonotonic", &v)
	})
	return moment(v, err)
}

func moment(v dbus.Variant, err error) (time.Duration, error) {
	if err != nil {
		return 0, err
	}
	µs, ok := v.Value().(uint64)
	if !ok || µs == 0 || µs > uint64(Forever/time.Microsecond) {
		return 0, fmt.Errorf("systemd does not tell a time, but %s", v)
	}
	return time.Duration(µs) * time.Microsecond, nil
}
