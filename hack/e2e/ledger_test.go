//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

// settle is how long after its last byte was sent an answer may still be on its way to the disk: through the kernel's
// buffers and a busy machine.
const settle = 200 * time.Millisecond

// ledger keeps account of the parts of blobs that a site sends while its client crashes again and again. What was sent
// in an answer that was not whole at a crash, or not for longer than settle, may have been lost and be asked for
// again. Everything else may be asked for only once.
type ledger struct {
	s *site
	// from is the first request of the present run, ended when a request was first seen to have ended.
	from  int
	ended map[int]time.Time
	// kept are the parts that the client must have, by path.
	kept              map[string][]part
	sent, lost, twice int64
	told              []string // what was asked for twice
	absences          []absence
}

// absence is a time in which containerd was away.
type absence struct{ from, to time.Time }

// part is a range of bytes of a blob that was sent in an answer to a request of a time.
type part struct {
	from, to int64
	asked    time.Time
}

// patience is how long a client waits for the next byte before it takes a chunk up on another connection, at least.
const patience = 250 * time.Millisecond

// takenUp tells whether a request for all of a chunk from a byte on may be one for what was sent but not read: what a
// client that was kept from running has not read is still in the kernel's buffers. All of the chunk is asked for again
// only in the same run, whose first request was at a time.
func (k part) takenUp(r rig.Request, got part, first time.Time) bool {
	if !strings.HasSuffix(r.Range, fmt.Sprintf("-%d", k.to-1)) {
		return false
	}
	return got.from > k.from || got.from == k.from && !k.asked.Before(first) && r.Time.Sub(k.asked) >= patience
}

func newLedger(s *site) *ledger {
	return &ledger{s: s, ended: make(map[int]time.Time), kept: make(map[string][]part)}
}

// look notes which answers have ended, and returns how many of this run. It must be called again and again.
func (l *ledger) look() (ended int) {
	now := time.Now()
	for i, r := range l.s.Requests() {
		if i < l.from || !r.Done || !ofBlob(r) {
			continue
		}
		ended++
		if _, ok := l.ended[i]; !ok {
			l.ended[i] = now
		}
	}
	return ended
}

// crashed notes that the client died, or lost its connections, at a time. It waits until the site has noticed.
func (l *ledger) crashed(n *node, at time.Time) {
	n.t.Helper()
	waitFor(n.t, "the registry to notice the crash", func() string {
		for _, r := range l.s.Requests() {
			if !r.Done {
				return "it still answers " + r.Path
			}
		}
		return ""
	})
	l.book(func(i int) bool {
		ended, ok := l.ended[i]
		return ok && at.Sub(ended) >= settle
	})
}

// away notes that containerd was away for a time. Then the layers that go through its content writers are broken off: what
// was on its way is lost, and of blobs that are so small that they come in one answer what the writer held, which is kept
// nowhere else.
func (l *ledger) away(from, to time.Time) { l.absences = append(l.absences, absence{from, to}) }

// reached tells whether what an answer had got to where containerd's absences do no harm.
func (l *ledger) reached(i int) bool {
	ended, ok := l.ended[i]
	return !ok || !slices.ContainsFunc(l.absences, func(a absence) bool { return ended.After(a.from.Add(-settle)) && ended.Before(a.to) })
}

// moved notes that another site has taken the place of the one before, which was closed at a time.
func (l *ledger) moved(n *node, at time.Time, to *site) {
	n.t.Helper()
	l.crashed(n, at)
	l.s, l.from, l.ended = to, 0, make(map[int]time.Time)
}

// book enters the requests of a run. What its whole answers had that are settled must not be asked for again.
func (l *ledger) book(settled func(i int) bool) {
	all := l.s.Requests()
	if l.from == len(all) {
		return
	}
	first := all[l.from].Time
	for i := l.from; i < len(all); i++ {
		r := all[i]
		if !ofBlob(r) || r.Status >= 300 {
			continue
		}
		got, whole := partOf(r)
		l.sent += r.Sent
		for _, k := range l.kept[r.Path] {
			switch both := min(got.to, k.to) - max(got.from, k.from); {
			case both <= 0:
			case k.takenUp(r, got, first):
				l.lost += both
			default:
				l.twice += both
				l.told = append(l.told, fmt.Sprintf("%s %d-%d of %d-%d", r.Path, got.from, got.to, k.from, k.to))
			}
		}
		if whole && settled(i) {
			l.kept[r.Path] = append(l.kept[r.Path], got)
		} else {
			l.lost += r.Sent
		}
	}
	l.from = len(all)
}

// partOf is what was sent of a blob, and whether it was all that was asked for.
func partOf(r rig.Request) (p part, whole bool) {
	var from, to int64
	if n, err := fmt.Sscanf(r.Range, "bytes=%d-%d", &from, &to); n == 0 || err != nil && n < 2 {
		to = from + r.Sent - 1 // to the end of the blob
	}
	return part{from, from + r.Sent, r.Time}, r.Sent > 0 && from+r.Sent == to+1
}

// has is how many bytes the client must have, as far as runs have ended.
func (l *ledger) has() (n int64) {
	for _, parts := range l.kept {
		for _, p := range parts {
			n += p.to - p.from
		}
	}
	return n
}

// check checks that nothing was sent twice but what may have been lost, so that no more was sent than the image and that.
func (l *ledger) check(n *node, img image, row *row) {
	n.t.Helper()
	if lost := l.s.Lost(); lost > 0 {
		n.t.Fatalf("%d requests were not recorded", lost)
	}
	l.book(l.reached)
	if l.twice > 0 {
		n.t.Errorf("%d bytes of blobs were asked for again although they had arrived:\n%s", l.twice,
			strings.Join(l.told[:min(len(l.told), 10)], "\n"))
	}
	if l.sent > img.size+l.lost {
		n.t.Errorf("the registry sent %d bytes of blobs: %d more than the image of %d and the %d that were in flight",
			l.sent, l.sent-img.size-l.lost, img.size, l.lost)
	}
	row.saw("sent %.0f %% of the image, %.0f %% twice without need", percent(l.sent, img.size), percent(l.twice, img.size))
}

func percent(n, of int64) float64 { return 100 * float64(n) / float64(of) }

// ofBlob tells requests for blobs.
func ofBlob(r rig.Request) bool {
	return strings.Contains(r.Path, "/blobs/") && r.Method == http.MethodGet
}
