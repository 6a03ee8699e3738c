package fetch

import (
	"context"
	"errors"
	"io"
	"time"
)

const (
	// maxRescues is how often one chunk is taken up anew.
	maxRescues = 3
	// leastRescued is how long a chunk must be to be rescued or to be a peer: below, the way there and back counts more
	// than the speed.
	leastRescued = 256 << 10
)

// errSlow ends a request whose chunk goes on over another connection.
var errSlow = errors.New("far slower than its peers")

// rescuing takes up a chunk from its next byte when it is far slower than its peers: a load balancer has put its
// connection on a slow front-end. The request is cancelled, which closes its connection (HTTP/1.1), so that the next
// goes over another one. This is no failure of the host. See attempt.due for when a chunk is slow and peers for how
// often it is rescued at most.
type rescuing struct {
	next RangeFetcher
	host *host
}

func (r *rescuing) FetchRange(ctx context.Context, c Chunk) (io.ReadCloser, error) {
	if c.Length < leastRescued {
		return r.next.FetchRange(ctx, c)
	}
	rd := &rescueReader{ctx: ctx, from: r, rest: c}
	if err := rd.open(); err != nil {
		return nil, err
	}
	return rd, nil
}

type rescueReader struct {
	ctx     context.Context // of FetchRange; the reader is its second half
	from    *rescuing
	rest    Chunk
	rescues int

	body    io.ReadCloser // nil between two attempts
	attempt *attempt
	giveUp  context.CancelCauseFunc
	slow    func() bool // whether the attempt was ended by errSlow
}

func (r *rescueReader) open() error {
	for {
		ctx, giveUp := context.WithCancelCause(r.ctx)
		r.giveUp = giveUp
		r.slow = func() bool { return errors.Is(context.Cause(ctx), errSlow) }
		r.attempt = newAttempt(&r.from.host.peers, r.rest.Length, func() { giveUp(errSlow) })
		r.attempt.final = r.rescues == maxRescues
		body, err := r.from.next.FetchRange(withAttempt(ctx, r.attempt), r.rest)
		if err == nil {
			r.body = body
			return nil
		}
		slow := r.slow()
		giveUp(nil)
		if !slow {
			return err
		}
		r.rescued()
	}
}

func (r *rescueReader) rescued() {
	r.rescues++
	r.from.host.tally.rescue()
}

func (r *rescueReader) Read(p []byte) (int, error) {
	for {
		if r.rest.Length == 0 {
			return 0, io.EOF
		}
		if r.body == nil {
			if err := r.open(); err != nil {
				return 0, err
			}
		}
		n, err := r.body.Read(p)
		r.rest.Offset += int64(n)
		r.rest.Length -= int64(n)
		if r.rest.Length == 0 {
			r.attempt.ended(time.Now())
			return n, err
		}
		if err == nil || !r.slow() {
			return n, err
		}
		r.Close()
		r.rescued()
		if n > 0 {
			return n, nil
		}
	}
}

func (r *rescueReader) Close() error {
	if r.body == nil {
		return nil
	}
	err := r.body.Close()
	r.body = nil
	r.giveUp(nil)
	return err
}
