package fetch

import (
	"context"
	"io"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// retryPolicy says how often and how fast a request is repeated. This is the only place that repeats requests, beside
// containerd's resolver.
type retryPolicy struct {
	// tries is how many times in a row a request may fail without minProgress between.
	tries int
	// eager gives up at once on a host to which no connection comes about, because there is another one.
	eager bool
	// first and longest are the waits between tries, doubled each time and varied by half.
	first, longest time.Duration
}

// minProgress is how many bytes must have come for the count of failures to start anew: a host that gives one byte at a
// time must not be asked for ever.
const minProgress = 64 << 10

// backOff counts the failures and tells the waits.
func (p retryPolicy) backOff() backoff.BackOff {
	b := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(p.first), backoff.WithMaxInterval(p.longest), backoff.WithMultiplier(2),
		backoff.WithMaxElapsedTime(0))
	return backoff.WithMaxRetries(b, uint64(max(p.tries, 1)-1))
}

// lasting goes on counting in the next call of RetryNotify, which would begin with Reset.
type lasting struct{ backoff.BackOff }

func (lasting) Reset() {}

// do runs op until it succeeds, fails for good, or has failed too often. onRetry may be nil.
func (p retryPolicy) do(ctx context.Context, onRetry func(error, time.Duration), op func() error) error {
	return p.goOn(ctx, p.backOff(), onRetry, op)
}

// goOn is do with the failures that failed has counted before.
func (p retryPolicy) goOn(ctx context.Context, failed backoff.BackOff, onRetry func(error, time.Duration),
	op func() error) error {
	err := backoff.RetryNotify(func() error {
		err := op()
		if ctx.Err() != nil || !transient(err) || p.eager && unreachable(err) {
			return backoff.Permanent(err) // nil stays nil
		}
		return err
	}, backoff.WithContext(lasting{failed}, ctx), onRetry)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// retrying repeats what broke: a chunk whose body is cut is asked for again from its next byte.
type retrying struct {
	next    RangeFetcher
	policy  retryPolicy
	onRetry func(error, time.Duration)
}

func (r *retrying) FetchRange(ctx context.Context, c Chunk) (io.ReadCloser, error) {
	rd := &retryReader{ctx: ctx, from: r, failed: r.policy.backOff(), rest: c}
	if err := rd.try(rd.open); err != nil {
		return nil, err
	}
	return rd, nil
}

type retryReader struct {
	ctx    context.Context // of FetchRange; the reader is its second half
	from   *retrying
	failed backoff.BackOff
	came   int64         // bytes since failed was reset
	rest   Chunk         // what has not been read yet
	body   io.ReadCloser // nil after a failure
}

func (r *retryReader) try(op func() error) error {
	return r.from.policy.goOn(r.ctx, r.failed, r.from.onRetry, op)
}

func (r *retryReader) open() error {
	body, err := r.from.next.FetchRange(r.ctx, r.rest)
	if err == nil {
		r.body = body
	}
	return err
}

func (r *retryReader) Read(p []byte) (n int, err error) {
	if r.rest.Length == 0 {
		return 0, io.EOF
	}
	err = r.try(func() error {
		if r.body == nil {
			if err := r.open(); err != nil {
				return err
			}
		}
		var err error
		n, err = r.body.Read(p)
		r.rest.Offset += int64(n)
		r.rest.Length -= int64(n)
		if n > 0 || err == nil {
			return nil
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		r.Close()
		return &brokenError{doing: "read " + r.rest.String(), err: err}
	})
	if r.came += int64(n); r.came >= minProgress {
		r.came = 0
		r.failed.Reset()
	}
	return n, err
}

func (r *retryReader) Close() error {
	if r.body == nil {
		return nil
	}
	err := r.body.Close()
	r.body = nil
	return err
}
