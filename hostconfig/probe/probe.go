package probe

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// Host is the registry host that the probe asks the daemon for. It cannot exist.
const Host = "hotplate-probe.invalid"

// timeout bounds one probe. A daemon that obeys answers in about 10 ms; one that does not tries to resolve Host, and
// a resolver that never answers must not hold the agent up.
const timeout = 15 * time.Second

// Config is what a Prober needs. All fields are required.
type Config struct {
	// Pull asks the daemon through CRI to pull an image, and returns CRI's error.
	Pull func(ctx context.Context, ref string) error
	// Publish makes a host directory visible to the daemon and returns what removes it again.
	Publish func(ctx context.Context, dir string, files hostconfig.Tree) (remove func(context.Context) error, err error)
}

// Prober runs probes. It is safe for concurrent use, but concurrent probes publish the same directory, so that one of
// them fails.
type Prober struct {
	cfg Config
}

// New returns a Prober.
func New(cfg Config) (*Prober, error) {
	if cfg.Pull == nil || cfg.Publish == nil {
		return nil, errors.New("probe: Pull and Publish are required")
	}
	return &Prober{cfg: cfg}, nil
}

// Verdict is what a probe found.
type Verdict struct {
	// Live is true when the daemon's request arrived.
	Live bool
	// UserAgent is the daemon's, such as containerd/2.4.2; empty unless Live.
	UserAgent string
	// Cause is the daemon's own words for a pull that did not arrive; empty when Live.
	Cause string
}

// Probe finds out whether the daemon reads the hosts directory. An error means that it could not be found out: the
// daemon or its CRI plugin is away, or the probe's directory could not be published.
func (p *Prober) Probe(ctx context.Context) (_ Verdict, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	nonce := strings.ToLower(rand.Text())
	l, err := listen(ctx, nonce)
	if err != nil {
		return Verdict{}, fmt.Errorf("listen for the probe: %w", err)
	}
	defer l.close()

	tree, err := hostconfig.Render([]hostconfig.Registry{{
		Host:     Host,
		Mirrors:  []hostconfig.Mirror{{URL: "http://" + l.addr(), Path: nonce}},
		Upstream: hostconfig.Deny,
	}}, hostconfig.Version{})
	if err != nil {
		return Verdict{}, fmt.Errorf("render the probe's host directory: %w", err)
	}
	remove, err := p.cfg.Publish(ctx, Host, tree)
	if err != nil {
		return Verdict{}, fmt.Errorf("publish the probe's host directory: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		if rerr := remove(ctx); rerr != nil {
			err = errors.Join(err, fmt.Errorf("remove the probe's host directory: %w", rerr))
		}
	}()
	return p.verdict(ctx, l, p.cfg.Pull(ctx, Host+"/p:"+nonce))
}

// verdict concludes from what arrived, and where nothing did, from CRI's answer.
func (p *Prober) verdict(ctx context.Context, l *listener, pullErr error) (Verdict, error) {
	if agent := l.hit.Load(); agent != nil {
		return Verdict{Live: true, UserAgent: *agent}, nil
	}
	switch code := status.Code(pullErr); {
	case pullErr == nil:
		return Verdict{}, fmt.Errorf("containerd pulled %s, a name that cannot exist: is a proxy answering for it?", Host)
	case code == codes.Unimplemented:
		return Verdict{}, fmt.Errorf("containerd serves no CRI (its CRI plugin did not load; see containerd's log): %w",
			pullErr)
	case code == codes.Unavailable:
		return Verdict{}, fmt.Errorf("containerd does not answer: %w", pullErr)
	case code == codes.Canceled && ctx.Err() == nil:
		return Verdict{}, pullErr
	case ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded):
		return Verdict{}, ctx.Err()
	}
	return Verdict{Cause: status.Convert(pullErr).Message()}, nil
}

// listener answers 404 to everything and remembers who asked below the nonce.
type listener struct {
	l    net.Listener
	srv  *http.Server
	hit  atomic.Pointer[string]
	done chan struct{}
}

func listen(ctx context.Context, nonce string) (*listener, error) {
	nl, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &listener{l: nl, done: make(chan struct{})}
	l.srv = &http.Server{
		ReadHeaderTimeout: timeout,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/v2/"+nonce+"/") {
				agent := r.UserAgent()
				l.hit.CompareAndSwap(nil, &agent)
			}
			http.NotFound(w, r)
		}),
	}
	go func() {
		defer close(l.done)
		_ = l.srv.Serve(nl) // ends with ErrServerClosed; an earlier end shows as a probe that does not arrive
	}()
	return l, nil
}

func (l *listener) addr() string { return l.l.Addr().String() }

// close ends the listener and its connections, and waits for it.
func (l *listener) close() {
	l.srv.Close()
	<-l.done
}
