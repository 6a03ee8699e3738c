package fetch

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestStatsTellWhatHappened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := map[int]int{2: http.StatusInternalServerError, 3: http.StatusTooManyRequests, 4: http.StatusServiceUnavailable}
		l := &link{status: func(n, _ int) int {
			if s := answers[n]; s != 0 {
				return s
			}
			return http.StatusPartialContent
		}, speed: func(n int) float64 {
			if n == 5 {
				return 0
			}
			return testSize
		}}
		c := onLinks(t, Config{StallTimeout: time.Second}, map[string]*link{"a.example.com": l})
		src := sourceOf(t, c, "a.example.com")
		for k := range 2 {
			if err := fetchPart(t.Context(), src, part(k), make([]byte, testSize)); err != nil {
				t.Fatal(err)
			}
		}
		body, err := src.Ranged(true, nil).FetchRange(t.Context(), part(3))
		if err != nil {
			t.Fatal(err)
		}
		got := c.Stats()
		body.Close()
		want := map[string]HostStats{"a.example.com": {
			Bytes: 2 * testSize, Requests: 7, Stalls: 1, InFlight: 1, Limit: startLimit,
			Retries: map[string]int64{"5xx": 1, "429": 1, "503": 1, "stalled": 1},
			Latency: Histogram{Bounds: latencyBounds(), Counts: []int64{0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0}, Sum: 2},
		}}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		got["a.example.com"].Retries["429"], got["a.example.com"].Latency.Counts[0] = 100, 100
		if s := c.Stats()["a.example.com"]; s.Retries["429"] != 1 || s.Latency.Counts[0] != 0 || s.InFlight != 0 {
			t.Errorf("what was handed out is the original: %+v", s)
		}
	})
}

func TestRetryCauses(t *testing.T) {
	for want, err := range map[string]error{
		"429": &StatusError{Code: 429}, "503": &StatusError{Code: 503}, "5xx": &StatusError{Code: 502},
		"token":   &authError{&StatusError{Code: 503}},
		"stalled": &brokenError{err: fmt.Errorf("%w for 30s", ErrStalled)},
		"connect": &brokenError{err: &net.OpError{Op: "dial", Err: errors.New("refused")}},
		"cut":     &brokenError{err: errors.New("unexpected EOF")},
		"other":   &StatusError{Code: 408},
	} {
		if got := retryCause(fmt.Errorf("some more: %w", err)); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
	if got := retryCause(io.ErrUnexpectedEOF); got != "cut" {
		t.Errorf("what containerd read: %q", got)
	}
}

func TestABoundedNumberOfHostsIsRemembered(t *testing.T) {
	h := &hosts{most: 4, all: make(map[string]*host)}
	busy := h.get("busy")
	busy.slots.begin()
	for i := range 3 * maxHosts {
		h.get(strings.Repeat("x", i))
	}
	if n := len(h.stats()); n > maxHosts {
		t.Errorf("%d hosts are remembered", n)
	}
	if h.get("busy") != busy {
		t.Error("a host that is being asked was forgotten")
	}
}

// heldLink refuses everything for an hour.
func heldLink(asked *int) http.RoundTripper {
	return roundTripFunc(func(req *http.Request) (*http.Response, error) {
		*asked++
		return &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"3600"}},
			Body: http.NoBody, Request: req}, nil
	})
}

func TestAHostThatIsHeldIsNotWaitedForWhereThereIsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := onLinks(t, Config{}, nil)
		src := sourceOf(t, c, "a.example.com")
		src.at.client.Transport = c.wrap(heldLink(&asked))
		for range 2 {
			start := time.Now()
			_, err := src.Ranged(false, nil).FetchRange(t.Context(), part(0))
			if !errors.Is(err, errHeld) || time.Since(start) > eagerHold || asked != 1 {
				t.Errorf("%v after %s and %d requests", err, time.Since(start), asked)
			}
		}
		if active, _ := src.host.slots.now(); active != 0 || src.host.slots.taken != 0 {
			t.Errorf("%d slots are still taken", src.host.slots.taken)
		}
	})
}

// TestTheTargetOfARedirectIsNotWaitedForWhereThereIsAnotherHost: it is not known before that it will be asked.
func TestTheTargetOfARedirectIsNotWaitedForWhereThereIsAnotherHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		held := heldLink(&asked)
		c := onLinks(t, Config{}, nil)
		src := sourceOf(t, c, "a.example.com")
		src.at.client.Transport = c.wrap(roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if req.URL.Host == "store.example.com" {
				return held.RoundTrip(req)
			}
			return redirect(req, "https://store.example.com/blob"), nil
		}))
		start := time.Now()
		_, err := src.Ranged(false, nil).FetchRange(t.Context(), part(0))
		if !errors.Is(err, errHeld) || time.Since(start) > eagerHold || asked != 1 {
			t.Errorf("%v after %s and %d requests", err, time.Since(start), asked)
		}
	})
}

// TestALocationThatIsNoURLIsNotShown because it may be signed. It is asked for once.
func TestALocationThatIsNoURLIsNotShown(t *testing.T) {
	asked := 0
	src := sourceOf(t, onLinks(t, Config{}, nil), "a.example.com")
	src.at.client.Transport = roundTripFunc(func(req *http.Request) (*http.Response, error) {
		asked++
		return redirect(req, "https://store.example.com/%zz?X-Signature=secret"), nil
	})
	for _, err := range bothWays(t, src) {
		if !errors.Is(err, errLocation) || transient(err) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v, want %v", err, errLocation)
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
}

// redirect is an answer that sends the client to another URL.
func redirect(req *http.Request, to string) *http.Response {
	return &http.Response{StatusCode: http.StatusTemporaryRedirect, Header: http.Header{"Location": {to}},
		Body: http.NoBody, Request: req}
}

func TestAHostThatIsAlwaysHeldIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := onLinks(t, Config{Tries: 3}, nil)
		src := sourceOf(t, c, "a.example.com")
		src.at.client.Transport = c.wrap(heldLink(&asked))
		_, err := src.Ranged(true, nil).FetchRange(t.Context(), part(0))
		var status *StatusError
		if !errors.As(err, &status) || status.Code != http.StatusTooManyRequests || asked != 3 {
			t.Errorf("%v after %d requests", err, asked)
		}
	})
}

func TestNobodyHasASlotWhileAHostIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		links := map[string]*link{"a.example.com": {speed: always(40 * mb)}, "b.example.com": {speed: always(40 * mb)}}
		c := onLinks(t, Config{MaxParallel: 2}, links)
		c.gate.hold("a.example.com", time.Minute)
		stop := load(t, sourceOf(t, c, "a.example.com"), 8)
		synctest.Wait()
		start := time.Now()
		if err := fetchPart(t.Context(), sourceOf(t, c, "b.example.com"), part(0), make([]byte, testSize)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("another host had to wait for %s", took)
		}
		time.Sleep(time.Minute + time.Second)
		if stop() == 0 {
			t.Error("nothing was fetched when the wait was over")
		}
	})
}

// TestAHostThatOnlyDripsIsGivenUp would else hold a pull for days: there is always another byte in time.
func TestAHostThatOnlyDripsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{speed: always(1), drip: true}
		c := onLinks(t, Config{Tries: 4}, map[string]*link{"a.example.com": l})
		start := time.Now()
		err := fetchPart(t.Context(), sourceOf(t, c, "a.example.com"), part(0), make([]byte, testSize))
		if _, answers := l.given(); !errors.Is(err, ErrStalled) || answers != 4 || time.Since(start) > 5*time.Minute {
			t.Errorf("%v after %d answers and %s", err, answers, time.Since(start))
		}
	})
}

// TestAnErrorThatNeverEndsIsCut: the words of an error reply are read only so far and so long.
func TestAnErrorThatNeverEndsIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := onLinks(t, Config{Tries: 2}, nil)
		src := sourceOf(t, c, "a.example.com")
		src.at.client.Transport = c.wrap(roundTripFunc(func(req *http.Request) (*http.Response, error) {
			body := &linkBody{link: &link{speed: always(1), drip: true, active: 1}, ctx: req.Context(), end: 1 << 50}
			return &http.Response{StatusCode: http.StatusInternalServerError, Body: body, Request: req}, nil
		}))
		start := time.Now()
		_, err := src.Ranged(true, nil).FetchRange(t.Context(), part(0))
		if status := (*StatusError)(nil); !errors.As(err, &status) || status.Code != 500 || time.Since(start) > 2*time.Minute {
			t.Errorf("%v after %s", err, time.Since(start))
		}
	})
}
