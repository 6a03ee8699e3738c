package fetch

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A gate tells hosts that asked us apart from those that somebody else was asked by, or two nodes would tell each other for ever.
func TestWhoIsThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Client{gate: newGate(time.Minute)}
		after := map[string]string{"slow.example.com": "30", "mad.example.com:5000": "100000", "vague.example.com": ""}
		rt := c.gate.wrap(roundTripper(func(req *http.Request) (*http.Response, error) {
			resp := &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{}, Request: req, Body: http.NoBody}
			if s := after[req.URL.Host]; s != "" {
				resp.Header.Set("Retry-After", s)
			}
			return resp, nil
		}))
		ask := func(host string) time.Duration {
			began := time.Now()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+host+"/v2/", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := rt.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			return time.Since(began)
		}
		for host := range after {
			if d := ask(host); d != 0 {
				t.Errorf("%s was asked after %s", host, d)
			}
		}
		c.Throttle("other.example.com", 20*time.Second)
		c.Throttle("slow.example.com", 10*time.Second)
		want := map[string]time.Duration{"slow.example.com": 30 * time.Second, "mad.example.com:5000": time.Minute}
		if diff := cmp.Diff(want, c.Throttled()); diff != "" {
			t.Errorf("throttled (-want +got):\n%s", diff)
		}
		if d := ask("other.example.com"); d != 20*time.Second {
			t.Errorf("a host that others were asked by was asked after %s", d)
		}
		if d := ask("slow.example.com"); d != 10*time.Second {
			t.Errorf("a host that asked us was asked after another %s", d)
		}
		time.Sleep(time.Hour)
		if got := c.Throttled(); len(got) != 0 {
			t.Errorf("throttled for ever: %v", got)
		}
		for i := range 2 * maxHeld {
			c.Throttle(fmt.Sprint(i), time.Minute)
		}
		if n := len(c.gate.until); n > maxHeld {
			t.Errorf("%d hosts are remembered", n)
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
