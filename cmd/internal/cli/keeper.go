package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/hotplate-dev/hotplate/hostconfig/restart"
	"github.com/hotplate-dev/hotplate/hostconfig/supervised"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// Keeper is what keeps containerd running on this node, for a restart.Config.
type Keeper struct {
	restart.Systemd
	// NoTimer is that of a restart.Config.
	NoTimer bool

	close func() error
}

// ConnectKeeper finds the keeper of the containerd at address: systemd, or where that cannot be reached and is not process 1
// here, whatever starts containerd again.
func ConnectKeeper(ctx context.Context, address string, cfg systemd.Config) (*Keeper, error) {
	manager, err := systemd.Connect(ctx, cfg)
	if err == nil {
		return &Keeper{Systemd: manager, close: manager.Close}, nil
	}
	if !errors.Is(err, systemd.ErrUnreachable) {
		return nil, err
	}
	alone, aloneErr := supervised.Connect(ctx, supervised.Config{Socket: address})
	if aloneErr != nil {
		return nil, fmt.Errorf("%w; and without it: %w", err, aloneErr)
	}
	return &Keeper{Systemd: alone, NoTimer: true, close: func() error { return nil }}, nil
}

// Close ends the connection.
func (k *Keeper) Close() error { return k.close() }
