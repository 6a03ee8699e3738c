package images

import (
	"context"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/distribution/reference"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/prefetch"
)

const (
	// recheckInterval is how often a Ready image is looked at although nothing was told of it.
	recheckInterval = time.Minute
	// lookDelay is how long after a change a Ready image is looked at: changes come in swarms.
	lookDelay = time.Second
	// fillInterval is how often the scheduler looks whether the images under way leave the network to others.
	fillInterval = time.Second
	// progressInterval is how often the log says how far an image is.
	progressInterval = 10 * time.Second
	// storeTimeout bounds what the worker asks of containerd itself; Ensure has bounds of its own.
	storeTimeout = time.Minute
	// A failed image is tried again after retryMin, then less and less often, down to every retryMax. A new config
	// starts over.
	retryMin = 5 * time.Second
	retryMax = 5 * time.Minute
	// brokenRetry is when an image is tried again that nobody can unpack: its tag may have moved.
	brokenRetry = time.Hour
)

// Puller makes images ready. prefetch.Prefetcher is one, and says what the methods do.
type Puller interface {
	Ensure(ctx context.Context, img prefetch.Image, pr *prefetch.Progress) (prefetch.Result, error)
	Check(ctx context.Context, img prefetch.Image, digest string) (prefetch.Result, bool, error)
	Sweep(ctx context.Context, wanted []prefetch.Image) error
	Pins(ctx context.Context) ([]prefetch.Pin, error)
	Unpin(ctx context.Context, imageID string) error
	Remove(ctx context.Context, imageID string) error
	Watch(ctx context.Context, changed func()) error
	Stats() prefetch.Stats
	Disk(ctx context.Context) (prefetch.Volume, error)
	Throttle(host string, d time.Duration)
	Throttled() map[string]time.Duration
}

// Image is one image that is wanted.
type Image struct {
	config.Image
	// Digest is what Ref means, where somebody else has found that out; with it no registry is asked.
	Digest string
	// Waits says why nothing may be done for it yet; empty if it may.
	Waits string
}

// Wanted is what a config wants of a Worker.
type Wanted struct {
	// Puller makes the images ready. With another one than before, work under way begins anew.
	Puller Puller
	Images []Image
	// Waits says why it is not known yet which images are wanted; empty if it is. Images are some of them then, and all that
	// is done is to look whether they are there. Nothing is let go.
	Waits string
	// AtOnce is how many images of the same priority are prepared at once, at least 1.
	AtOnce int
	// WhenUnwanted says what becomes of images that are not in Images any more.
	WhenUnwanted config.WhenUnwanted
	// Sources is, by registry host of the config, all that decides where images of that registry come from. When it is not
	// deeply equal to what it was, work under way on images of that registry begins anew.
	Sources map[string]any
}

// Worker makes the wanted images ready and keeps them so. It is safe for concurrent use; Run and Once are called once.
type Worker struct {
	log *slog.Logger
	// changed is called, without locks held and by more than one goroutine, when an image's phase has changed.
	changed func()
	known   chan struct{} // closed by the first SetWanted
	// schedule and look wake the goroutines of these names. Both have capacity 1.
	schedule, look chan struct{}

	mu       sync.Mutex // guards what follows, and what the images hold
	wanted   Wanted
	images   []*image  // in the order of work
	working  []*image  // those that Ensure works on; they need not be wanted any more
	swept    bool      // what is not wanted any more was removed since SetWanted
	sweepAt  time.Time // when to try again
	sweepErr string    // why it was not, as it was told last
	letGoAt  time.Time
	letGo    bool   // nothing is left to let go of since all was Ready
	complain string // the last complaint about letting go
	unwanted []report.Unwanted
	waits    map[string]string // by registry host of the config: why its images wait, empty if they do not
	paused   string            // why nothing may begin; empty if it may
	noLeave  string            // why nothing may be fetched that is not under way; empty if it may
	throttle map[string]time.Time
	stats    Stats
	disk     *report.Disk // as it was last looked at; nil where that cannot be done
	diskAt   time.Time    // when it is looked at next
}

// image is one wanted image and what became of it.
type image struct {
	name     string
	ref      string // as pods write it
	want     prefetch.Image
	digest   string // what ref means, where that is known; empty where a registry has to be asked
	waits    string
	priority int

	phase  report.ImagePhase
	result prefetch.Result // the newest, of Ensure or Check
	pulled prefetch.Result // the newest for which something was fetched
	// reason and message are for the report.
	reason   string
	message  string
	looked   bool // containerd was asked about it, so that it may be prepared
	again    bool // it was Ready, and is no more
	unsure   bool // it is Ready as far as the node can tell; no registry was asked yet what its tag means
	lookAt   time.Time
	touched  bool      // a record changed since the last look or preparation began
	news     bool      // the way to the registry may have changed since preparation began
	due      time.Time // when it is tried next
	retry    *backoff.ExponentialBackOff
	done     int64 // bytes of the layers, of total, when Ensure last ended
	total    int64
	progress *prefetch.Progress // while Ensure runs
	cancel   context.CancelFunc // ends Ensure; nil while it does not run
}

// New returns a Worker that wants nothing yet. It calls changed, from any goroutine, when an image's phase has changed.
func New(log *slog.Logger, changed func()) *Worker {
	return &Worker{log: log, changed: changed, known: make(chan struct{}), schedule: make(chan struct{}, 1),
		look: make(chan struct{}, 1), throttle: make(map[string]time.Time), stats: newStats()}
}

// SetWanted replaces what is wanted and how it is pulled. Work on an image that is not wanted any more, or differently,
// ends; images that failed are tried again at once, because the new config may be the cure.
func (w *Worker) SetWanted(wanted Wanted) {
	wanted.AtOnce = max(wanted.AtOnce, 1)
	w.mu.Lock()
	before, old := w.wanted, w.images
	w.wanted, w.images = wanted, nil
	w.swept, w.sweepAt, w.sweepErr = false, time.Time{}, ""
	w.letGo, w.letGoAt, w.complain, w.unwanted = false, time.Time{}, "", nil
	for _, c := range wanted.Images {
		want, digest := c.want()
		i := slices.IndexFunc(old, func(e *image) bool { return e.name == c.Name && reflect.DeepEqual(e.want, want) })
		if i < 0 {
			w.images = append(w.images, &image{name: c.Name, ref: c.Ref, want: want, digest: digest, waits: c.Waits, priority: c.Priority,
				phase: report.ImagePending, retry: newRetry()})
			continue
		}
		e := old[i]
		old = slices.Delete(old, i, i+1)
		e.priority, e.ref, e.waits = c.Priority, c.Ref, c.Waits
		e.due, e.lookAt = time.Time{}, time.Time{}
		e.retry.Reset()
		w.images = append(w.images, e)
		if e.cancel != nil && (wanted.Puller != before.Puller || !reflect.DeepEqual(before.source(e), wanted.source(e))) {
			w.log.Info("preparing image anew: the config changed where it comes from, or how", "image", e.name)
			e.cancel()
		}
	}
	slices.SortStableFunc(w.images, func(a, b *image) int { return b.priority - a.priority })
	for _, e := range old {
		if e.cancel != nil {
			e.cancel()
		}
	}
	select {
	case <-w.known:
	default:
		close(w.known)
	}
	if wanted.Puller != before.Puller {
		for host, until := range w.throttle {
			if left := time.Until(until); left > 0 {
				wanted.Puller.Throttle(host, left)
			}
		}
	}
	w.mu.Unlock()
	wake(w.schedule)
	wake(w.look)
	w.changed()
}

// source is what decides where e comes from.
func (w Wanted) source(e *image) any { return ofRegistry(w.Sources, e) }

// ofRegistry is the entry of the registry that e names, or of the default one.
func ofRegistry[T any](byHost map[string]T, e *image) T {
	ref, err := reference.ParseDockerRef(e.want.Ref)
	if err != nil {
		var none T // Ensure says what is wrong with it
		return none
	}
	v, ok := byHost[reference.Domain(ref)]
	if !ok {
		v = byHost[hostconfig.DefaultHost]
	}
	return v
}

// RetryNow makes images that failed due at once: the way to the registry may have changed. One that is under way is due
// again at once if it fails.
func (w *Worker) RetryNow() {
	w.mu.Lock()
	for _, e := range w.images {
		if e.phase == report.ImageFailed {
			e.due = time.Time{}
			e.retry.Reset() // and soon again: the connection to a daemon that is just back may not be up yet
		}
		e.news = e.cancel != nil
	}
	w.mu.Unlock()
	wake(w.schedule)
}

// Run works until ctx ends, and returns when all work has ended.
func (w *Worker) Run(ctx context.Context) {
	var g sync.WaitGroup
	defer g.Wait()
	g.Go(func() { w.looks(ctx) })
	g.Go(func() { w.watch(ctx) })
	for ctx.Err() == nil {
		if !w.isPaused() {
			w.sweep(ctx)
			w.letUnwantedGo(ctx)
		}
		for e := w.next(); e != nil; e = w.next() {
			g.Go(func() {
				w.prepare(ctx, e)
				wake(w.schedule)
			})
		}
		pause(ctx, w.schedule, w.untilDue())
	}
}

// Once tries every wanted image one time.
func (w *Worker) Once(ctx context.Context) {
	w.mu.Lock()
	all, atOnce := slices.Clone(w.images), max(w.wanted.AtOnce, 1)
	w.mu.Unlock()
	w.sweep(ctx)
	var g sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, e := range all {
		slots <- struct{}{}
		w.mu.Lock()
		w.begin(e)
		w.mu.Unlock()
		g.Go(func() {
			w.prepare(ctx, e)
			<-slots
		})
	}
	g.Wait()
	w.letUnwantedGo(ctx)
}

// sweep removes, once for each config, what pulls of images that are not wanted any more have left behind. It waits for
// such pulls to end. If it fails, it is tried again after a while. While it runs nobody begins to prepare an image.
func (w *Worker) sweep(ctx context.Context) {
	w.mu.Lock()
	puller, todo := w.wanted.Puller, w.wanted.Puller != nil && !w.swept && !time.Now().Before(w.sweepAt)
	todo = todo && w.wanted.Waits == ""
	var wanted []prefetch.Image
	for _, e := range w.images {
		wanted = append(wanted, e.want)
		todo = todo && e.waits == "" // what is kept for it goes by its digest
	}
	for _, e := range w.working {
		todo = todo && slices.Contains(w.images, e)
	}
	w.swept = w.swept || todo
	w.mu.Unlock()
	if !todo {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := puller.Sweep(ctx, wanted); err != nil && ctx.Err() != context.Canceled {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.sweepErr != err.Error() {
			w.log.Warn("leftovers of unfinished pulls are not removed; trying again every minute", "err", err)
		}
		w.swept, w.sweepAt, w.sweepErr = false, time.Now().Add(recheckInterval), err.Error()
	}
}

// pause waits for a wake-up, at most d.
func pause(ctx context.Context, wakeUp <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-wakeUp:
	case <-timer.C:
	}
}

func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func newRetry() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(backoff.WithInitialInterval(retryMin), backoff.WithMaxInterval(retryMax),
		backoff.WithMultiplier(2), backoff.WithMaxElapsedTime(0))
}

var _ Puller = (*prefetch.Prefetcher)(nil)
