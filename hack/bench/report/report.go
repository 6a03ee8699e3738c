// Package report holds what a benchmark measured and turns it into statistics, verdicts, Markdown and a plot. It does no
// input or output of its own: the same runs give the same bytes.
package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Report is latest.json: everything that was measured, and what follows from it.
type Report struct {
	Time time.Time `json:"time"`
	// Mode is "full" or "quick". Quick images are small: their numbers show that everything works and little else.
	Mode        string       `json:"mode"`
	Machine     Machine      `json:"machine"`
	Images      []Image      `json:"images"`
	Links       []Link       `json:"links"`
	Contestants []Contestant `json:"contestants"`
	// Notes are what a reader must know of this run, in sentences.
	Notes []string `json:"notes,omitempty"`
	Runs  []Run    `json:"runs"`
	// Creations are how long an unrelated container took to create, idle and during pulls.
	Creations []Creation `json:"containerCreation,omitempty"`
	Summary   Summary    `json:"summary"`
}

// Machine is where it was measured.
type Machine struct {
	CPU         string `json:"cpu"`
	Cores       int    `json:"cores"`
	MemoryBytes int64  `json:"memoryBytes"`
	Kernel      string `json:"kernel"`
	Filesystem  string `json:"filesystem"`
	// DiskWriteRate is that of 1 GiB written in order and fsynced, in bytes per second.
	DiskWriteRate float64 `json:"diskWriteBytesPerSecond"`
	// Load is the load average over a minute when it started: above 0.7, somebody else was at work.
	Load          float64 `json:"loadAtStart"`
	Containerd    string  `json:"containerd"`
	Hotplate      string  `json:"hotplate"`
	Go            string  `json:"go"`
	CachesDropped bool    `json:"pageCacheDropped"`
}

// Image is one that is pulled.
type Image struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Digest      string `json:"digest"`
	Layers      int    `json:"layers"`
	// Bytes is the sum of the blobs in the registry.
	Bytes int64 `json:"bytes"`
}

// Link is how the registry is reached.
type Link struct {
	Name        string `json:"name"`
	Description string `json:"description"`
}

// Contestant is one way to have an image on a node.
type Contestant struct {
	Name        string `json:"name"`
	Description string `json:"description"`
}

// Run is one pull.
type Run struct {
	Image      string `json:"image"`
	Link       string `json:"link"`
	Contestant string `json:"contestant"`
	Round      int    `json:"round"`
	// Seconds is from the order to Ready. Where Failure is set it is the time after which nobody waited any more.
	Seconds float64 `json:"seconds"`
	// Failure is why the image did not become Ready. Empty: it did.
	Failure string `json:"failure,omitempty"`
	// Attempts is how often the order was given. A failed one is given again at once.
	Attempts   int     `json:"attempts"`
	Hotplate   Process `json:"hotplate"`
	Containerd Process `json:"containerd"`
	// Fetched is how many bytes came from the registry, Requests how many requests there were.
	Fetched  int64 `json:"bytesFromRegistry"`
	Requests int64 `json:"requests"`
	// DiskWritten is what the block device was sent until all was on it.
	DiskWritten int64 `json:"bytesWrittenToDisk"`
	// CoresBusy is how much of the cores was used by anybody, the registry and the link included, 0 to 1: one thread that is busy all
	// the time is one by the number of cores. DiskBusy is the part of Seconds in which the disk had a request under way, which those
	// that work at several at once may have without being at their limit; -1 where it does not count.
	CoresBusy float64 `json:"coresBusy"`
	DiskBusy  float64 `json:"diskBusy"`
	// ContentBytes is the size of the blobs in containerd's content store afterwards.
	ContentBytes int64 `json:"contentBytes"`
}

// Process is what a program used from the order to Ready.
type Process struct {
	// PeakRSS is VmHWM in bytes, CPUSeconds user and system time, its children's included.
	PeakRSS    int64   `json:"peakRSSBytes"`
	CPUSeconds float64 `json:"cpuSeconds"`
	// Written is how many bytes of file pages it made dirty (write_bytes of /proc/PID/io).
	Written int64 `json:"bytesWritten"`
}

// Idle is the contestant of a Creation when nobody pulls.
const Idle = "idle"

// Creation is how long RunPodSandbox and CreateContainer of a tiny image took together.
type Creation struct {
	Contestant string `json:"contestant"`
	Image      string `json:"image,omitempty"`
	Link       string `json:"link,omitempty"`
	// Pulls is how many there were meanwhile.
	Pulls   int       `json:"pulls"`
	Seconds []float64 `json:"seconds"`
	// Failures is how many creations failed. They are not among Seconds.
	Failures int     `json:"failures"`
	Median   float64 `json:"median"`
	P99      float64 `json:"p99"`
	Max      float64 `json:"max"`
}

// Summarise computes all that follows from the runs.
func (r *Report) Summarise() {
	for i := range r.Creations {
		r.Creations[i].summarise()
	}
	r.Summary.Cells = cells(r)
	r.Summary.Verdicts = verdicts(r)
}

// Encode returns the report as JSON.
func (r *Report) Encode() ([]byte, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the report: %w", err)
	}
	return append(data, '\n'), nil
}

// Decode reads what Encode wrote.
func Decode(data []byte) (*Report, error) {
	var r Report
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("decode the report: %w", err)
	}
	if r.Time.IsZero() {
		return nil, errors.New("decode the report: it has no time")
	}
	return &r, nil
}
