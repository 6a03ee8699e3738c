//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

// rule is how a puller deals with one way in which a registry misbehaves for parts of blobs.
type rule struct {
	what string
	// script is that of the first mirror. A new one is made for each pull.
	script func() script
	// second adds a mirror that does not misbehave.
	second bool
	// kept says what in the first mirror's record is against the rule, or nothing.
	kept func(log []rig.Request) string
}

// retryAfter is how long a registry asks to be left alone.
const retryAfter = 3 * time.Second

// onItsWay is how long after an answer a request may come that was made before the client had read it.
const onItsWay = 500 * time.Millisecond

func rules() []rule {
	const some = 300_000
	once := func(f rig.Fault) func() script { return func() script { return times(1, ranged, f) } }
	return []rule{
		{what: "one answer in four comes from a slow front-end: it is taken up from its last byte on another connection",
			script: slowFrontEnd, kept: takenUp(func(r rig.Request) bool { return r.Done && !wholeAnswer(r) })},
		{what: "429 with Retry-After in seconds: the host is left alone until then", kept: leftAlone(http.StatusTooManyRequests),
			script: func() script { return nth(3, rig.TooManyRequests(retryAfter)) }},
		{what: "503 with Retry-After as a date: the host is left alone until then", kept: leftAlone(http.StatusServiceUnavailable),
			script: retryAtDate},
		{what: "500 for every chunk at first", script: once(rig.Answer(http.StatusInternalServerError))},
		{what: "502 for every chunk at first", script: once(rig.Answer(http.StatusBadGateway))},
		{what: "every chunk dropped at first", script: once(rig.Fault{Drop: true})},
		{what: "every chunk cut at first: it is taken up from its last byte", script: once(rig.Fault{CutAfter: rig.At(some)}),
			kept: takenUp(func(r rig.Request) bool { return r.Sent == some })},
		{what: "a chunk that stalls: it is taken up from its last byte", kept: takenUp(func(r rig.Request) bool { return r.Sent == some }),
			script: func() script { return nth(2, rig.Fault{StallAfter: rig.At(some)}) }},
		{what: "404 for every chunk from the first mirror: the next is asked", second: true, kept: goneElsewhere(http.StatusNotFound),
			script: func() script { return always(ranged, rig.Answer(http.StatusNotFound)) }},
		{what: "wrong bytes from the first mirror: the next is asked", second: true,
			script: func() script { return always(ranged, rig.Fault{FlipAt: rig.At(50)}) }},
		{what: "416 for every chunk from the only mirror: it is asked in one stream", kept: inOneStream, script: noSuchRange},
		{what: "416 for every chunk from the first mirror: it is asked in one stream", kept: inOneStream, second: true,
			script: noSuchRange},
		{what: "200 and everything for every chunk at first", script: once(rig.Fault{IgnoreRange: true})},
		{what: "another Content-Range for every chunk at first",
			script: once(rig.Fault{Header: http.Header{"Content-Range": {"bytes 1-2/*"}}})},
		{what: "no Content-Range for every chunk at first", script: once(rig.Fault{Header: http.Header{"Content-Range": nil}})},
		{what: "every chunk shorter than asked for at first",
			script: once(rig.Fault{Header: http.Header{"Content-Length": {"1000"}}})},
		{what: "every chunk announced longer than it is at first",
			script: once(rig.Fault{Header: http.Header{"Content-Length": {"9000000"}}})},
	}
}

// No containerd has a part in what is asked of the registry: one line is enough.
func TestRulesForMisbehavingRegistries(t *testing.T) {
	t.Parallel()
	mirror, reference := newMirror(t), newReference(t, newest)
	img := mirror.put(t, odd(t, rig.ModelSpec{RawSize: 24 << 20, ShardSize: 7 << 20, GzipLayers: 1, GzipSize: 3 << 20}), newName())
	reference.mustPull(img.under(mirrored), img)
	for _, r := range rules() {
		for _, way := range ways() {
			t.Run(r.what+"/"+string(way), func(t *testing.T) {
				t.Parallel()
				r.check(t, newest, way, img, reference)
			})
		}
	}
}

func (r rule) check(t *testing.T, line string, way config.Way, img image, reference *node) {
	row := shows(t, line, fmt.Sprintf("hotplate pull, way %s: %s", way, r.what))
	first := newMirror(t)
	mirrors := []*site{first}
	if r.second {
		mirrors = append(mirrors, newMirror(t))
		// So slow that it takes longer than what is on its way.
		mirrors[1].SetScript(always(isBlob, rig.Fault{BytesPerSecond: 1 << 20}))
	}
	n := newNode(t, line, nil)
	n.way = way
	n.prepare(mirrors...)
	first.Reset()
	hits := &counted{}
	first.SetScript(hits.count(r.script()))
	if res := n.pullByHand(img); res.code != 0 {
		t.Fatalf("exit code %d\n%s%s", res.code, res.out, res.err)
	}
	if hits.total() == 0 && r.kept == nil {
		t.Error("no answer was faulty")
	}
	if r.kept != nil {
		if against := r.kept(first.asked()); against != "" {
			t.Errorf("against the rule: %s", against)
		}
	}
	row.saw("%d faulty answers of %d; exit code 0", hits.total(), len(first.asked()))
	n.checkImage(mirrors[len(mirrors)-1], img, img.under(mirrored), mirrored+"/"+img.repo+"@"+img.digest)
	n.checkSame(reference, img)
	n.checkOnly(img)
}

// largePart matches requests for a mebibyte of a blob or more.
func largePart(r *http.Request) bool {
	var from, to int64
	n, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to)
	return isBlob(r) && n == 2 && err == nil && to-from >= 1<<20-1
}

// nth misbehaves towards the n-th request for a large part of a blob.
func nth(n int64, f rig.Fault) script {
	var seen atomic.Int64
	return always(func(r *http.Request) bool { return largePart(r) && seen.Add(1) == n }, f)
}

// slowFrontEnd answers one large part in four at a rate at which it takes a minute.
func slowFrontEnd() script {
	var seen atomic.Int64
	return func(r *http.Request) rig.Fault {
		if !isBlob(r) {
			return rig.Fault{}
		}
		if largePart(r) && seen.Add(1)%4 == 0 {
			return rig.Fault{BytesPerSecond: drip}
		}
		return rig.Fault{BytesPerSecond: 4 << 20}
	}
}

// retryAtDate answers 503 once. A date has whole seconds.
func retryAtDate() script {
	at := func() string { return time.Now().Add(retryAfter + time.Second).UTC().Format(http.TimeFormat) }
	var seen atomic.Int64
	return func(r *http.Request) rig.Fault {
		if ranged(r) && seen.Add(1) == 3 {
			return rig.Answer(http.StatusServiceUnavailable, "Retry-After", at())
		}
		return rig.Fault{}
	}
}

// noSuchRange denies every range.
func noSuchRange() script {
	return always(ranged, rig.Answer(http.StatusRequestedRangeNotSatisfiable, "Content-Range", "bytes */1"))
}

// inOneStream wants what was denied as a range to be asked for as a whole, and to come so.
func inOneStream(log []rig.Request) string {
	denied, came := make(map[string]bool), make(map[string]bool)
	for _, r := range log {
		if r.Status == http.StatusRequestedRangeNotSatisfiable {
			denied[r.Path] = true
		}
		if r.Status == http.StatusOK && r.Range == "" {
			came[r.Path] = true
		}
	}
	for path := range denied {
		if !came[path] {
			return path + " was not asked for in one stream"
		}
	}
	if len(denied) == 0 {
		return "no range was denied"
	}
	return ""
}

// wholeAnswer tells whether all that was asked for was sent.
func wholeAnswer(r rig.Request) bool {
	_, whole := partOf(r)
	return whole
}

// takenUp wants each answer that broke off to be followed by a request that begins where the client had got to, and not
// where it had begun.
func takenUp(broken func(rig.Request) bool) func([]rig.Request) string {
	return func(log []rig.Request) string {
		seen := 0
		for i, r := range log {
			if r.Range == "" || r.Sent == 0 || !broken(r) {
				continue
			}
			seen++
			got, _ := partOf(r)
			_, end, _ := strings.Cut(r.Range, "-")
			goesOn := false
			for _, later := range log[i+1:] {
				_, laterEnd, _ := strings.Cut(later.Range, "-")
				if from, _ := partOf(later); later.Path == r.Path && laterEnd == end && from.from > got.from {
					goesOn = true
				}
			}
			if !goesOn {
				return fmt.Sprintf("%s of %s broke off after %d bytes and was not taken up", r.Range, r.Path, r.Sent)
			}
		}
		if seen == 0 {
			return "no answer broke off"
		}
		return ""
	}
}

// leftAlone wants no request to come while the registry has asked to be left alone. What was on its way may still come.
func leftAlone(status int) func([]rig.Request) string {
	return func(log []rig.Request) string {
		seen := false
		for _, r := range log {
			if r.Status != status {
				continue
			}
			seen = true
			for _, later := range log {
				if d := later.Time.Sub(r.Time); d > onItsWay && d < retryAfter-50*time.Millisecond {
					return fmt.Sprintf("%s %s came %s after %d", later.Method, later.Path, d, status)
				}
			}
		}
		if !seen {
			return fmt.Sprintf("no answer was %d", status)
		}
		return ""
	}
}

// goneElsewhere wants a blob not to be asked for again after such an answer. What was on its way may still come.
func goneElsewhere(status int) func([]rig.Request) string {
	return func(log []rig.Request) string {
		first := make(map[string]time.Time)
		for _, r := range log {
			if at, ok := first[r.Path]; ok && r.Time.Sub(at) > onItsWay {
				return fmt.Sprintf("%s %s of %s came %s after %d", r.Method, r.Range, r.Path, r.Time.Sub(at), status)
			}
			if _, ok := first[r.Path]; !ok && r.Status == status {
				first[r.Path] = r.Time
			}
		}
		if len(first) == 0 {
			return fmt.Sprintf("no answer was %d", status)
		}
		return ""
	}
}
