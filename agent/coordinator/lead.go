package coordinator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
)

const (
	// LeaseName is the Lease that the leader holds.
	LeaseName = report.CoordinatorName
	// LeaseDuration is when another one begins; a leader that cannot renew its Lease for renewDeadline stops.
	LeaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
	// tick is how often the leader looks at what nobody tells it.
	tick = 5 * time.Second
	// sweepTicks is every how many ticks all nodes are looked at, and certificates.
	sweepTicks = 6
	// The bounds of a connection.
	headerTimeout = 5 * time.Second
	bodyTimeout   = 30 * time.Second
	maxHeader     = 32 << 10
	endTimeout    = 5 * time.Second
	// startTimeout is how long it may take, after the Lease was taken, until the goroutine that leads runs.
	startTimeout = time.Second
)

// ServerConfig is what a Server needs. All fields but TLSSecret are required.
type ServerConfig struct {
	Client kubernetes.Interface
	// Urgent is for what must not wait until all that is written on Nodes has had its turn: the Lease, and whose token a report
	// comes with. It is a client with bounds of its own.
	Urgent kubernetes.Interface
	// Namespace is the coordinator's own, Pod this replica's name, AgentAccount the service account of agents, ConfigMap the one
	// that people write the config into: Events of a config that is rejected are about it.
	Namespace, Pod, AgentAccount, ConfigMap string
	// URL is where this replica answers, Listen the address that it listens on when it leads.
	URL, Listen string
	// TLSSecret is as in KeeperConfig.
	TLSSecret string
	// Source opens what the config comes from, for one leader.
	Source func(ctx context.Context) (ConfigSource, error)
	// Resolver makes what looks up tags with a config's registries and logins.
	Resolver func(s config.Snapshot) (func(ctx context.Context, ref string) (digest string, err error), error)
	Log      *slog.Logger
}

// ConfigSource tells what is wanted. kube.Source is one.
type ConfigSource interface {
	Next(ctx context.Context) (config.Snapshot, error)
	Close() error
}

// Server is one replica. The one that has the Lease answers agents.
type Server struct {
	cfg     ServerConfig
	metrics *metrics
	leads   atomic.Pointer[leader] // nil while another replica leads
}

// NewServer checks cfg.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.Client == nil || cfg.Urgent == nil || cfg.Namespace == "" || cfg.Pod == "" || cfg.AgentAccount == "" || cfg.ConfigMap == "" || cfg.URL == "" || cfg.Listen == "" ||
		cfg.Source == nil || cfg.Resolver == nil || cfg.Log == nil {
		return nil, errors.New("coordinator: all fields of ServerConfig but TLSSecret are required")
	}
	return &Server{cfg: cfg, metrics: newMetrics()}, nil
}

// Run works until ctx ends, and gives the Lease back then.
func (s *Server) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := s.term(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("this replica stops to lead", "err", err)
			pause(ctx, retryPeriod)
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// term waits for the Lease and leads until it is lost, or until leading fails. The Lease is given back when the last answer of this
// leader has been given: until then nobody else may lead.
func (s *Server) term(ctx context.Context) error {
	lease, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	failed := make(chan error, 1)
	var led atomic.Bool
	defer context.AfterFunc(ctx, func() {
		if !led.Load() {
			end()
		}
	})()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Namespace: s.cfg.Namespace, Name: LeaseName},
			Client: s.cfg.Urgent.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: s.cfg.Pod}},
		LeaseDuration: LeaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod, ReleaseOnCancel: true, Name: LeaseName,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(held context.Context) {
				led.Store(true)
				held, stop := context.WithCancel(held)
				defer context.AfterFunc(ctx, stop)()
				failed <- s.lead(held)
				stop()
				end()
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("elect a leader: %w", err)
	}
	elector.Run(lease)
	if led.Load() {
		return <-failed
	}
	select {
	case err := <-failed:
		return err
	case <-time.After(startTimeout):
		return nil // it has not led
	}
}

// leader is what there is only while this replica leads.
type leader struct {
	*Coordinator
	view     *View
	marker   *Marker
	keeper   *Keeper
	resolver *Resolver
	requests *requests
	handler  *handler
	events   events.EventRecorder
	soak     atomic.Int64                                                          // of the config in force
	resolve  atomic.Pointer[func(ctx context.Context, ref string) (string, error)] // by the config in force
	interval atomic.Int64
}

// lead does everything that the leader does, until ctx ends.
func (s *Server) lead(ctx context.Context) error {
	s.cfg.Log.Info("this replica leads", "url", s.cfg.URL)
	defer s.cfg.Log.Info("this replica does not lead any more")
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: s.cfg.Client.EventsV1()})
	defer broadcaster.Shutdown()
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("record events: %w", err)
	}
	l, err := s.newLeader(broadcaster.NewRecorder(scheme.Scheme, FieldManager))
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer l.marker.Close()
	defer l.view.Stop()
	defer l.requests.stop()
	defer end() // before those two, which wait for what it ends
	if err := errors.Join(l.view.Start(ctx), l.requests.start(ctx)); err != nil {
		return err
	}
	l.SetRequests(l.requests.all())
	rollout, said, err := l.keeper.Rollout(ctx)
	if err != nil {
		return err
	}
	l.SetRollout(rollout)
	l.setRelease(said)
	if err := errors.Join(l.SetPaused(ctx, said.Pause, said.Resume), l.keeper.Lead(ctx)); err != nil {
		return err
	}
	s.leads.Store(l)
	defer s.leads.Store(nil)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.readConfig(ctx, l) })
	g.Go(func() error {
		l.marker.Run(ctx)
		return nil
	})
	g.Go(func() error {
		l.resolver.Run(ctx)
		return nil
	})
	g.Go(func() error { return s.ticks(ctx, l) })
	g.Go(func() error { return s.serveReports(ctx, l) })
	return g.Wait()
}

// newLeader connects the parts. None of them does anything yet.
func (s *Server) newLeader(recorder events.EventRecorder) (l *leader, err error) {
	l = &leader{events: recorder}
	core := s.cfg.Client.CoreV1()
	if l.keeper, err = NewKeeper(KeeperConfig{ConfigMaps: core.ConfigMaps(s.cfg.Namespace), Secrets: core.Secrets(s.cfg.Namespace),
		TLSSecret: s.cfg.TLSSecret, URL: s.cfg.URL, Log: s.cfg.Log}); err != nil {
		return nil, err
	}
	// They know each other: none is used before lead.
	look := func(node string) { l.marker.Look(node) }
	if l.view, err = NewView(s.cfg.Client, func(node string) {
		look(node)
		l.resolver.Look()
	}, func(node string) {
		l.Gone(node)
		l.handler.forget(node)
		look(node)
	}); err != nil {
		return nil, err
	}
	if l.Coordinator, err = New(Config{Nodes: l.view, Keep: l.keeper.Keep, NewTag: func() { l.resolver.Look() }, Changed: look, Log: s.cfg.Log}); err != nil {
		return nil, err
	}
	if l.marker, err = NewMarker(MarkerConfig{Nodes: core.Nodes(), Get: l.view.Get, Ready: s.metrics.ready, Events: recorder, Log: s.cfg.Log,
		Conclude: func(node *corev1.Node, had bool) (Conclusion, bool) { return l.Conclude(nodeOf(node), had) }}); err != nil {
		return nil, err
	}
	if l.resolver, err = NewResolver(ResolverConfig{Tags: l.Tags, Log: s.cfg.Log, Tell: l.SetResolved,
		Interval: func() time.Duration { return time.Duration(l.interval.Load()) },
		Resolve: func(ctx context.Context, ref string) (string, error) {
			resolve := l.resolve.Load()
			if resolve == nil {
				return "", errors.New("there is no config in force yet")
			}
			return (*resolve)(ctx, ref)
		}}); err != nil {
		return nil, err
	}
	if l.requests, err = newRequests(s.cfg.Client, s.cfg.Namespace, func() {
		l.SetRequests(l.requests.all())
		l.resolver.Look()
	}, s.cfg.Log); err != nil {
		return nil, err
	}
	auth := NewAuthenticator(tokenReviewer{s.cfg.Urgent}, s.cfg.Namespace, s.cfg.AgentAccount, func(pod, uid string) (string, bool) {
		return l.view.NodeOfPod(s.cfg.Namespace, pod, uid)
	})
	l.handler = newHandler(auth, l.Answer, s.metrics.reported, s.cfg.Log)
	return l, nil
}

// readConfig puts every good config in force. A faulty one is told, and changes nothing.
func (s *Server) readConfig(ctx context.Context, l *leader) error {
	source, err := s.cfg.Source(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	for {
		snapshot, err := source.Next(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("read config: %w", err)
		case snapshot.Err != nil:
			s.reject(l, snapshot.Err)
			continue
		}
		resolve, err := s.cfg.Resolver(snapshot)
		if err != nil {
			s.reject(l, err)
			continue
		}
		l.resolve.Store(&resolve)
		l.soak.Store(int64(snapshot.Config.Restart.Soak))
		l.interval.Store(int64(snapshot.Config.Cluster.ResolveInterval))
		l.SetIntent(Intent{Hash: snapshot.Hash, Images: snapshot.Config.Images, Cluster: snapshot.Config.Cluster})
		l.resolver.Look()
		s.cfg.Log.Info("config in force", "configHash", snapshot.Hash, "images", len(snapshot.Config.Images))
		l.events.Eventf(s.configMap(), nil, corev1.EventTypeNormal, "HotplateConfigInForce", "ReadConfig", "%d images, hash %s",
			len(snapshot.Config.Images), snapshot.Hash)
	}
}

// reject says what is wrong with a config, where people look who have just edited it, too.
func (s *Server) reject(l *leader, err error) {
	s.cfg.Log.Error("config rejected; what was in force stays so", "err", err)
	l.events.Eventf(s.configMap(), nil, corev1.EventTypeWarning, "HotplateConfigRejected", "ReadConfig", "%s",
		cut("what was in force stays so: "+err.Error()))
}

func (s *Server) configMap() *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Namespace: s.cfg.Namespace, Name: s.cfg.ConfigMap}
}

// ticks looks at what nobody tells: time, and what people write on the Rollout. It ends when somebody else has written that: what this
// leader knows of it does not count any more.
func (s *Server) ticks(ctx context.Context, l *leader) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		_, said, err := l.keeper.Rollout(ctx)
		if err == nil {
			err = errors.Join(l.SetPaused(ctx, said.Pause, said.Resume), l.keepRelease(ctx, said))
		}
		err = errors.Join(err, l.Expire(ctx, time.Duration(l.soak.Load())))
		if n%sweepTicks == 0 {
			err = errors.Join(err, l.keeper.Lead(ctx))
			for _, node := range l.view.Names() {
				l.marker.Look(node)
			}
			l.resolver.Look()
		}
		if errors.Is(err, errOvertaken) {
			return err
		}
		if err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("trying again in a moment", "err", err)
		}
	}
}

func (l *leader) setRelease(said Said) {
	before := Release{}
	if said.Released != nil {
		before = *said.Released
	}
	l.SetRelease(said.Release, before)
}

// keepRelease goes by what people say of a release, and writes how far it is.
func (l *leader) keepRelease(ctx context.Context, said Said) error {
	l.setRelease(said)
	is, asked := l.Releasing(l.view.Marked())
	if !asked || said.Released != nil && is.same(*said.Released) {
		return nil
	}
	return l.keeper.KeepRelease(ctx, is)
}

// serveReports answers agents until ctx ends.
func (s *Server) serveReports(ctx context.Context, l *leader) error {
	var lc net.ListenConfig
	tcp, err := lc.Listen(ctx, "tcp", s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for reports: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle(report.ReportPath, l.handler)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout, ReadTimeout: bodyTimeout, WriteTimeout: bodyTimeout,
		MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: l.keeper.Certificate}}
	// A connection that waits for the next report takes as much memory as all that is known of its node.
	srv.SetKeepAlivesEnabled(false)
	return ServeUntil(ctx, srv, func() error { return srv.ServeTLS(tcp, "", "") })
}

// ServeUntil answers by serve, srv's Serve or ServeTLS, until ctx ends or serve fails, and lets requests under way end.
func ServeUntil(ctx context.Context, srv *http.Server, serve func() error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := serve(); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("answer requests: %w", err)
		}
		return nil
	})
	<-ctx.Done()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	if srv.Shutdown(end) != nil {
		srv.Close()
	}
	return g.Wait()
}
