package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The paths of a stock node.
const (
	DefaultAddress  = "/run/containerd/containerd.sock"
	DefaultHostsDir = "/etc/containerd/certs.d"
	DefaultStateDir = "/var/lib/hotplate"
	DefaultConfig   = "/etc/hotplate/config.yaml"
)

// PullOwner marks what hotplate pull does to containerd. It is not the agent's mark, because the agent removes what it
// finds under its own and does not want.
const PullOwner = "hotplate-pull"

// ErrSilent ends a program with code 1 after it has already said why.
var ErrSilent = errors.New("")

// ExitError ends a program with this code after it has already said why.
type ExitError int

func (e ExitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Main runs cmd until it ends or a signal ends it, and exits the process. A second signal kills it at once.
func Main(cmd *cobra.Command) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	cmd.SilenceErrors = true
	cmd.SilenceUsage = true
	for _, sub := range cmd.Commands() {
		sub.Version = cmd.Version // --version is everywhere
	}
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		os.Exit(0)
	}
	if code := ExitError(0); errors.As(err, &code) {
		os.Exit(int(code))
	}
	if !errors.Is(err, ErrSilent) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", cmd.Name(), err)
	}
	os.Exit(1)
}

// Log is how a program logs.
type Log struct {
	level, format string
}

// Bind adds the logging flags.
func (l *Log) Bind(flags *pflag.FlagSet, level string) {
	flags.StringVar(&l.level, "log-level", level, "debug, info, warn or error")
	flags.StringVar(&l.format, "log-format", "text", "text or json")
}

// Logger makes the logger that the flags ask for.
func (l *Log) Logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: use debug, info, warn or error", l.level)
	}
	opts := &slog.HandlerOptions{Level: level}
	switch l.format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("--log-format %q: use text or json", l.format)
}
