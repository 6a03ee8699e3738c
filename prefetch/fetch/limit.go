package fetch

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// slots gives out the requests that a host may have under way. Each chunk that waits is a turn of its image, in the order
// in which they came. A turn is used for that chunk of the image that waits for the layer of which the smallest part has
// come: so layers end at about the same time, and not the largest long after the others. It is safe for concurrent use.
type slots struct {
	mu      sync.Mutex
	climb   *climb    // guarded by mu
	taken   int       // guarded by mu
	waiting []*waiter // in the order of turns, see give; guarded by mu
}

// waiter waits for a slot.
type waiter struct {
	from  *Source       // of the image's repository
	part  float64       // of the blob that comes before the chunk, 0 to 1
	given chan struct{} // closed when there is a slot
}

func newSlots(most int) *slots { return &slots{climb: newClimb(most, time.Now())} }

func (s *slots) acquire(ctx context.Context, from *Source, c Chunk) error {
	s.mu.Lock()
	if s.taken < s.climb.limit && len(s.waiting) == 0 {
		s.taken++
		s.mu.Unlock()
		return nil
	}
	mine := &waiter{from: from, part: float64(c.Offset) / float64(max(c.Blob.Size, 1)), given: make(chan struct{})}
	s.waiting = append(s.waiting, mine)
	s.mu.Unlock()
	select {
	case <-mine.given:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, mine); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	} else {
		s.taken--
	}
	s.give()
	return context.Cause(ctx)
}

func (s *slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	s.give()
}

// give hands free slots to those who wait. The caller holds mu.
func (s *slots) give() {
	for s.taken < s.climb.limit && len(s.waiting) > 0 {
		first := 0
		for i, w := range s.waiting {
			if w.from == s.waiting[0].from && w.part < s.waiting[first].part { // of equals, who came first
				first = i
			}
		}
		close(s.waiting[first].given)
		s.waiting[first] = s.waiting[0] // this turn is over: they change places, or the image would have the next one too
		s.waiting = slices.Delete(s.waiting, 0, 1)
		s.taken++
	}
}

// begin counts a request that is sent now. Its mark is for answered.
func (s *slots) begin() (mark int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.climb.change(time.Now(), 1)
	return s.climb.steps
}

func (s *slots) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.climb.change(time.Now(), -1)
}

func (s *slots) came(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.climb.count(time.Now(), n)
	s.give()
}

func (s *slots) answered(mark int, refused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.climb.answered(time.Now(), mark, refused)
}

// now tells how many requests are under way, and how many may be.
func (s *slots) now() (active, limit int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.climb.active, s.climb.limit
}

// limited bounds how many requests are under way at once: at one host by slots, at all hosts by all. A request counts
// until its body is closed; it does not count while it waits to be repeated, or for the end of a Retry-After.
type limited struct {
	next   RangeFetcher
	source *Source
	host   *host
	gate   *gate
	all    *semaphore.Weighted
	// eager gives up on a host that wants to be left alone for long, because there is another one.
	eager bool
}

func (l *limited) FetchRange(ctx context.Context, c Chunk) (io.ReadCloser, error) {
	ctx = eagerly(ctx, l.eager)
	if err := l.enter(ctx, c); err != nil {
		return nil, err
	}
	b := &slotBody{from: l, mark: l.host.slots.begin(), start: time.Now(), rest: c.Length}
	b.release = sync.OnceFunc(func() {
		l.host.slots.end()
		l.leave()
	})
	l.host.tally.request()
	body, err := l.next.FetchRange(ctx, c)
	if err != nil {
		b.ended(ctx, err)
		b.release()
		return nil, err
	}
	l.host.slots.answered(b.mark, false)
	b.ctx, b.body = ctx, body
	return b, nil
}

// enter takes a slot, first of the host, so that a slow one keeps no other waiting. Nobody has one while the host wants
// to be left alone.
func (l *limited) enter(ctx context.Context, c Chunk) error {
	for {
		if err := l.gate.wait(ctx, l.host.name); err != nil {
			return err
		}
		if err := l.host.slots.acquire(ctx, l.source, c); err != nil {
			return err
		}
		if err := l.all.Acquire(ctx, 1); err != nil {
			l.host.slots.release()
			return context.Cause(ctx)
		}
		if l.gate.left(l.host.name) <= 0 {
			return nil
		}
		l.leave()
	}
}

func (l *limited) leave() {
	l.all.Release(1)
	l.host.slots.release()
}

// slotBody is a body that has a slot.
type slotBody struct {
	from    *limited
	ctx     context.Context // of FetchRange
	body    io.ReadCloser
	mark    int
	start   time.Time
	rest    int64
	release func()
}

func (b *slotBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if n > 0 {
		b.from.host.slots.came(n)
		b.from.host.tally.came(n)
		if b.rest -= int64(n); b.rest == 0 {
			b.from.host.tally.done(time.Since(b.start))
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.ended(b.ctx, err)
	}
	return n, err
}

// ended counts how a request failed that nobody has cancelled.
func (b *slotBody) ended(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	b.from.host.slots.answered(b.mark, refused(err))
	if errors.Is(err, ErrStalled) {
		b.from.host.tally.stall()
	}
}

func (b *slotBody) Close() error {
	defer b.release()
	return b.body.Close()
}

// refused tells whether the host said that it is asked too much.
func refused(err error) bool {
	var status *StatusError
	var auth *authError
	return errors.As(err, &status) && !errors.As(err, &auth) &&
		(status.Code == http.StatusTooManyRequests || status.Code == http.StatusServiceUnavailable)
}
