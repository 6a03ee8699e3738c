package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// reconnect is how long gRPC waits at most before it dials again. containerd answers 70 to 270 ms after a restart.
const reconnect = time.Second

// restartTime is how long a restart of containerd is waited for where much would have to be done again otherwise.
const restartTime = 10 * time.Second

// cleanTimeout bounds what is done after the work was cancelled.
const cleanTimeout = 10 * time.Second

// away joins prefetch.ErrAway to an error that says that the daemon is not there. It is deferred by what talks to the
// daemon.
func away(err *error) {
	if *err != nil && isAway(*err) && !errors.Is(*err, prefetch.ErrAway) {
		*err = errors.Join(*err, prefetch.ErrAway)
	}
}

// isAway knows a daemon that is away by the code of gRPC, a stream that broke off, or CRI that is still starting
// (internal/cri/instrument/instrumented_service.go, checkInitialized, 2.4.2). A locked ingest has the code, too.
func isAway(err error) bool {
	var theirs fillError
	switch {
	case isLocked(err), errors.As(err, &theirs):
		return false
	case errdefs.IsUnavailable(err), status.Code(err) == codes.Unavailable:
		return true
	}
	return errors.Is(err, io.EOF) || strings.Contains(err.Error(), "server is not initialized yet") ||
		strings.HasSuffix(err.Error(), ": EOF")
}

// back waits until CRI answers, which is the last of the daemon's services to do so, for the time that a restart takes.
func (s *Store) back(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, restartTime)
	defer cancel()
	for wait := firstWait; ; wait = min(2*wait, reconnect) {
		_, err := runtimeapi.NewRuntimeServiceClient(s.conn).Version(ctx, &runtimeapi.VersionRequest{})
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !isAway(err) {
			return fmt.Errorf("ask containerd at %s for its CRI version: %w", s.cfg.Address, err)
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}
