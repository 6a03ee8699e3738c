package systemd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
)

const (
	// DefaultPrivateSocket is PID 1's own socket. Only root of the node may use it, and no message bus is needed.
	DefaultPrivateSocket = "/run/systemd/private"
	// DefaultSystemBus is the socket of the node's message bus.
	DefaultSystemBus = "/run/dbus/system_bus_socket"

	// answerTimeout bounds one request, connecting and retries included: PID 1 may be stopped, or busy with reloads. D-Bus
	// libraries wait for 25 s.
	answerTimeout = 25 * time.Second
	// reloadTimeout is the same for a daemon-reload, which runs generators and reads every unit file.
	reloadTimeout = 90 * time.Second
	// retryInterval is the pause between attempts while systemd is away, which a re-execution takes 0.1 to 0.5 s for.
	retryInterval = 50 * time.Millisecond
)

// Config says where the node's systemd is found. The zero value is right on the node itself, and in a pod that has the
// node's directories /run/systemd and /run/dbus mounted at the same places.
type Config struct {
	// PrivateSocket is tried first. Default DefaultPrivateSocket.
	PrivateSocket string
	// SystemBus is tried when the private socket does not answer. Default DefaultSystemBus.
	SystemBus string
}

// Manager speaks with the systemd (PID 1) of one node. It connects again when systemd replaced its sockets, as it does
// when it is re-executed. It is safe for concurrent use.
type Manager struct {
	sockets []socket

	turn   chan struct{} // holds one token; whoever has it may use the fields below
	link   *link         // nil before the first connection
	closed bool
}

// Connect connects to systemd and asks it for its version, so that a Manager is returned only when systemd answers.
// The error says which sockets were tried, why each was not it, and what to change; errors.Is finds ErrUnreachable in
// it.
func Connect(ctx context.Context, cfg Config) (*Manager, error) {
	if cfg.PrivateSocket == "" {
		cfg.PrivateSocket = DefaultPrivateSocket
	}
	if cfg.SystemBus == "" {
		cfg.SystemBus = DefaultSystemBus
	}
	m := &Manager{
		sockets: []socket{{path: cfg.PrivateSocket}, {path: cfg.SystemBus, bus: true}},
		turn:    make(chan struct{}, 1),
	}
	m.turn <- struct{}{}
	if _, err := m.connected(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// Close ends the connection. Calls under way end with an error.
func (m *Manager) Close() error {
	<-m.turn
	defer func() { m.turn <- struct{}{} }()
	m.closed = true
	if m.link != nil {
		m.link.conn.Close()
	}
	return nil
}

// Version is systemd's own, such as "252.39-1~deb12u2".
func (m *Manager) Version(ctx context.Context) (string, error) {
	var version string
	err := m.ask(ctx, answerTimeout, func(ctx context.Context, l *link) (err error) {
		version, err = l.version(ctx)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("ask systemd for its version: %w", err)
	}
	return version, nil
}

// ask makes a request that may be repeated, and repeats it while systemd is away for a moment.
func (m *Manager) ask(ctx context.Context, timeout time.Duration, request func(context.Context, *link) error) error {
	return m.request(ctx, timeout, request, func(err error) bool { return neverSent(err) || lost(err) })
}

// tell makes a request that must not be done twice. It is repeated only when it certainly did not arrive.
func (m *Manager) tell(ctx context.Context, request func(context.Context, *link) error) error {
	err := m.request(ctx, answerTimeout, request, neverSent)
	if lost(err) {
		return fmt.Errorf("%w: %w", ErrConnectionLost, err)
	}
	return err
}

func (m *Manager) request(
	ctx context.Context, timeout time.Duration, request func(context.Context, *link) error, again func(error) bool,
) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var last error
	err := backoff.Retry(func() error {
		l, err := m.connected(ctx)
		if err == nil {
			if err = request(ctx, l); err == nil {
				return nil
			}
			if !again(err) {
				return backoff.Permanent(known(err))
			}
		} else if errors.Is(err, ErrClosed) {
			return backoff.Permanent(err)
		}
		last = err
		return err
	}, backoff.WithContext(backoff.NewConstantBackOff(retryInterval), ctx))
	if err != nil && last != nil && ctx.Err() != nil && !errors.Is(err, last) {
		return fmt.Errorf("%w: %w", err, last) // not only that it took too long, but what was in the way
	}
	return err
}

// connected returns a connection that was alive a moment ago, a new one if need be.
func (m *Manager) connected(ctx context.Context) (*link, error) {
	select {
	case <-m.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { m.turn <- struct{}{} }()
	if m.closed {
		return nil, ErrClosed
	}
	if m.link != nil {
		if !m.link.isGone() {
			return m.link, nil
		}
		m.link.conn.Close()
		m.link = nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	failed := ErrUnreachable
	for _, s := range m.sockets {
		l, err := s.connect(ctx)
		if err == nil {
			m.link = l
			return l, nil
		}
		failed = fmt.Errorf("%w; %s: %w (%s)", failed, s.path, err, s.advice(err))
	}
	return nil, failed
}
