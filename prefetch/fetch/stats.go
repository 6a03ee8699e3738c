package fetch

// HostStats counts what was asked of one host since the client was made, and says how it is now.
type HostStats struct {
	// Bytes are those of bodies that were read.
	Bytes int64
	// Requests counts all requests for chunks, repeats included. Retries are the repeats by cause: 429, 503, 5xx,
	// cut, stalled, connect, token, other.
	Requests int64
	Retries  map[string]int64
	// Stalls are requests that were ended because no byte came, Rescues those that went on over a new connection because
	// they were far slower than their peers.
	Stalls, Rescues int64
	// InFlight is how many requests are under way now, Limit how many there may be.
	InFlight, Limit int
	// Latency is the time from asking for a chunk to its last byte, in seconds.
	Latency Histogram
}

// Histogram counts values up to each bound; Counts has one more entry for those above the last.
type Histogram struct {
	Bounds []float64
	Counts []int64
	Sum    float64
}
