package fetch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	creference "github.com/containerd/containerd/v2/pkg/reference"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// The defaults of Config.
const (
	DefaultMaxParallel   = 32
	DefaultStallTimeout  = 30 * time.Second
	DefaultMaxRetryAfter = 2 * time.Minute
	DefaultTries         = 8
)

// The waits between tries: the defaults make a last host that is down be tried for about a minute.
const (
	firstWait   = 500 * time.Millisecond
	longestWait = 15 * time.Second
	eagerTries  = 3 // at a host behind which there is another
)

// Config is what a Client needs.
type Config struct {
	// Hosts finds the registry hosts of a reference, in order; required.
	Hosts docker.RegistryHosts
	// Log is required.
	Log *slog.Logger
	// MaxParallel is how many requests for chunks are under way at once at most, over all repositories. How many a host
	// gets of them depends on what they bring. Default: 32.
	MaxParallel int
	// MaxBandwidth is how many bytes of bodies are read per second at most, over all repositories. Default: 0, no limit.
	MaxBandwidth int64
	// UserAgent is sent with every request; required.
	UserAgent string
	// StallTimeout is how long fewer than 16 KiB may arrive. Default: 30 s.
	StallTimeout time.Duration
	// MaxRetryAfter bounds how long a registry may keep us waiting at once. Default: 2 min.
	MaxRetryAfter time.Duration
	// Tries is how often in a row a request to the last host may fail without 64 KiB of progress. Default: 8.
	Tries int
}

// Client asks registries. It is safe for concurrent use. It holds what belongs to a host rather than to an image: the
// number of requests under way, how fast they are, and the hosts that want to be left alone.
type Client struct {
	cfg     Config
	slots   *semaphore.Weighted
	gate    *gate
	hosts   hosts
	limiter *rate.Limiter // nil if there is no limit
}

// New checks cfg and returns a Client.
func New(cfg Config) (*Client, error) {
	if cfg.Hosts == nil || cfg.Log == nil || cfg.UserAgent == "" {
		return nil, errors.New("fetch: Hosts, Log and UserAgent are required")
	}
	cfg.MaxParallel = cmp.Or(cfg.MaxParallel, DefaultMaxParallel)
	cfg.StallTimeout = cmp.Or(cfg.StallTimeout, DefaultStallTimeout)
	cfg.MaxRetryAfter = cmp.Or(cfg.MaxRetryAfter, DefaultMaxRetryAfter)
	cfg.Tries = cmp.Or(cfg.Tries, DefaultTries)
	if cfg.MaxParallel < 1 || cfg.MaxBandwidth < 0 {
		return nil, fmt.Errorf("fetch: MaxParallel %d and MaxBandwidth %d must be at least 1 and 0",
			cfg.MaxParallel, cfg.MaxBandwidth)
	}
	return &Client{
		cfg:     cfg,
		slots:   semaphore.NewWeighted(int64(cfg.MaxParallel)),
		gate:    newGate(cfg.MaxRetryAfter),
		hosts:   hosts{most: cfg.MaxParallel, all: make(map[string]*host)},
		limiter: newLimiter(cfg.MaxBandwidth),
	}, nil
}

// Repository is one repository as its hosts serve it. It is safe for concurrent use and must be closed.
type Repository struct {
	ref     reference.Named
	sources []*Source
}

// Repository looks up the hosts of ref, which has a tag or a digest.
func (c *Client) Repository(ref reference.Named) (*Repository, error) {
	domain := reference.Domain(ref)
	spec, err := creference.Parse(ref.String())
	if err != nil {
		return nil, fmt.Errorf("image reference %q: %w", ref, err)
	}
	scope, err := docker.RepositoryScope(spec, false)
	if err != nil {
		return nil, fmt.Errorf("image reference %q: %w", ref, err)
	}
	hosts, err := c.cfg.Hosts(domain)
	if err != nil {
		return nil, fmt.Errorf("hosts of registry %s: %w", domain, err)
	}
	r := &Repository{ref: ref}
	for _, h := range hosts {
		// containerd asks every host for blobs, also one that may only be pushed to; we take the file at its word.
		// A hosts.toml often has its only mirror as server too, so that nothing else is asked.
		again := slices.ContainsFunc(r.sources, func(s *Source) bool { return s.covers(h) })
		if h.Capabilities.Has(docker.HostCapabilityPull) && !again {
			h.Authorizer = r.authorizer(h)
			r.sources = append(r.sources, c.source(h, ref, scope))
		}
	}
	if len(r.sources) == 0 {
		return nil, fmt.Errorf("registry %s: none of its %d hosts may be pulled from: correct its hosts.toml",
			domain, len(hosts))
	}
	return r, nil
}

// authorizer is the one around that of h. Entries of one host with different paths may share containerd's, and with it the
// tokens; those of other hosts that share it keep their tokens apart, and need not wait for each other.
func (r *Repository) authorizer(h docker.RegistryHost) docker.Authorizer {
	if h.Authorizer == nil {
		return nil
	}
	for _, s := range r.sources {
		if a, ok := s.at.host.Authorizer.(*authorizer); ok && s.Name() == h.Host && a.next == h.Authorizer {
			return a
		}
	}
	return newAuthorizer(h.Authorizer)
}

// source prepares a host. The client is a copy: its transport is the host's own, tuned and wrapped.
func (c *Client) source(h docker.RegistryHost, ref reference.Named, scope string) *Source {
	client := &http.Client{}
	if h.Client != nil {
		*client = *h.Client
	}
	if client.Transport == nil {
		client.Transport = docker.DefaultHTTPTransport(nil)
	}
	own := client.Transport // the authorizer uses it too
	client.Transport = c.wrap(tuned(own, c.cfg.MaxParallel))
	client.CheckRedirect = checkRedirect(h)
	h.Client = client
	at := &endpoint{
		host: h, client: client, namespace: reference.Domain(ref), repository: reference.Path(ref),
		scope: scope, userAgent: c.cfg.UserAgent,
	}
	return &Source{client: c, at: at, host: c.hosts.get(h.Host), own: own}
}

// wrap puts the decorators around rt.
func (c *Client) wrap(rt http.RoundTripper) http.RoundTripper {
	rt = &clocked{next: &watchdog{next: &bounded{next: rt}, stall: c.cfg.StallTimeout}}
	if c.limiter != nil {
		rt = &paced{next: rt, limiter: c.limiter}
	}
	return c.gate.wrap(rt)
}

// covers tells whether nothing can be had from h that cannot be had from s. A server may also be pushed to.
func (s *Source) covers(h docker.RegistryHost) bool {
	have, used := s.at.host, h.Capabilities&(docker.HostCapabilityPull|docker.HostCapabilityResolve)
	return have.Scheme == h.Scheme && have.Host == h.Host && have.Path == h.Path && have.Capabilities.Has(used)
}

// Close lets go of idle connections.
func (r *Repository) Close() {
	for _, s := range r.sources {
		s.at.client.CloseIdleConnections()
		closeIdle(s.own)
	}
}

// Sources are the hosts in the order in which to ask them now: as configured, but those that did not answer last.
func (r *Repository) Sources() []*Source {
	out := slices.Clone(r.sources)
	slices.SortStableFunc(out, func(a, b *Source) int {
		return cmp.Compare(a.down.Load(), b.down.Load())
	})
	return out
}

// Patient tells whether to be patient with sources[i]: it is the last of those that could be reached so far.
func Patient(sources []*Source, i int) bool {
	for _, s := range sources[i+1:] {
		if s.down.Load() == 0 {
			return false
		}
	}
	return sources[i].down.Load() == 0 || i == len(sources)-1 && sources[0].down.Load() != 0
}

// each asks the sources in turn until one succeeds. The error tells what each of them said.
func each(ctx context.Context, doing string, sources []*Source, ask func(s *Source, patient bool) error) error {
	var errs []error
	for i, s := range sources {
		err := ask(s, Patient(sources, i))
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
		}
		errs = append(errs, s.Failed(doing, err))
	}
	return errors.Join(errs...)
}

// Get returns a small blob or manifest of at most limit bytes, with size and digest verified, from the first host that
// has it.
func (r *Repository) Get(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if desc.Size < 1 || desc.Size > limit {
		return nil, fmt.Errorf("%s %s: size %d is not between 1 and %d bytes", desc.MediaType, desc.Digest, desc.Size, limit)
	}
	var data []byte
	doing := fmt.Sprintf("fetch %s of %s", desc.Digest, r.ref)
	err := each(ctx, doing, r.Sources(), func(s *Source, patient bool) error {
		body, err := s.Whole(patient, nil).FetchRange(ctx, Chunk{Blob: desc, Length: desc.Size})
		if err != nil {
			return err
		}
		defer body.Close()
		var buf bytes.Buffer
		if _, err := io.Copy(&buf, body); err != nil {
			return err
		}
		if got := desc.Digest.Algorithm().FromBytes(buf.Bytes()); got != desc.Digest {
			return fmt.Errorf("wrong content: its digest is %s", got)
		}
		data = buf.Bytes()
		return nil
	})
	return data, err
}

// Resolve finds the manifest or index that the reference names, as containerd's resolver does, one host after the other.
// It returns the host that answered.
func (r *Repository) Resolve(ctx context.Context) (desc ocispec.Descriptor, host string, err error) {
	doing, sources := "resolve "+r.ref.String(), r.Sources()
	if _, ok := r.ref.(reference.Digested); !ok {
		sources = slices.DeleteFunc(sources, func(s *Source) bool {
			return !s.at.host.Capabilities.Has(docker.HostCapabilityResolve)
		})
	}
	if len(sources) == 0 {
		return desc, "", fmt.Errorf("%s: none of the hosts may resolve tags: correct the capabilities in hosts.toml", doing)
	}
	err = each(ctx, doing, sources, func(s *Source, patient bool) error {
		ctx := eagerly(ctx, !patient)
		return s.policy(patient).do(ctx, s.noted(nil), func() (err error) {
			if err = s.client.gate.wait(ctx, s.Name()); err != nil {
				return err
			}
			desc, err = s.resolve(ctx, r.ref)
			host = s.Name()
			return err
		})
	})
	return desc, host, err
}

// Source is one host of a repository. It is safe for concurrent use.
type Source struct {
	client *Client
	at     *endpoint
	host   *host
	own    http.RoundTripper // the host's, to close what the authorizer leaves open
	// noRanges is set when the host has not honoured a range; down, as 1, when it did not answer after all retries.
	noRanges atomic.Bool
	down     atomic.Int32
}

// Name is the host and port that is asked.
func (s *Source) Name() string { return s.at.host.Host }

// Ranges tells whether the host is thought to honour ranges.
func (s *Source) Ranges() bool { return !s.noRanges.Load() }

// Failed notes what err says about the host and returns it as a *HostError.
func (s *Source) Failed(doing string, err error) error {
	if unreachable(err) || transient(err) {
		s.down.Store(1)
	}
	if errors.Is(err, ErrRangeIgnored) {
		s.noRanges.Store(true)
	}
	return &HostError{Host: s.Name(), Doing: doing, Err: err}
}

// Ranged gets chunks by range requests, repeated as needed and bounded in number: more often if patient, see Patient.
// onRetry, which may be nil, is told of each failure that will be followed by another try, and of the wait
// before it; it may be called concurrently.
func (s *Source) Ranged(patient bool, onRetry func(error, time.Duration)) RangeFetcher {
	return s.chain(&rescuing{next: ranged{s.at}, host: s.host}, patient, onRetry)
}

// Whole gets chunks without range requests.
func (s *Source) Whole(patient bool, onRetry func(error, time.Duration)) RangeFetcher {
	return s.chain(whole{s.at}, patient, onRetry)
}

func (s *Source) chain(f RangeFetcher, patient bool, onRetry func(error, time.Duration)) RangeFetcher {
	return &retrying{
		next:    &limited{next: f, source: s, host: s.host, gate: s.client.gate, all: s.client.slots, eager: !patient},
		policy:  s.policy(patient),
		onRetry: s.noted(onRetry),
	}
}

func (s *Source) policy(patient bool) retryPolicy {
	p := retryPolicy{tries: s.client.cfg.Tries, first: firstWait, longest: longestWait}
	if !patient {
		p.tries, p.eager = min(p.tries, eagerTries), true
	}
	return p
}

func (s *Source) noted(onRetry func(error, time.Duration)) func(error, time.Duration) {
	return func(err error, wait time.Duration) {
		s.host.tally.retry(err)
		s.client.cfg.Log.Info("registry request failed, will try again",
			"host", s.Name(), "wait", wait.Round(time.Millisecond), "error", err)
		if onRetry != nil {
			onRetry(err, wait)
		}
	}
}

// resolve asks this host alone, so that its own answer is known. A manifest may have to be read for its digest or size.
func (s *Source) resolve(ctx context.Context, ref reference.Named) (ocispec.Descriptor, error) {
	ctx = withBound(ctx, bound{of: "the manifest", most: docker.MaxManifestSize})
	resolver := docker.NewResolver(docker.ResolverOptions{
		Hosts:   func(string) ([]docker.RegistryHost, error) { return []docker.RegistryHost{s.at.host}, nil },
		Headers: s.headers(),
	})
	_, desc, err := resolver.Resolve(quiet(ctx), ref.String())
	if err != nil {
		return desc, clean(err)
	}
	if desc.MediaType == images.MediaTypeDockerSchema1Manifest {
		return desc, errors.New("it is a Docker schema 1 image, which containerd no longer runs: rebuild it")
	}
	if !images.IsManifestType(desc.MediaType) && !images.IsIndexType(desc.MediaType) {
		return desc, fmt.Errorf("it is no container image but %q", desc.MediaType)
	}
	return desc, nil
}

// headers are those that the resolver adds to the host's own.
func (s *Source) headers() http.Header {
	h := http.Header{}
	if s.at.host.Header.Get("User-Agent") == "" {
		h.Set("User-Agent", s.at.userAgent)
	}
	return h
}
