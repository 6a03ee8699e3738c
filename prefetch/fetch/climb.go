package fetch

import (
	"math/bits"
	"time"
)

const (
	// startLimit is how many requests a host gets before anything is known of it; fewest is how many it always gets
	// unless it refuses them.
	startLimit, fewest = 16, 4
	// window is how long throughput is measured for one verdict; as long it may settle before.
	window = 200 * time.Millisecond
	// firstRest is how long a limit stays that could not be bettered; each time again it stays twice as long, up to
	// longestRest.
	firstRest, longestRest = time.Second, 16 * time.Second
	// staleAfter is how long throughputs can be compared.
	staleAfter = 5 * time.Second
	// worthShare is what more requests must bring at least, as a share of what they would if each was as fast as the
	// others.
	worthShare = 0.25
	// tooMany is how many of the last 32 answers may be refusals.
	tooMany = 2
)

// climb finds how many requests at once a host is worth, by climbing a ladder of limits (1, 2, 3, 4, 6, 8, 12, 16, 24, 32
// and so on, ending at most):
//
//   - Throughput is measured over windows of 200 ms; the one after a step is for settling. A window in which fewer
//     requests than the limit were under way for more than a tenth of it says nothing: the demand held it back, not
//     the host.
//   - A step up is worth it when it brings a quarter of what it would if all requests were as fast as before: from 8 to
//     12, an eighth more bytes. If so the next step is tried; if not it is taken back and the limit rests, for 1 s and each time twice as long, up to 16 s.
//   - Then a step down is tried. It stays, and the next is tried, where the step up again would not be worth it; else
//     it is taken back and a step up is tried. So noise can cost a step, which the next attempt brings back.
//   - When 3 of the last 32 answers were 429 or 503, the limit goes one step down, also below 4, and rests. Answers to
//     requests from before a step do not count.
//
// It is not safe for concurrent use.
type climb struct {
	most, limit int
	// from is the limit before the step that is being tried, was its throughput, tried when; from is 0 in a rest.
	from  int
	was   float64
	tried time.Time
	// rate is the throughput at limit in bytes per second, a moving mean; 0 where it is not known.
	rate float64
	rest time.Time     // no step is tried before
	last time.Duration // the last rest, or 0 after a step that was worth it
	down bool          // whether the next step goes down

	refusals uint32 // the last answers, a bit for each
	steps    int    // counts the steps, so that answers can be told from those before

	start, seen time.Time // of this window; up to when short is counted
	settled     bool      // whether this window counts
	bytes       int64     // in this window
	short       time.Duration
	active      int // requests under way
}

func newClimb(most int, now time.Time) *climb {
	return &climb{most: most, limit: min(startLimit, most), start: now, seen: now}
}

// rung is the one above n on an endless ladder.
func rung(n int) int {
	switch {
	case n < 4:
		return n + 1
	case n&(n-1) == 0:
		return n / 2 * 3
	}
	return n / 3 * 4
}

// above and below are the neighbours of the limit.
func (c *climb) above() int {
	n := 1
	for n <= c.limit {
		n = rung(n)
	}
	return min(n, c.most)
}

func (c *climb) below() int {
	n := 1
	for rung(n) < c.limit {
		n = rung(n)
	}
	return n
}

// change counts requests that begin or end.
func (c *climb) change(now time.Time, by int) {
	c.account(now)
	c.active += by
}

// count counts bytes that came, and judges when a window is over.
func (c *climb) count(now time.Time, n int) {
	c.bytes += int64(n)
	took := now.Sub(c.start)
	if took < window {
		return
	}
	c.account(now)
	if c.settled && c.short <= took/10 {
		c.judge(now, float64(c.bytes)/took.Seconds())
	}
	c.settled = true
	c.open(now)
}

// account adds up the time in which the demand did not reach the limit.
func (c *climb) account(now time.Time) {
	if c.active < c.limit {
		c.short += now.Sub(c.seen)
	}
	c.seen = now
}

func (c *climb) open(now time.Time) { c.start, c.seen, c.bytes, c.short = now, now, 0, 0 }

func (c *climb) judge(now time.Time, rate float64) {
	switch {
	case c.from != 0 && now.Sub(c.tried) > staleAfter:
		c.from, c.rate = 0, rate // too long ago to be compared
	case c.from == 0 && c.rate == 0:
		c.rate = rate
	case c.from == 0:
		c.rate += (rate - c.rate) / 4
	case c.limit > c.from && !worth(c.from, c.limit, c.was, rate):
		c.rate = c.was
		c.set(now, c.from, 0)
		c.pause(now, true)
		return
	case c.limit < c.from && worth(c.limit, c.from, rate, c.was):
		c.rate, c.down = c.was, false
		c.set(now, c.from, 0)
		return
	default:
		c.rate, c.from, c.last = rate, 0, 0
	}
	if !now.Before(c.rest) {
		c.try(now)
	}
}

// worth tells whether the larger limit is.
func worth(few, many int, less, more float64) bool {
	return more >= less*(1+worthShare*float64(many-few)/float64(few))
}

// try takes the next step, or rests where there is none.
func (c *climb) try(now time.Time) {
	if c.down && c.limit > fewest {
		c.step(now, c.below())
		return
	}
	if c.down = false; c.limit < c.most {
		c.step(now, c.above())
		return
	}
	c.pause(now, true)
}

// pause tries nothing for a while, then a step in that direction.
func (c *climb) pause(now time.Time, down bool) {
	c.last = min(max(2*c.last, firstRest), longestRest)
	c.down, c.rest = down, now.Add(c.last)
}

func (c *climb) step(now time.Time, limit int) {
	c.was, c.tried = c.rate, now
	c.set(now, limit, c.limit)
}

func (c *climb) set(now time.Time, limit, from int) {
	c.account(now)
	c.limit, c.from = limit, from
	c.settled = false
	c.steps++
	c.open(now)
}

// answered counts an answer to a request that began when there had been so many steps.
func (c *climb) answered(now time.Time, steps int, refused bool) {
	if steps != c.steps {
		return
	}
	c.refusals <<= 1
	if refused {
		c.refusals |= 1
	}
	if bits.OnesCount32(c.refusals) <= tooMany {
		return
	}
	c.refusals, c.rate = 0, 0
	c.set(now, c.below(), 0)
	c.pause(now, false)
}
