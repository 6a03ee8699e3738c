package cli

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/prefetch"
)

// socketTimeout bounds one connect to a socket of this machine.
const socketTimeout = 5 * time.Second

// CheckSocket returns an error unless somebody listens on containerd's socket. A client of containerd would wait long for
// one that is not there.
func CheckSocket(ctx context.Context, address string) error {
	dialer := net.Dialer{Timeout: socketTimeout}
	conn, err := dialer.DialContext(ctx, "unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		return fmt.Errorf("connect to containerd (is it running, are you root, is --address its socket?): %w", err)
	}
	return conn.Close()
}

// StagingDir is where a program keeps partial layers where containerd unpacks. Each owner has its own, because the agent
// removes what it finds in its own and does not want.
func StagingDir(stateDir, owner string) string { return filepath.Join(stateDir, "staging", owner) }

// PrefetchConfig is base with the limits of a config, on which Default has been called.
func PrefetchConfig(limits config.Prefetch, base prefetch.Config) prefetch.Config {
	base.MaxParallel = limits.MaxParallel
	base.MaxBandwidth = int64(limits.MaxBandwidth)
	base.Memory = int64(limits.Memory)
	base.KeepLayers = prefetch.KeepLayers(limits.KeepLayers)
	base.MaxPinned = int64(limits.MaxPinned)
	if limits.Way == config.WayAPI {
		base.Way = prefetch.API
	}
	if base.Reserve = limits.DiskReserve.Share(); base.Reserve == 0 {
		base.Reserve = -1 // 0 is the default there
	}
	return base
}
