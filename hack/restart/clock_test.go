//go:build e2e

package restart_test

import (
	"time"

	"golang.org/x/sys/unix"
)

// monotonic is the clock by which systemd tells when a unit was started.
func monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail
	return time.Duration(ts.Nano())
}
