package fetch

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// limits samples the limit of the host every window for a time.
func limits(c *Client, name string, during time.Duration) (least, most, last int) {
	least = 1 << 30
	for range during / window {
		time.Sleep(window)
		last = c.Stats()[name].Limit
		least, most = min(least, last), max(most, last)
	}
	return least, most, last
}

func TestLimitGrowsWhileConnectionsBringMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{speed: always(40 * mb)}
		c := onLinks(t, Config{}, map[string]*link{"a.example.com": l})
		stop := load(t, sourceOf(t, c, "a.example.com"), 64)
		if least, _, last := limits(c, "a.example.com", 2*time.Second); least != startLimit || last < 16 {
			t.Errorf("it began with %d and is %d after two seconds", least, last)
		}
		if least, _, _ := limits(c, "a.example.com", 8*time.Second); least < 16 {
			t.Errorf("it fell to %d", least)
		}
		stop()
		if l.most != DefaultMaxParallel {
			t.Errorf("%d requests were under way at once, want %d", l.most, DefaultMaxParallel)
		}
	})
}

func TestLimitShrinksWhereConnectionsBringNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{speed: always(40 * mb), total: 100 * mb}
		c := onLinks(t, Config{}, map[string]*link{"a.example.com": l})
		stop := load(t, sourceOf(t, c, "a.example.com"), 64)
		if _, most, last := limits(c, "a.example.com", 10*time.Second); most > rung(startLimit) || last > 6 {
			t.Errorf("it grew to %d and is %d, where 3 fill the link", most, last)
		}
		l.mu.Lock()
		l.total = 0
		l.mu.Unlock()
		if _, _, last := limits(c, "a.example.com", 20*time.Second); last < 16 {
			t.Errorf("it is %d twenty seconds after the link became wide", last)
		}
		stop()
	})
}

func TestLimitDoesNotCollapseOnNoise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(1, 2))
		var mu sync.Mutex
		noisy := func(int) float64 {
			mu.Lock()
			defer mu.Unlock()
			return 40 * mb * (0.25 + 1.5*rnd.Float64())
		}
		l := &link{speed: noisy, status: func(int, int) int {
			mu.Lock()
			defer mu.Unlock()
			if rnd.IntN(100) == 0 {
				return http.StatusServiceUnavailable
			}
			return http.StatusPartialContent
		}}
		c := onLinks(t, Config{}, map[string]*link{"a.example.com": l})
		stop := load(t, sourceOf(t, c, "a.example.com"), 64)
		_, _, last := limits(c, "a.example.com", 4*time.Second)
		if last < 16 {
			t.Errorf("it is %d after four seconds", last)
		}
		if least, _, _ := limits(c, "a.example.com", 8*time.Second); least < 12 {
			t.Errorf("it fell to %d", least)
		}
		stop()
	})
}

func TestLimitStaysWhereTheDemandDoesNotReachIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := onLinks(t, Config{}, map[string]*link{"a.example.com": {speed: always(40 * mb)}})
		stop := load(t, sourceOf(t, c, "a.example.com"), startLimit-1)
		if least, most, _ := limits(c, "a.example.com", 10*time.Second); least != startLimit || most != startLimit {
			t.Errorf("between %d and %d", least, most)
		}
		stop()
	})
}

func TestLimitShrinksWhenTheHostRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{speed: always(40 * mb), status: func(_, active int) int {
			if active >= 3 {
				return http.StatusTooManyRequests
			}
			return http.StatusPartialContent
		}}
		c := onLinks(t, Config{Tries: 1000}, map[string]*link{"a.example.com": l})
		stop := load(t, sourceOf(t, c, "a.example.com"), 16)
		if _, _, last := limits(c, "a.example.com", 20*time.Second); last > 6 {
			t.Errorf("it is %d where 3 are allowed", last)
		}
		stop()
		if s := c.Stats()["a.example.com"]; s.Retries["429"] == 0 || s.InFlight != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAllHostsTogetherStayBelowMaxParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		links := map[string]*link{}
		for _, name := range []string{"a.example.com", "b.example.com", "c.example.com"} {
			links[name] = &link{speed: always(40 * mb)}
		}
		c := onLinks(t, Config{MaxParallel: 10}, links)
		var stops []func() int
		for name := range links {
			stops = append(stops, load(t, sourceOf(t, c, name), 16))
		}
		most := 0
		for range 500 {
			time.Sleep(7 * time.Millisecond)
			now := 0
			for _, l := range links {
				l.mu.Lock()
				now += l.active
				l.mu.Unlock()
			}
			mu.Lock()
			most = max(most, now)
			mu.Unlock()
		}
		for _, stop := range stops {
			if stop() == 0 {
				t.Error("a host got no turn")
			}
		}
		if most != 10 {
			t.Errorf("%d requests were under way at once, want 10", most)
		}
	})
}

func TestLadder(t *testing.T) {
	var up []int
	c := &climb{most: 40, limit: 1}
	for c.limit < c.most {
		n := c.limit
		c.limit = c.above()
		if back := c.below(); back != n {
			t.Errorf("below %d is %d, want %d", c.limit, back, n)
		}
		up = append(up, c.limit)
	}
	want := []int{2, 3, 4, 6, 8, 12, 16, 24, 32, 40}
	for i := range want {
		if i >= len(up) || up[i] != want[i] {
			t.Fatalf("%v, want %v", up, want)
		}
	}
	if c.limit = 1; c.below() != 1 {
		t.Errorf("below 1 is %d", c.below())
	}
}
