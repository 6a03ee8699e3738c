package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/hotplate-dev/hotplate/agent/report"
)

const (
	// shutdownTimeout bounds how long requests under way may take to end.
	shutdownTimeout = 5 * time.Second
	// stuckAfter is how long without a pass of the reconciler means that the agent does not work. A pass takes at
	// most daemonTimeout and a probe, and they are at most idleInterval apart.
	stuckAfter = 5 * time.Minute
	// assessTimeout bounds how long the answer to what a restart would do may take. Two probes and two programs on the node
	// are part of it.
	assessTimeout = 50 * time.Second
	// writeTimeout bounds every answer.
	writeTimeout = time.Minute
)

// SocketName is the status socket's name in the state directory.
const SocketName = "status.sock"

// Serve answers until ctx ends: metrics, /healthz and /readyz on listen (host:port), and the report on the status
// socket in the state directory, which only root may open.
func (a *Agent) Serve(ctx context.Context, listen string) error {
	var lc net.ListenConfig
	tcp, err := lc.Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("listen for metrics and health (choose another --listen): %w", err)
	}
	socket := filepath.Join(a.cfg.StateDir, SocketName)
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		tcp.Close()
		return fmt.Errorf("remove the status socket of an earlier run: %w", err)
	}
	unix, err := lc.Listen(ctx, "unix", socket)
	if err != nil {
		tcp.Close()
		return fmt.Errorf("listen on the status socket: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil { // whatever the umask and the directory say
		tcp.Close()
		unix.Close()
		return fmt.Errorf("close the status socket to others: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	serve(ctx, g, tcp, a.httpHandler())
	serve(ctx, g, unix, a.statusHandler())
	return g.Wait()
}

// serve runs a server on l in g until ctx ends.
func serve(ctx context.Context, g *errgroup.Group, l net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: shutdownTimeout, WriteTimeout: writeTimeout}
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve on %s: %w", l.Addr(), err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			srv.Close()
		}
		return nil
	})
}

func (a *Agent) httpHandler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{agent: a})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, a.healthy()) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, a.working()) })
	return mux
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// healthy returns nil while the reconciler turns. Only a restart of the agent helps when it does not.
func (a *Agent) healthy() error {
	if last := a.hosts.stats.snapshot().lastPass; time.Since(last) > stuckAfter {
		return fmt.Errorf("no pass of the reconciler since %s", last.Format(time.RFC3339))
	}
	return nil
}

// working returns nil when the agent has a config in force, or nobody has written one, and containerd answers, or is just being
// restarted by the agent. Images need not be Ready.
func (a *Agent) working() error {
	r := a.Report()
	if r.Config.Hash == "" && r.Condition(report.ConfigValid).Reason != report.NoConfig {
		return errors.New("no config in force yet")
	}
	if c := r.Condition(report.ContainerdHealthy); c.Status != report.True && c.Reason != report.Restarting {
		return fmt.Errorf("containerd: %s: %s", c.Reason, c.Message)
	}
	return nil
}

// statusHandler serves the report to `hotplate status`, and what a restart would do to `hotplate restart --dry-run`.
func (a *Agent) statusHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, a.Report()) })
	mux.HandleFunc("GET /v1/restart", func(w http.ResponseWriter, req *http.Request) {
		ctx, cancel := context.WithTimeout(req.Context(), assessTimeout)
		defer cancel()
		is, err := a.restarts.assess(ctx)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		answerJSON(w, is)
	})
	return mux
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the client has gone away
}
