package fetch

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"
)

// fetcherFunc is a RangeFetcher; n counts the calls from 1.
type fetcherFunc struct {
	n atomic.Int64
	f func(n int64, c Chunk) (io.ReadCloser, error)
}

func (f *fetcherFunc) FetchRange(_ context.Context, c Chunk) (io.ReadCloser, error) {
	return f.f(f.n.Add(1), c)
}

// cutAfter is a body that breaks after n bytes.
func cutAfter(c Chunk, n int64) io.ReadCloser {
	return io.NopCloser(&exactly{body: io.NopCloser(strings.NewReader(strings.Repeat("x", int(min(n, c.Length))))), n: c.Length})
}

func chunk(length int64) Chunk {
	return Chunk{Blob: ocispec.Descriptor{Digest: "sha256:test", Size: length}, Length: length}
}

var testPolicy = retryPolicy{tries: 4, first: firstWait, longest: longestWait}

func TestRetryingRepeatsWithGrowingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var waits []time.Duration
		f := &fetcherFunc{f: func(int64, Chunk) (io.ReadCloser, error) { return nil, &StatusError{Code: 503} }}
		r := &retrying{next: f, policy: testPolicy, onRetry: func(_ error, d time.Duration) { waits = append(waits, d) }}
		start := time.Now()
		_, err := r.FetchRange(t.Context(), chunk(10))
		var status *StatusError
		if !errors.As(err, &status) || f.n.Load() != 4 || len(waits) != 3 {
			t.Fatalf("%d calls, waits %v, error %v", f.n.Load(), waits, err)
		}
		var sum time.Duration
		for i, w := range waits {
			sum += w
			if mid := firstWait << i; w < mid/2 || w > mid*3/2 {
				t.Errorf("wait %d is %s, want about %s", i, w, mid)
			}
		}
		if got := time.Since(start); got != sum {
			t.Errorf("it took %s, the waits are %s", got, sum)
		}
	})
}

func TestRetryingGoesOnWhereABodyBroke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var offsets []int64
		f := &fetcherFunc{f: func(_ int64, c Chunk) (io.ReadCloser, error) {
			offsets = append(offsets, c.Offset)
			return cutAfter(c, minProgress), nil // far more breaks than tries, but each brings enough
		}}
		r := &retrying{next: f, policy: testPolicy}
		body, err := r.FetchRange(t.Context(), chunk(20*minProgress))
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		data, err := io.ReadAll(body)
		if err != nil || len(data) != 20*minProgress {
			t.Errorf("%d bytes, %v", len(data), err)
		}
		for i, o := range offsets {
			if o != int64(i)*minProgress {
				t.Fatalf("asked at %v", offsets)
			}
		}
	})
}

func TestRetryingEndsWhenNoByteComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fetcherFunc{f: func(_ int64, c Chunk) (io.ReadCloser, error) { return cutAfter(c, 0), nil }}
		r := &retrying{next: f, policy: testPolicy}
		body, err := r.FetchRange(t.Context(), chunk(20))
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		if _, err := io.ReadAll(body); !errors.Is(err, io.ErrUnexpectedEOF) || f.n.Load() != 4 {
			t.Errorf("%v after %d calls", err, f.n.Load())
		}
	})
}

func TestRetryingEndsWhenBytesOnlyDrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fetcherFunc{f: func(_ int64, c Chunk) (io.ReadCloser, error) { return cutAfter(c, 1), nil }}
		r := &retrying{next: f, policy: testPolicy}
		body, err := r.FetchRange(t.Context(), chunk(20))
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		data, err := io.ReadAll(body)
		if !errors.Is(err, io.ErrUnexpectedEOF) || len(data) != 4 || f.n.Load() != 4 {
			t.Errorf("%d bytes and %v after %d calls", len(data), err, f.n.Load())
		}
	})
}

func TestRetryingKnowsWhatIsInVain(t *testing.T) {
	refused := &brokenError{doing: "GET", err: &net.OpError{Op: "dial", Err: errors.New("connection refused")}}
	for name, tc := range map[string]struct {
		err   error
		eager bool
		calls int64
	}{
		"404":                                {err: &StatusError{Code: 404}, calls: 1},
		"412":                                {err: &StatusError{Code: 412}, calls: 1},
		"501":                                {err: &StatusError{Code: 501}, calls: 1},
		"429":                                {err: &StatusError{Code: 429}, calls: 4},
		"500":                                {err: &StatusError{Code: 500}, calls: 4},
		"another size":                       {err: &SizeError{}, calls: 1},
		"no ranges":                          {err: ErrRangeIgnored, calls: 1},
		"refused where there is another":     {err: refused, eager: true, calls: 1},
		"refused at the last host":           {err: refused, calls: 4},
		"a 503 where there is another":       {err: &StatusError{Code: 503}, eager: true, calls: 4},
		"a name that does not exist":         {err: &brokenError{err: &net.DNSError{IsNotFound: true}}, calls: 1},
		"a name server that does not answer": {err: &brokenError{err: &net.DNSError{IsTimeout: true}}, calls: 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fetcherFunc{f: func(int64, Chunk) (io.ReadCloser, error) { return nil, tc.err }}
				p := testPolicy
				p.eager = tc.eager
				_, err := (&retrying{next: f, policy: p}).FetchRange(t.Context(), chunk(10))
				if !errors.Is(err, tc.err) || f.n.Load() != tc.calls {
					t.Errorf("%d calls, want %d: %v", f.n.Load(), tc.calls, err)
				}
			})
		})
	}
}

func TestRetryingEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("why")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(why) })
		f := &fetcherFunc{f: func(int64, Chunk) (io.ReadCloser, error) { return nil, &StatusError{Code: 503} }}
		p := testPolicy
		p.tries = 1000
		if _, err := (&retrying{next: f, policy: p}).FetchRange(ctx, chunk(10)); !errors.Is(err, why) {
			t.Errorf("%v, want the context's cause", err)
		}
	})
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// slowBody yields some bytes, or one, after each of the pauses and then nothing until the request's end.
type slowBody struct {
	ctx    context.Context
	pauses []time.Duration
	each   int
}

func (b *slowBody) Read(p []byte) (int, error) {
	var wait <-chan time.Time
	if len(b.pauses) > 0 {
		wait = time.After(b.pauses[0])
		b.pauses = b.pauses[1:]
	}
	select {
	case <-wait:
		return min(max(b.each, 1), len(p)), nil
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	}
}

func (b *slowBody) Close() error { return nil }

func get(t *testing.T, rt http.RoundTripper, url string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return rt.RoundTrip(req)
}

func TestWatchdogEndsABodyThatStalls(t *testing.T) {
	for name, tc := range map[string]struct {
		pauses []time.Duration
		each   int
		want   time.Duration
	}{
		"with bytes in time":   {[]time.Duration{29 * time.Second, 29 * time.Second}, leastProgress, 88 * time.Second},
		"with bytes that drip": {[]time.Duration{14 * time.Second, 14 * time.Second, 14 * time.Second}, 1, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &watchdog{stall: 30 * time.Second, next: roundTripFunc(func(r *http.Request) (*http.Response, error) {
					return &http.Response{Body: &slowBody{ctx: r.Context(), pauses: tc.pauses, each: tc.each}}, nil
				})}
				resp, err := get(t, w, "http://a")
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				start := time.Now()
				data := make([]byte, 4*leastProgress)
				n, err := io.ReadFull(resp.Body, data)
				if n != 2*tc.each || !errors.Is(err, ErrStalled) {
					t.Errorf("%d bytes, %v", n, err)
				}
				if got := time.Since(start); got != tc.want {
					t.Errorf("ended after %s, want %s", got, tc.want)
				}
			})
		})
	}
}

func TestWatchdogDoesNotCountTimeInWhichNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watchdog{stall: 30 * time.Second, next: roundTripFunc(func(r *http.Request) (*http.Response, error) {
			return &http.Response{Body: &slowBody{ctx: r.Context(), pauses: []time.Duration{1, 1}}}, nil
		})}
		resp, err := get(t, w, "http://a")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		for range 2 {
			time.Sleep(time.Hour)
			if n, err := resp.Body.Read(make([]byte, 1)); n != 1 || err != nil {
				t.Fatalf("%d bytes, %v", n, err)
			}
		}
	})
}

func TestWatchdogEndsARequestThatIsNeverAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watchdog{stall: 30 * time.Second, next: roundTripFunc(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})}
		if _, err := get(t, w, "http://a"); !errors.Is(err, ErrStalled) { //nolint:bodyclose // there is none
			t.Errorf("%v", err)
		}
	})
}

func TestGateHoldsTheWholeHostAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(2 * time.Minute)
		start := time.Now()
		var at []time.Duration
		after := "30"
		rt := g.wrap(roundTripFunc(func(r *http.Request) (*http.Response, error) {
			at = append(at, time.Since(start))
			resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody}
			if after != "" && r.URL.Host == "busy:443" {
				resp.StatusCode = http.StatusServiceUnavailable
				resp.Header.Set("Retry-After", after)
			}
			return resp, nil
		}))
		for _, step := range []struct {
			url, after string
			want       time.Duration
		}{
			{"https://busy:443/one", "30", 0},
			{"https://idle:443/two", "", 0},
			{"https://busy:443/three", "86400", 30 * time.Second},
			{"https://busy:443/four", "", 150 * time.Second}, // a day counts as two minutes
			{"https://busy:443/five", "", 150 * time.Second},
		} {
			after = step.after
			resp, err := get(t, rt, step.url)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := at[len(at)-1]; got != step.want {
				t.Errorf("%s was asked at %s, want %s", step.url, got, step.want)
			}
		}
	})
}

func TestGateLeavesAHostAloneThatDoesNotSayForHowLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		rt := newGate(time.Minute).wrap(roundTripFunc(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusTooManyRequests, Body: http.NoBody}, nil
		}))
		for range 3 {
			resp, err := get(t, rt, "https://busy")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
		if got, want := time.Since(start), 2*holdUnsaid; got != want {
			t.Errorf("three requests took %s, want %s", got, want)
		}
	})
}

func TestGateLetsGoWhenTheRequestIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(time.Hour)
		g.hold("busy", time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.wait(ctx, "busy"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

func TestGateRemembersABoundedNumberOfHosts(t *testing.T) {
	g := newGate(time.Hour)
	for i := range 3 * maxHeld {
		g.hold(strings.Repeat("x", i), time.Hour)
	}
	if n := len(g.until); n > maxHeld {
		t.Errorf("%d hosts are remembered", n)
	}
}

func testHost(most int) *host {
	return (&hosts{most: most, all: make(map[string]*host)}).get("example.com")
}

func TestLimitedBoundsWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		f := &fetcherFunc{f: func(int64, Chunk) (io.ReadCloser, error) {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			return io.NopCloser(strings.NewReader("x")), nil
		}}
		l := &limited{next: f, host: testHost(8), gate: newGate(time.Minute), all: semaphore.NewWeighted(3)}
		for range 20 {
			go func() {
				body, err := l.FetchRange(t.Context(), chunk(1))
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Second)
				now.Add(-1)
				body.Close()
				body.Close() // a second time does no harm
			}()
		}
		synctest.Wait()
		time.Sleep(time.Minute)
		if most.Load() != 3 || f.n.Load() != 20 {
			t.Errorf("%d at once, %d in all", most.Load(), f.n.Load())
		}
	})
}
