package report

import (
	"math"
	"slices"
)

// Summary is computed from the runs.
type Summary struct {
	Cells    []Cell    `json:"cells"`
	Verdicts []Verdict `json:"verdicts"`
}

// Cell is all runs of one contestant with one image over one link. Seconds, CPU and bytes are medians; memory is the
// largest peak of all rounds.
type Cell struct {
	Image      string  `json:"image"`
	Link       string  `json:"link"`
	Contestant string  `json:"contestant"`
	Rounds     int     `json:"rounds"`
	Failures   int     `json:"failures"`
	Seconds    float64 `json:"seconds"`
	Fastest    float64 `json:"fastest"`
	Slowest    float64 `json:"slowest"`
	// Unfinished says that Seconds is of a run that failed: the true time is longer.
	Unfinished  bool    `json:"unfinished,omitempty"`
	Attempts    int     `json:"attempts"`
	Hotplate    Process `json:"hotplate"`
	Containerd  Process `json:"containerd"`
	Fetched     int64   `json:"bytesFromRegistry"`
	Requests    int64   `json:"requests"`
	DiskWritten int64   `json:"bytesWrittenToDisk"`
	CoresBusy   float64 `json:"coresBusy"`
	DiskBusy    float64 `json:"diskBusy"`
}

// cells are in the order of the report's links, images and contestants. Those without a run are left out.
func cells(r *Report) []Cell {
	var list []Cell
	for _, link := range r.Links {
		for _, image := range r.Images {
			for _, c := range r.Contestants {
				runs := slices.DeleteFunc(slices.Clone(r.Runs), func(run Run) bool {
					return run.Link != link.Name || run.Image != image.Name || run.Contestant != c.Name
				})
				if len(runs) > 0 {
					list = append(list, fold(runs))
				}
			}
		}
	}
	return list
}

func fold(runs []Run) Cell {
	c := Cell{Image: runs[0].Image, Link: runs[0].Link, Contestant: runs[0].Contestant, Rounds: len(runs)}
	seconds := each(runs, func(r Run) float64 {
		if r.Failure != "" {
			c.Failures++
		}
		c.Attempts = max(c.Attempts, r.Attempts)
		return r.Seconds
	})
	c.Seconds, c.Fastest, c.Slowest = Median(seconds), slices.Min(seconds), slices.Max(seconds)
	// A failed run counts as the slowest, whatever its time.
	c.Unfinished = 2*c.Failures >= len(runs)
	of := func(get func(Run) int64) int64 {
		return int64(Median(each(runs, func(r Run) float64 { return float64(get(r)) })))
	}
	process := func(get func(Run) Process) Process {
		return Process{
			PeakRSS:    int64(slices.Max(each(runs, func(r Run) float64 { return float64(get(r).PeakRSS) }))),
			CPUSeconds: Median(each(runs, func(r Run) float64 { return get(r).CPUSeconds })),
			Written:    of(func(r Run) int64 { return get(r).Written }),
		}
	}
	c.Hotplate = process(func(r Run) Process { return r.Hotplate })
	c.Containerd = process(func(r Run) Process { return r.Containerd })
	c.Fetched = of(func(r Run) int64 { return r.Fetched })
	c.Requests = of(func(r Run) int64 { return r.Requests })
	c.DiskWritten = of(func(r Run) int64 { return r.DiskWritten })
	c.CoresBusy = Median(each(runs, func(r Run) float64 { return r.CoresBusy }))
	c.DiskBusy = Median(each(runs, func(r Run) float64 { return r.DiskBusy }))
	return c
}

func each(runs []Run, get func(Run) float64) []float64 {
	list := make([]float64, len(runs))
	for i, r := range runs {
		list[i] = get(r)
	}
	return list
}

// Median of the values, which for an even number is the mean of the two in the middle, and for none NaN.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// Percentile is the smallest of the values that p of 100 do not exceed (nearest rank), for none NaN. With fewer than a
// hundred values the 99th is the largest.
func Percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(p / 100 * float64(len(v))))
	return v[min(max(rank, 1), len(v))-1]
}

func (c *Creation) summarise() {
	if len(c.Seconds) == 0 {
		return // JSON knows no NaN
	}
	c.Median, c.P99, c.Max = Median(c.Seconds), Percentile(c.Seconds, 99), slices.Max(c.Seconds)
}

// find returns the cell, or false if nobody measured it.
func (s Summary) find(image, link, contestant string) (Cell, bool) {
	i := slices.IndexFunc(s.Cells, func(c Cell) bool {
		return c.Image == image && c.Link == link && c.Contestant == contestant
	})
	if i < 0 {
		return Cell{}, false
	}
	return s.Cells[i], true
}
