package fetch

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// remembered is how many chunks that ended last are a chunk's peers, enoughPeers how many there must be.
	remembered, enoughPeers = 32, 8
	// farSlower is how many times slower than the median of its peers a chunk must be.
	farSlower = 4
	// soonest is how long a chunk is let alone at least, and how often it is looked at.
	soonest = 250 * time.Millisecond
	// A rescue costs rescueCost; each chunk that ends earns 1, and no more than mostCredit is saved: at most one chunk
	// in four is rescued in the long run, and eight at once when a link has become slow for all.
	rescueCost, mostCredit = 4, 8 * rescueCost
)

// peers are the chunks of one host that ended last. It is safe for concurrent use; its zero value is ready.
type peers struct {
	mu     sync.Mutex
	ring   [remembered]sample // guarded by mu
	ended  int                // guarded by mu
	spent  int                // of mostCredit; guarded by mu
	median atomic.Pointer[sample]
}

// sample is how a chunk fared, without the time in which nobody wanted its bytes.
type sample struct {
	took  time.Duration
	speed float64 // bytes per second
}

func (p *peers) add(s sample) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ring[p.ended%remembered] = s
	p.ended++
	p.spent = max(p.spent-1, 0)
	n := min(p.ended, remembered)
	if n < enoughPeers {
		return
	}
	var took [remembered]time.Duration
	var speed [remembered]float64
	for i, s := range p.ring[:n] {
		took[i], speed[i] = s.took, s.speed
	}
	slices.Sort(took[:n])
	slices.Sort(speed[:n])
	p.median.Store(&sample{took: took[n/2], speed: speed[n/2]})
}

// typical is the median of the peers, or nil while there are too few.
func (p *peers) typical() *sample { return p.median.Load() }

// spend tells whether a rescue can be afforded, and pays for it.
func (p *peers) spend() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spent+rescueCost > mostCredit {
		return false
	}
	p.spent += rescueCost
	return true
}
