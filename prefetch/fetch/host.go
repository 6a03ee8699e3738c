package fetch

import (
	"sync"
	"time"
)

// maxHosts bounds how many hosts are remembered. A node has few; whoever resolves names for others may have many.
const maxHosts = 256

// host is what is shared by all that is asked of one host and port.
type host struct {
	name  string
	slots *slots
	peers peers
	tally tally
}

// hosts are those of a Client. It is safe for concurrent use.
type hosts struct {
	most int // requests at once

	mu  sync.Mutex
	all map[string]*host // guarded by mu
}

// get finds or makes a host.
func (h *hosts) get(name string) *host {
	h.mu.Lock()
	defer h.mu.Unlock()
	if found := h.all[name]; found != nil {
		return found
	}
	for n, old := range h.all { // whoever uses one of these goes on with it
		if len(h.all) < maxHosts {
			break
		}
		if active, _ := old.slots.now(); active == 0 {
			delete(h.all, n)
		}
	}
	made := &host{name: name, slots: newSlots(h.most)}
	if len(h.all) < maxHosts {
		h.all[name] = made
	}
	return made
}

// stats are those of all hosts.
func (h *hosts) stats() map[string]HostStats {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make(map[string]HostStats, len(h.all))
	for name, one := range h.all {
		s := one.tally.stats()
		s.InFlight, s.Limit = one.slots.now()
		out[name] = s
	}
	return out
}

// latencyBounds are in seconds.
func latencyBounds() []float64 {
	return []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}
}

// tally counts. It is safe for concurrent use; its zero value is ready.
type tally struct {
	mu    sync.Mutex
	count HostStats // without what slots know; guarded by mu
}

func (t *tally) add(f func(*HostStats)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(&t.count)
}

func (t *tally) request()   { t.add(func(s *HostStats) { s.Requests++ }) }
func (t *tally) came(n int) { t.add(func(s *HostStats) { s.Bytes += int64(n) }) }
func (t *tally) stall()     { t.add(func(s *HostStats) { s.Stalls++ }) }
func (t *tally) rescue()    { t.add(func(s *HostStats) { s.Rescues++; s.Requests++ }) }

func (t *tally) retry(err error) {
	t.add(func(s *HostStats) {
		if s.Retries == nil {
			s.Retries = make(map[string]int64)
		}
		s.Retries[retryCause(err)]++
	})
}

func (t *tally) done(took time.Duration) {
	t.add(func(s *HostStats) { s.Latency.add(took.Seconds()) })
}
