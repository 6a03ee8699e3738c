package fetch

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// warm fetches enough chunks that others have peers.
func warm(t *testing.T, src *Source) {
	t.Helper()
	buf := make([]byte, testSize)
	for k := range enoughPeers {
		if err := fetchPart(t.Context(), src, part(k), buf); err != nil {
			t.Fatal(err)
		}
	}
}

// served is how many bytes and answers the link has given.
func (l *link) given() (bytes int64, answers int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.served, l.n
}

func TestAChunkFarSlowerThanItsPeersGoesOnOverAnotherConnection(t *testing.T) {
	const first = enoughPeers + 1 // the answer to the first chunk after those of warm
	for name, l := range map[string]*link{
		"slow from the beginning": {speed: func(n int) float64 {
			if n == first {
				return 2 * mb
			}
			return 40 * mb
		}},
		"silent from the beginning": {speed: func(n int) float64 {
			if n == first {
				return 0
			}
			return 40 * mb
		}},
		"no answer": {speed: always(40 * mb), wait: func(n int) time.Duration {
			if n == first {
				return time.Minute
			}
			return time.Millisecond
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := onLinks(t, Config{}, map[string]*link{"a.example.com": l})
				src := sourceOf(t, c, "a.example.com")
				warm(t, src)
				start := time.Now()
				if err := fetchPart(t.Context(), src, part(100), make([]byte, testSize)); err != nil {
					t.Fatal(err)
				}
				// A quarter of a second until it is noticed, a tenth for the rest over a good connection.
				if took := time.Since(start); took > 400*time.Millisecond {
					t.Errorf("it took %s", took)
				}
				s := c.Stats()["a.example.com"]
				if s.Rescues != 1 || len(s.Retries) != 0 || s.Stalls != 0 || s.InFlight != 0 {
					t.Errorf("%+v", s)
				}
				if n, _ := l.given(); n != (enoughPeers+1)*testSize {
					t.Errorf("%d bytes were served for %d", n, (enoughPeers+1)*testSize)
				}
			})
		})
	}
}

func TestOneSlowAnswerInTwentyIsRescuedAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(n int) bool { return n%20 == 15 }
		l := &link{speed: func(n int) float64 {
			if slow(n) {
				return 2 * mb
			}
			return 40 * mb
		}}
		c := onLinks(t, Config{}, map[string]*link{"a.example.com": l})
		stop := load(t, sourceOf(t, c, "a.example.com"), 48)
		time.Sleep(5 * time.Second)
		stop()
		s := c.Stats()["a.example.com"]
		_, answers := l.given()
		if want := int64(answers / 20); s.Rescues < want-4 || s.Rescues > want+1 || len(s.Retries) != 0 {
			t.Errorf("%d rescues in %d answers; retries %v", s.Rescues, answers, s.Retries)
		}
		late := int64(0)
		for i, n := range s.Latency.Counts {
			if i >= len(s.Latency.Bounds) || s.Latency.Bounds[i] > 1 {
				late += n
			}
		}
		if late > 2 { // of the time in which nothing was known yet
			t.Errorf("%d chunks took more than a second: %v", late, s.Latency)
		}
	})
}

func TestALinkThatBecomesSlowForAllCausesNoStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		speed := 40.0 * mb
		l := &link{speed: func(int) float64 {
			mu.Lock()
			defer mu.Unlock()
			return speed
		}}
		c := onLinks(t, Config{}, map[string]*link{"a.example.com": l})
		stop := load(t, sourceOf(t, c, "a.example.com"), 48)
		time.Sleep(3 * time.Second)
		mu.Lock()
		speed = 1 * mb
		mu.Unlock()
		time.Sleep(time.Minute)
		stop()
		// What had been saved, and what the chunks earned that were still peers of the fast ones.
		if s := c.Stats()["a.example.com"]; s.Rescues < 1 || s.Rescues > mostCredit/rescueCost+remembered/rescueCost {
			t.Errorf("%d rescues", s.Rescues)
		}
	})
}

func TestAChunkThatIsSlowEverywhereIsRescuedThreeTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{speed: func(n int) float64 {
			if n > enoughPeers {
				return 1 * mb
			}
			return 40 * mb
		}}
		c := onLinks(t, Config{}, map[string]*link{"a.example.com": l})
		src := sourceOf(t, c, "a.example.com")
		warm(t, src)
		if err := fetchPart(t.Context(), src, part(100), make([]byte, testSize)); err != nil {
			t.Fatal(err)
		}
		if s := c.Stats()["a.example.com"]; s.Rescues != maxRescues {
			t.Errorf("%d rescues", s.Rescues)
		}
	})
}

func TestTimeInWhichNobodyReadsIsNoSlowness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := onLinks(t, Config{}, map[string]*link{"a.example.com": {speed: always(40 * mb)}})
		src := sourceOf(t, c, "a.example.com")
		warm(t, src)
		body, err := src.Ranged(true, nil).FetchRange(t.Context(), part(100))
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		for came, buf := 0, make([]byte, readStep); came < testSize; {
			time.Sleep(time.Hour)
			n, err := body.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			came += n
		}
		if s := c.Stats()["a.example.com"]; s.Rescues != 0 || s.Stalls != 0 {
			t.Errorf("%+v", s)
		}
		if p := &src.host.peers; p.ended != enoughPeers {
			t.Errorf("%d peers: one that was read with pauses counts", p.ended)
		}
	})
}

func TestWithFewPeersNothingIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{speed: func(n int) float64 {
			if n%2 == 0 {
				return 1 * mb
			}
			return 40 * mb
		}}
		c := onLinks(t, Config{}, map[string]*link{"a.example.com": l})
		src := sourceOf(t, c, "a.example.com")
		warm(t, src) // the last of which has one peer too few
		if s := c.Stats()["a.example.com"]; s.Rescues != 0 {
			t.Errorf("%d rescues", s.Rescues)
		}
	})
}

func TestAChunkThatWaitsForItsFirstPeersIsRescuedOnceItHasThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{speed: func(n int) float64 {
			if n == 1 {
				return 0
			}
			return 40 * mb
		}}
		c := onLinks(t, Config{}, map[string]*link{"a.example.com": l})
		src := sourceOf(t, c, "a.example.com")
		var first sync.WaitGroup
		first.Go(func() {
			if err := fetchPart(t.Context(), src, part(100), make([]byte, testSize)); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		warm(t, src)
		start := time.Now()
		first.Wait()
		if took := time.Since(start); took > time.Second {
			t.Errorf("it went on %s after it had peers", took)
		}
		if s := c.Stats()["a.example.com"]; s.Rescues != 1 {
			t.Errorf("%d rescues", s.Rescues)
		}
	})
}
