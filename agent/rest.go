package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// What cannot be taken back is tried again after about releaseMin, then less and less often, down to every releaseMax.
const (
	releaseMin = 5 * time.Second
	releaseMax = time.Minute
)

// RestConfig is what Rest needs. All fields are required.
type RestConfig struct {
	// Node and Version are as in Config.
	Node, Version string
	// Listen is the address of /healthz and /readyz.
	Listen      string
	Coordinator Coordinator
	// Release takes back all that hotplate did to the node. It may be called again where it failed.
	Release func(ctx context.Context) error
	Log     *slog.Logger
}

// Rest is what an agent does whose Run ended with ErrRelease: it takes back what was done to the node, says so, and does
// nothing more. It returns nil when the coordinator wants the node again, or when ctx ends.
func Rest(ctx context.Context, cfg RestConfig) error {
	if cfg.Node == "" || cfg.Version == "" || cfg.Listen == "" || cfg.Coordinator == nil || cfg.Release == nil || cfg.Log == nil {
		return errors.New("agent: all fields of RestConfig are required")
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for health (choose another --listen): %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	serve(ctx, g, l, restHandler())
	r := &rest{cfg: cfg, is: report.Condition{Type: report.Released, Status: report.False, Reason: "Releasing",
		LastTransitionTime: time.Now()}}
	g.Go(func() error {
		r.release(ctx)
		return nil
	})
	g.Go(func() error {
		defer cancel()
		cfg.Coordinator.Run(ctx, r.report, func(d report.Directive) {
			if !d.Release {
				cfg.Log.Info("the coordinator wants this node again")
				cancel()
			}
		})
		return nil
	})
	return g.Wait()
}

// rest is the state of a node that is released.
type rest struct {
	cfg RestConfig

	mu sync.Mutex
	is report.Condition // guarded by mu
}

// release tries until it succeeds, or ctx ends.
func (r *rest) release(ctx context.Context) {
	retry := backoff.NewExponentialBackOff(backoff.WithInitialInterval(releaseMin), backoff.WithMaxInterval(releaseMax),
		backoff.WithMultiplier(2), backoff.WithMaxElapsedTime(0))
	for ctx.Err() == nil {
		err := r.cfg.Release(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			r.cfg.Log.Info("this node is as it was before hotplate")
			r.say(report.True, "AsBefore", "")
			return
		}
		wait := retry.NextBackOff()
		r.cfg.Log.Error("what hotplate did to this node is not all taken back", "err", err, "retryIn", wait.Round(time.Second))
		r.say(report.False, "ReleaseFailed", err.Error())
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

func (r *rest) say(status report.ConditionStatus, reason, message string) {
	r.mu.Lock()
	if r.is.Status != status {
		r.is.LastTransitionTime = time.Now()
	}
	r.is.Status, r.is.Reason, r.is.Message = status, reason, message
	r.mu.Unlock()
	r.cfg.Coordinator.Wake()
}

func (r *rest) report() report.NodeReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	return report.NodeReport{Node: r.cfg.Node, AgentVersion: r.cfg.Version, Time: time.Now(), Released: r.is.Status == report.True,
		Conditions: []report.Condition{r.is}}
}

// restHandler answers that all is well: a node that is released does what it should.
func restHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(prometheus.NewRegistry(), promhttp.HandlerOpts{}))
	for _, path := range []string{"GET /healthz", "GET /readyz"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { answer(w, nil) })
	}
	return mux
}
