package prefetch

import (
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Phase is where an image or a layer is on its way.
type Phase string

// The phases. A layer is Pending until its first byte is asked for.
const (
	Pending   Phase = "Pending"
	Resolving Phase = "Resolving"
	Fetching  Phase = "Fetching"
	Unpacking Phase = "Unpacking"
	Ready     Phase = "Ready"
	Failed    Phase = "Failed"
)

// Progress is told by Ensure how far it is, and asked by whoever shows it. It holds one image's state, so it is bounded
// by nature. The zero value is ready; a nil Progress is told nothing. It is safe for concurrent use.
type Progress struct {
	mu   sync.Mutex
	snap Snapshot
	at   map[digest.Digest]int // index into snap.Layers
	// rates are those of the layers, in the same order, and then that of all.
	rates []rate
}

// A rate is measured over the last rateSamples intervals of rateEvery.
const (
	rateSamples = 8
	rateEvery   = time.Second
)

// rate remembers how much was done when.
type rate struct {
	at   [rateSamples]time.Time
	done [rateSamples]int64
	n    int // samples ever taken
}

// note takes a sample if the last one is old enough.
func (r *rate) note(now time.Time, done int64) {
	if r.n > 0 && now.Sub(r.at[(r.n-1)%rateSamples]) < rateEvery {
		return
	}
	r.at[r.n%rateSamples], r.done[r.n%rateSamples] = now, done
	r.n++
}

// perSecond is the rate since the oldest sample, and how long what is left takes at that; 0 when it is not known.
func (r *rate) perSecond(now time.Time, done, all int64) (n int64, left time.Duration) {
	if r.n == 0 {
		return 0, 0
	}
	oldest := max(0, r.n-rateSamples) % rateSamples
	passed := now.Sub(r.at[oldest])
	if passed < rateEvery/2 || done <= r.done[oldest] {
		return 0, 0
	}
	n = int64(float64(done-r.done[oldest]) / passed.Seconds())
	if n > 0 {
		left = time.Duration(float64(all-done) / float64(n) * float64(time.Second)).Round(time.Second)
	}
	return n, left
}

// Snapshot is the state of one image at one moment.
type Snapshot struct {
	Ref   string `json:"ref"`
	Phase Phase  `json:"phase"`
	// Digest is the manifest's, IndexDigest that of the index it was chosen from; empty until known.
	Digest      string `json:"digest,omitempty"`
	IndexDigest string `json:"indexDigest,omitempty"`
	// BytesDone and BytesTotal count the compressed bytes of the layers; those found on the node count as done.
	BytesDone  int64 `json:"bytesDone"`
	BytesTotal int64 `json:"bytesTotal"`
	// BytesFetched is what came over the network in this run, repeats included.
	BytesFetched int64 `json:"bytesFetched"`
	// WaitingFor says what the image waits for; empty while it moves.
	WaitingFor string `json:"waitingFor,omitempty"`
	// Way is how the layers get in, WayReason why not directly; empty until known.
	Way       WayName `json:"way,omitempty"`
	WayReason string  `json:"wayReason,omitempty"`
	// Rate is how many bytes of layers a second got done lately, Left how long the rest takes at that rate; 0 if unknown.
	Rate int64         `json:"rate,omitempty"`
	Left time.Duration `json:"left,omitempty"`
	// Error is why it failed.
	Error   string    `json:"error,omitempty"`
	Started time.Time `json:"started,omitzero"`
	// Ended is when it became Ready or Failed.
	Ended  time.Time `json:"ended,omitzero"`
	Layers []Layer   `json:"layers,omitempty"`
}

// Layer is the state of one layer at one moment.
type Layer struct {
	Digest    string `json:"digest"`
	MediaType string `json:"mediaType"`
	// Size is the compressed size in bytes, Done how much of it containerd has.
	Size  int64 `json:"size"`
	Done  int64 `json:"done"`
	Phase Phase `json:"phase"`
	// Unpacked is how many of its bytes have been laid out, in compressed bytes, where the way is Direct.
	Unpacked int64 `json:"unpacked,omitempty"`
	// Rate and Left are as in Snapshot.
	Rate int64         `json:"rate,omitempty"`
	Left time.Duration `json:"left,omitempty"`
	// Host is the registry host that its bytes come from.
	Host string `json:"host,omitempty"`
	// WaitingFor says what the layer waits for; empty while it moves.
	WaitingFor string `json:"waitingFor,omitempty"`
}

// left tells which shares of the bytes of now have not been fetched, and not been laid out, when it is called.
func (p *Progress) left() func() (fetch, unpack float64) {
	open := func() (fetch, unpack int64) {
		for _, l := range p.Snapshot().Layers {
			fetch, unpack = fetch+l.Size-l.Done, unpack+l.Size-l.Unpacked
		}
		return fetch, unpack
	}
	share := func(now, before int64) float64 {
		if before <= 0 {
			return 1
		}
		return min(float64(now)/float64(before), 1)
	}
	fetch0, unpack0 := open()
	return func() (float64, float64) {
		fetch, unpack := open()
		return share(fetch, fetch0), share(unpack, unpack0)
	}
}

// Snapshot returns a copy of the present state.
func (p *Progress) Snapshot() Snapshot {
	if p == nil {
		return Snapshot{Phase: Pending}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.snap
	s.Layers = slices.Clone(s.Layers)
	if s.Phase == "" {
		s.Phase = Pending
	}
	now := time.Now()
	for i := range s.Layers {
		l := &s.Layers[i]
		s.BytesDone += l.Done
		s.BytesTotal += l.Size
		if l.Phase == Fetching && i < len(p.rates) {
			l.Rate, l.Left = p.rates[i].perSecond(now, l.Done, l.Size)
		}
	}
	if s.Phase == Fetching && len(p.rates) > 0 {
		s.Rate, s.Left = p.rates[len(p.rates)-1].perSecond(now, s.BytesDone, s.BytesTotal)
	}
	return s
}

// came counts bytes of a layer that came over the network.
func (p *Progress) came(d digest.Digest, n int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.snap.BytesFetched += n
	i, ok := p.at[d]
	if !ok {
		return
	}
	l := &p.snap.Layers[i]
	l.Done, l.WaitingFor = min(l.Done+n, l.Size), ""
	now := time.Now()
	p.rates[i].note(now, l.Done)
	if all := &p.rates[len(p.rates)-1]; all.n == 0 || now.Sub(all.at[(all.n-1)%rateSamples]) >= rateEvery {
		done := int64(0)
		for _, l := range p.snap.Layers {
			done += l.Done
		}
		all.note(now, done)
	}
}

// update changes the state under the lock.
func (p *Progress) update(f func(*Snapshot)) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.snap)
}

func (p *Progress) start(ref string) {
	p.update(func(s *Snapshot) {
		*s = Snapshot{Ref: ref, Phase: Resolving, Started: time.Now()}
		p.at, p.rates = nil, nil
	})
}

func (p *Progress) phase(ph Phase) {
	p.update(func(s *Snapshot) {
		s.Phase, s.WaitingFor = ph, ""
		for i := range s.Layers {
			s.Layers[i].Phase, s.Layers[i].WaitingFor = ph, ""
		}
	})
}

func (p *Progress) waiting(what string) {
	p.update(func(s *Snapshot) { s.WaitingFor = what })
}

func (p *Progress) end(err error) {
	if err == nil {
		p.phase(Ready)
	}
	p.update(func(s *Snapshot) {
		s.Ended = time.Now()
		if err != nil {
			s.Phase, s.WaitingFor, s.Error = Failed, "", err.Error()
		}
	})
}

// layers says which layers the image has; a digest that occurs twice is one layer here.
func (p *Progress) layers(layers []ocispec.Descriptor) {
	p.update(func(s *Snapshot) {
		p.at, s.Layers = make(map[digest.Digest]int, len(layers)), nil
		p.rates = make([]rate, len(layers)+1)
		for _, l := range layers {
			if _, ok := p.at[l.Digest]; ok {
				continue
			}
			p.at[l.Digest] = len(s.Layers)
			s.Layers = append(s.Layers, Layer{
				Digest: l.Digest.String(), MediaType: l.MediaType, Size: l.Size, Phase: Pending,
			})
		}
	})
}

// layer changes the state of one layer under the lock.
func (p *Progress) layer(d digest.Digest, f func(*Layer)) {
	p.update(func(s *Snapshot) {
		if i, ok := p.at[d]; ok {
			f(&s.Layers[i])
		}
	})
}
