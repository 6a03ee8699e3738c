package rig

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Fault says how a Proxy misbehaves towards one request. The zero value does not. Fields may be combined; offsets count
// from the start of this answer's body, not of the blob.
type Fault struct {
	// Drop closes the connection before any byte of an answer.
	Drop bool
	// Hold sends nothing, not even headers, until Release is closed or the client goes.
	Hold bool

	// Status answers itself, with Header and Body, and does not ask upstream. Zero: ask upstream.
	Status int
	// Header replaces headers of the answer, also of one from upstream. A key without values removes the header.
	// Content-Length may lie: too large a value ends in a cut connection, too small a one in a short body.
	Header http.Header
	// Body goes with Status.
	Body []byte

	// IgnoreRange hides the request's Range from upstream, which then answers 200 and everything.
	IgnoreRange bool
	// FlipAt inverts the byte at this offset.
	FlipAt *int64
	// CutAfter closes the connection after this many bytes.
	CutAfter *int64
	// StallAfter sends nothing more after this many bytes until Release is closed or the client goes.
	StallAfter *int64
	// Release ends Hold and StallAfter. Nil: only the client's going or the proxy's Close does.
	Release <-chan struct{}
	// BytesPerSecond limits the sum of all bodies on the request's connection. The last request of a connection to ask
	// for a limit sets it. Zero: no limit.
	BytesPerSecond int64
}

// At is an offset for a Fault.
func At(n int64) *int64 { return &n }

// Answer is a fault that answers the status with a JSON error body as registries do, and these headers as name, value,
// name, value.
func Answer(status int, headers ...string) Fault {
	f := Fault{
		Status: status,
		Header: http.Header{"Content-Type": {"application/json"}},
		Body:   []byte(`{"errors":[{"code":"RIG","message":"` + http.StatusText(status) + `"}]}`),
	}
	for i := 0; i+1 < len(headers); i += 2 {
		f.Header.Set(headers[i], headers[i+1])
	}
	return f
}

// TooManyRequests is a fault that answers 429 and when to come back.
func TooManyRequests(after time.Duration) Fault {
	seconds := int((after + time.Second - 1) / time.Second)
	return Answer(http.StatusTooManyRequests, "Retry-After", strconv.Itoa(seconds))
}

// Redirect is a fault that sends the client to the same path on another host, given as a URL without a path.
func Redirect(r *http.Request, to string) Fault {
	return Answer(http.StatusTemporaryRedirect, "Location", strings.TrimSuffix(to, "/")+r.URL.RequestURI())
}

// edit applies the fault's header changes.
func (f Fault) edit(h http.Header) {
	for name, values := range f.Header {
		name = http.CanonicalHeaderKey(name)
		h.Del(name)
		for _, v := range values {
			h.Add(name, v)
		}
	}
}

// send copies body to w as the fault wants it. It returns errCut when the connection has to be closed, and an error of
// reading or writing otherwise.
func (f Fault) send(ctx context.Context, w io.Writer, flush func(), body io.Reader, pace *limiter) error {
	size := int64(32 << 10)
	if f.BytesPerSecond > 0 {
		size = pieceAt(f.BytesPerSecond)
	}
	buf := make([]byte, size)
	stalled := false
	for sent := int64(0); ; {
		if f.CutAfter != nil && sent >= *f.CutAfter {
			return errCut
		}
		if f.StallAfter != nil && sent >= *f.StallAfter && !stalled {
			flush()
			if err := f.wait(ctx); err != nil {
				return err
			}
			stalled = true
		}
		n, err := body.Read(buf[:f.upTo(sent, size, stalled)])
		if f.FlipAt != nil && sent <= *f.FlipAt && *f.FlipAt < sent+int64(n) {
			buf[*f.FlipAt-sent] ^= 0xff
		}
		if waitErr := pace.take(ctx, n, f.BytesPerSecond); waitErr != nil {
			return waitErr
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		if f.BytesPerSecond > 0 {
			flush()
		}
		sent += int64(n)
		if err == io.EOF {
			return f.atEnd(sent)
		}
		if err != nil {
			return err
		}
	}
}

// upTo is how much may be read before the next place where something happens.
func (f Fault) upTo(sent, size int64, stalled bool) int64 {
	if f.CutAfter != nil {
		size = min(size, *f.CutAfter-sent)
	}
	if f.StallAfter != nil && !stalled {
		size = min(size, *f.StallAfter-sent)
	}
	return size
}

// atEnd cuts a body that ends right where it should be cut.
func (f Fault) atEnd(sent int64) error {
	if f.CutAfter != nil && sent >= *f.CutAfter {
		return errCut
	}
	return nil
}

// wait blocks until the test releases the request.
func (f Fault) wait(ctx context.Context) error {
	select {
	case <-f.Release:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// limiter paces the bytes of one connection.
type limiter struct {
	mu sync.Mutex
	// next is when the next byte may go.
	next time.Time
}

// maxLag is by how much timers that fire late may put a limiter behind and be made good for. A connection that was idle
// for longer has saved nothing up.
const maxLag = 50 * time.Millisecond

// pieceAt is how much to send at once at this rate: it must not hold back a slow body for long, nor jump over the limit,
// nor wake up more often than a machine under load can.
func pieceAt(rate int64) int64 { return max(1, min(256<<10, rate/100)) }

// take waits until n bytes may be sent at this rate. A rate of zero does not wait.
func (l *limiter) take(ctx context.Context, n int, rate int64) error {
	if rate <= 0 || n == 0 {
		return nil
	}
	l.mu.Lock()
	now := time.Now()
	if now.Sub(l.next) > maxLag {
		l.next = now
	}
	delay := l.next.Sub(now)
	l.next = l.next.Add(time.Duration(n) * time.Second / time.Duration(rate))
	l.mu.Unlock()
	if delay <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
