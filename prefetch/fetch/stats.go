package fetch

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
)

// HostStats counts what was asked of one host since the client was made, and says how it is now.
type HostStats struct {
	// Bytes are those of bodies that were read.
	Bytes int64
	// Requests counts all requests for chunks, repeats included. Retries are the repeats by cause: 429, 503, 5xx,
	// cut, stalled, connect, token, other. A retry of a manifest or tag counts too.
	Requests int64
	Retries  map[string]int64
	// Stalls are requests that were ended because no byte came, Rescues those that went on over a new connection because
	// they were far slower than their peers.
	// The latter are no retries.
	Stalls, Rescues int64
	// InFlight is how many requests are under way now, Limit how many there may be.
	InFlight, Limit int
	// Latency is the time from asking for a chunk to its last byte, in seconds; repeats count each for themselves.
	Latency Histogram
}

// Histogram counts values up to each bound; Counts has one more entry for those above the last.
type Histogram struct {
	Bounds []float64
	Counts []int64
	Sum    float64
}

// Stats are those of the hosts that were asked, by host and port; at most 256 are remembered.
func (c *Client) Stats() map[string]HostStats { return c.hosts.stats() }

func (h *Histogram) add(v float64) {
	if h.Counts == nil {
		h.Bounds = latencyBounds()
		h.Counts = make([]int64, len(h.Bounds)+1)
	}
	i, _ := slices.BinarySearch(h.Bounds, v)
	h.Counts[i]++
	h.Sum += v
}

// stats is a copy.
func (t *tally) stats() HostStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.count
	s.Retries = maps.Clone(s.Retries)
	s.Latency.Counts = slices.Clone(s.Latency.Counts)
	s.Latency.Bounds = slices.Clone(s.Latency.Bounds)
	return s
}

// retryCause is the key of HostStats.Retries for err.
func retryCause(err error) string {
	var (
		auth   *authError
		status *StatusError
		broken *brokenError
	)
	switch {
	case errors.As(err, &auth):
		return "token"
	case errors.Is(err, ErrStalled):
		return "stalled"
	case unreachable(err):
		return "connect"
	case !errors.As(err, &status):
		if errors.As(err, &broken) || errors.Is(err, io.ErrUnexpectedEOF) {
			return "cut"
		}
	case status.Code == http.StatusTooManyRequests:
		return "429"
	case status.Code == http.StatusServiceUnavailable:
		return "503"
	case status.Code >= http.StatusInternalServerError:
		return "5xx"
	}
	return "other"
}
