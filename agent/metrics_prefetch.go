package agent

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hotplate-dev/hotplate/agent/images"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/fetch"
)

// imagePhases are all phases of an image, so that a phase without images is told as 0.
func imagePhases() []report.ImagePhase {
	return []report.ImagePhase{report.ImagePending, report.ImageResolving, report.ImageFetching, report.ImageUnpacking,
		report.ImageReady, report.ImageFailed}
}

// collectImages tells how many images there are in each phase.
func collectImages(r report.NodeReport, gauge func(string, string, float64, ...string)) {
	count := make(map[report.ImagePhase]int)
	for _, i := range r.Images {
		count[i.Phase]++
	}
	for _, p := range imagePhases() {
		gauge("hotplate_images", "Images of the config by phase.", float64(count[p]), "phase", string(p))
	}
	gauge("hotplate_images_unwanted", "Images that left the config, are to be deleted and have to stay for now.",
		float64(len(r.Unwanted)))
}

// collectPrefetch tells what fetching images did and does.
func (c collector) collectPrefetch(out chan<- prometheus.Metric) {
	worker, puller := c.agent.images.Stats()
	gauge := func(name, help string, value float64, labels ...string) {
		out <- metric(prometheus.GaugeValue, name, help, value, labels)
	}
	counter := func(name, help string, value int64, labels ...string) {
		out <- metric(prometheus.CounterValue, name, help, float64(value), labels)
	}
	collectWorker(worker, out, gauge, counter)
	for _, way := range []prefetch.WayName{prefetch.Direct, prefetch.API} {
		counter("hotplate_prefetch_layer_bytes_total", "Bytes of layers that were fetched, by the way they got in.",
			puller.BytesByWay[way], "way", string(way))
	}
	gauge("hotplate_prefetch_memory_used_bytes", "Memory that parts of images take.", float64(puller.MemoryUsed))
	gauge("hotplate_prefetch_memory_limit_bytes", "Memory that parts of images may take.", float64(puller.MemoryLimit))
	gauge("hotplate_prefetch_chunks_waiting", "Parts of images that wait for memory.", float64(puller.Waiting))
	for _, host := range slices.Sorted(maps.Keys(puller.Hosts)) {
		h := puller.Hosts[host]
		collectHost(host, h, gauge, counter)
		out <- histogram("hotplate_prefetch_chunk_duration_seconds", "Time from asking for a part to its last byte.",
			h.Latency, "host", host)
	}
}

// collectWorker tells what became of the images.
func collectWorker(s images.Stats, out chan<- prometheus.Metric, gauge func(string, string, float64, ...string),
	counter func(string, string, int64, ...string)) {
	gauge("hotplate_images_pinned_bytes", "Bytes on the disk of the pinned images that are Ready; layers that two of them "+
		"share count twice.", float64(s.PinnedBytes))
	for _, reason := range []string{report.NoSpace, report.TooMuchPinned, report.ImageBroken, report.ContainerdAway, report.PullFailed} {
		counter("hotplate_prefetch_failures_total", "Preparations of images that failed, by reason.", s.Failures[reason],
			"reason", reason)
	}
	out <- histogram("hotplate_prefetch_ready_seconds", "Time to Ready of images for which something was fetched.",
		fetch.Histogram{Bounds: s.ReadyBounds, Counts: s.Ready, Sum: s.ReadySum})
	for _, by := range []prefetch.Bound{prefetch.BoundNothing, prefetch.BoundNetwork, prefetch.BoundStream,
		prefetch.BoundDisk, prefetch.BoundRegistry} {
		counter("hotplate_prefetch_bound_total", "Images that became Ready, by what held them back.", s.BoundBy[by],
			"by", cmp.Or(string(by), "nothing"))
	}
	if s.Way != "" {
		gauge("hotplate_prefetch_way_info", "Always 1; how the newest image got its layers in, and why not directly, in a word.",
			1, "way", string(s.Way), "reason", wayReason(s.WayReason))
	}
}

// wayReason is one of a few words for a reason of prefetch.Way, which has names and errors in it: each value of a label
// is a time series. The status has the whole text.
func wayReason(text string) string {
	if text == "" {
		return ""
	}
	for _, r := range []struct{ part, word string }{
		{"configuration", "config"},
		{"untested version", "version"},
		{"user namespace", "userns"},
		{"snapshotter", "snapshotter"}, {"snapshots are in", "snapshotter"}, {"CRI has its images", "snapshotter"},
		{"content sharing policy", "content"}, {"content store", "content"}, {"content root is", "content"},
		{"is not the content root", "content"},
		{"cannot be", "access"}, {"may not", "access"},
		{"plugin", "plugin"},
	} {
		if strings.Contains(text, r.part) {
			return r.word
		}
	}
	return "other"
}

// collectHost tells of one registry host.
func collectHost(host string, h fetch.HostStats, gauge func(string, string, float64, ...string),
	counter func(string, string, int64, ...string)) {
	counter("hotplate_prefetch_bytes_total", "Bytes read from a registry host.", h.Bytes, "host", host)
	counter("hotplate_prefetch_requests_total", "Requests for parts of images, repeats included.", h.Requests, "host", host)
	for _, cause := range slices.Sorted(maps.Keys(h.Retries)) {
		counter("hotplate_prefetch_retries_total", "Repeated requests by cause.", h.Retries[cause],
			"host", host, "cause", cause)
	}
	counter("hotplate_prefetch_stalls_total", "Requests that were ended because no byte came.", h.Stalls, "host", host)
	counter("hotplate_prefetch_rescues_total", "Requests that went on over a new connection because they were far slower "+
		"than their peers.", h.Rescues, "host", host)
	gauge("hotplate_prefetch_requests_in_flight", "Requests under way.", float64(h.InFlight), "host", host)
	gauge("hotplate_prefetch_concurrency_limit", "Requests that may be under way.", float64(h.Limit), "host", host)
}

// histogram makes a metric from counts that do not include those of lower bounds.
func histogram(name, help string, h fetch.Histogram, pairs ...string) prometheus.Metric {
	var names, values []string
	for pair := range slices.Chunk(pairs, 2) {
		names, values = append(names, pair[0]), append(values, pair[1])
	}
	buckets, total := make(map[float64]uint64, len(h.Bounds)), uint64(0)
	for i, n := range h.Counts {
		total += uint64(n)
		if i < len(h.Bounds) {
			buckets[h.Bounds[i]] = total
		}
	}
	return prometheus.MustNewConstHistogram(prometheus.NewDesc(name, help, names, nil), total, h.Sum, buckets, values...)
}
