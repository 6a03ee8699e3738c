package coordinator

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// resolveAtOnce is how many tags are looked up at once, resolveTimeout bounds each.
	resolveAtOnce  = 8
	resolveTimeout = time.Minute
	// resolveRetry is when a tag is looked up again that nobody knew. Meanwhile what it meant before goes on to count.
	resolveRetry = 30 * time.Second
	// resolveApart is between two passes at least: each goes through all nodes, and in a large cluster something changes all the time.
	resolveApart = time.Second
	// maxTags bounds how many are looked up.
	maxTags = 2000
)

// ResolverConfig is what a Resolver needs. All fields are required.
type ResolverConfig struct {
	// Tags are the references that are to be looked up, as config.ParseRef spells them.
	Tags func() []string
	// Resolve asks the registries, in the order in which nodes ask them.
	Resolve func(ctx context.Context, ref string) (digest string, err error)
	// Interval is how long an answer counts.
	Interval func() time.Duration
	// Tell is called with what all tags mean, and why others are not known.
	Tell func(resolved Resolved, unknown map[string]string)
	Log  *slog.Logger
}

// Resolver looks up what tags mean, once for all nodes, so that all get the same image and registries one request instead of
// one from each. Run is called once; Look from any goroutine.
type Resolver struct {
	cfg  ResolverConfig
	look chan struct{} // capacity 1

	// What follows belongs to Run.
	known   Resolved
	unknown map[string]string
	due     map[string]time.Time
}

// NewResolver returns one that has asked nobody yet.
func NewResolver(cfg ResolverConfig) (*Resolver, error) {
	if cfg.Tags == nil || cfg.Resolve == nil || cfg.Interval == nil || cfg.Tell == nil || cfg.Log == nil {
		return nil, errors.New("resolver: all fields of ResolverConfig are required")
	}
	return &Resolver{cfg: cfg, look: make(chan struct{}, 1), known: Resolved{}, unknown: map[string]string{}, due: map[string]time.Time{}}, nil
}

// Look makes it look soon whether there are new tags. What is known is not asked for again.
func (r *Resolver) Look() {
	select {
	case r.look <- struct{}{}:
	default:
	}
}

// Run works until ctx ends.
func (r *Resolver) Run(ctx context.Context) {
	for ctx.Err() == nil {
		next := r.pass(ctx)
		pause(ctx, resolveApart)
		timer := time.NewTimer(next - resolveApart)
		select {
		case <-ctx.Done():
		case <-r.look:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// pass looks up what is due, tells what is known now, and returns when the next one is due.
func (r *Resolver) pass(ctx context.Context) time.Duration {
	tags := r.cfg.Tags()
	if len(tags) > maxTags {
		r.cfg.Log.Error("too many tags are wanted in this cluster; the rest is not looked up", "tags", len(tags), "most", maxTags)
		tags = tags[:maxTags]
	}
	before, beforeUnknown := maps.Clone(r.known), maps.Clone(r.unknown)
	r.forget(tags)
	r.ask(ctx, tags)
	if ctx.Err() != nil {
		return 0
	}
	if !maps.Equal(before, r.known) || !maps.Equal(beforeUnknown, r.unknown) {
		r.cfg.Tell(maps.Clone(r.known), maps.Clone(r.unknown))
	}
	next := resolveRetry
	for _, at := range r.due {
		next = min(next, max(time.Until(at), time.Second))
	}
	return next
}

// forget drops what is not wanted any more.
func (r *Resolver) forget(tags []string) {
	wanted := make(map[string]bool, len(tags))
	for _, tag := range tags {
		wanted[tag] = true
	}
	maps.DeleteFunc(r.known, func(tag, _ string) bool { return !wanted[tag] })
	maps.DeleteFunc(r.unknown, func(tag, _ string) bool { return !wanted[tag] })
	maps.DeleteFunc(r.due, func(tag string, _ time.Time) bool { return !wanted[tag] })
}

// ask asks for those that are due.
func (r *Resolver) ask(ctx context.Context, tags []string) {
	var g errgroup.Group
	g.SetLimit(resolveAtOnce)
	var mu sync.Mutex // guards the maps
	now := time.Now()
	for _, tag := range tags {
		mu.Lock()
		due := r.due[tag]
		mu.Unlock()
		if now.Before(due) {
			continue
		}
		g.Go(func() error {
			one, cancel := context.WithTimeout(ctx, resolveTimeout)
			defer cancel()
			digest, err := r.cfg.Resolve(one, tag)
			mu.Lock()
			defer mu.Unlock()
			r.note(ctx, tag, digest, err)
			return nil
		})
	}
	_ = g.Wait() // they return nil
}

// note takes an answer.
func (r *Resolver) note(ctx context.Context, tag, digest string, err error) {
	switch {
	case ctx.Err() != nil:
	case err != nil:
		r.due[tag] = time.Now().Add(resolveRetry)
		if r.unknown[tag] != err.Error() {
			r.cfg.Log.Warn("tag not resolved; what it meant before goes on to count", "ref", tag, "before", r.known[tag], "err", err)
		}
		r.unknown[tag] = err.Error()
	default:
		r.due[tag] = time.Now().Add(r.cfg.Interval())
		delete(r.unknown, tag)
		if r.known[tag] != digest {
			r.cfg.Log.Info("resolved", "ref", tag, "digest", digest, "before", r.known[tag])
		}
		r.known[tag] = digest
	}
}
