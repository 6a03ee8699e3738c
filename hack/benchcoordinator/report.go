package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// What the coordinator of 5,000 nodes may take.
const (
	mostCores  = 1.0
	mostMemory = 250 << 20
	mostP99    = 50.0 // ms, of a report with a known token while nothing happens
)

// Report is latest.json.
type Report struct {
	Time   time.Time `json:"time"`
	Commit string    `json:"commit"`
	Nodes  int       `json:"nodes"`
	// Pullers are how many nodes may fetch at once; Fetch how long that takes, Ramp in what time agents began, in seconds.
	Pullers int     `json:"pullers"`
	Fetch   float64 `json:"fetchSeconds"`
	Ramp    float64 `json:"rampSeconds"`
	Machine Machine `json:"machine"`
	// Prepared is how long it took to make Nodes, pods and tokens, in seconds.
	Prepared float64  `json:"preparedSeconds"`
	Phases   []Phase  `json:"phases"`
	Takeover Takeover `json:"takeover"`
	// Resolved is how often the registry was asked for the image's manifest.
	Resolved int `json:"manifestRequests"`
}

// Machine is where it was measured.
type Machine struct {
	CPU         string  `json:"cpu"`
	Cores       int     `json:"cores"`
	MemoryBytes int64   `json:"memoryBytes"`
	Kernel      string  `json:"kernel"`
	Load        float64 `json:"loadAtStart"` // over a minute: above 0.7, somebody else was at work
	Go          string  `json:"go"`
	Kubernetes  string  `json:"kubernetes"`
	Hotplate    string  `json:"hotplate"`
}

// The names of phases.
const (
	phaseFill   = "fill"
	phaseSteady = "steady"
	phaseChange = "change, and kill -9 in the middle"
)

// Phase is one of the steps.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	// Reports are those that were answered with a Directive; Refused are others, by why.
	Reports int            `json:"reports"`
	All     Latency        `json:"all"`
	Cached  Latency        `json:"cachedToken"`
	Refused map[string]int `json:"refused,omitempty"`
	// CPUSeconds are the coordinator's, PeakRSS its largest in the phase, in bytes.
	CPUSeconds float64 `json:"cpuSeconds"`
	PeakRSS    int64   `json:"peakRSSBytes"`
	// What the API server has carried out, and OwnWrites on Nodes as the coordinator counts them, refused ones included; that
	// counter goes with the process.
	NodeWrites   int `json:"nodeWrites"`
	EventWrites  int `json:"eventWrites"`
	TokenReviews int `json:"tokenReviews"`
	OwnWrites    int `json:"ownWrites"`
}

// Latency is in milliseconds.
type Latency struct {
	Reports int     `json:"reports"`
	P50     float64 `json:"p50"`
	P99     float64 `json:"p99"`
	Max     float64 `json:"max"`
}

// Takeover is what happened after kill -9, in seconds since then.
type Takeover struct {
	Leads float64 `json:"leads"` // until the other replica leads; the Lease takes 15
	Heard float64 `json:"heard"` // until it has answered every node
	Ready float64 `json:"ready"` // until every Node is Ready
	// ReadyBefore is how many nodes had both images when it was killed.
	ReadyBefore int `json:"readyBefore"`
	// Lost are Nodes that said something worse of the first image than before, Unknown those that became so.
	Lost    int `json:"lost"`
	Unknown int `json:"unknown"`
	// Led is how often a replica began to lead, in all. More than twice: one has lost the Lease.
	Led int `json:"led"`
}

// Encode returns the report as JSON.
func (r *Report) Encode() ([]byte, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the report: %w", err)
	}
	return append(data, '\n'), nil
}

// phase is the one of that name, or an empty one.
func (r *Report) phase(name string) Phase {
	for _, p := range r.Phases {
		if p.Name == name {
			return p
		}
	}
	return Phase{}
}

func (p Phase) cores() float64 { return p.per(p.CPUSeconds) }

func (p Phase) per(n float64) float64 {
	if p.Seconds == 0 {
		return 0
	}
	return n / p.Seconds
}

// Markdown is the report for people.
func (r *Report) Markdown() string {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "# Benchmark: the coordinator of %d nodes\n\n", r.Nodes)
	fmt.Fprintf(&b, "%s, commit %s. %s, %d cores, %.0f GiB, Linux %s. Kubernetes %s, hotplate %s, %s. Load average at the start: %.2f.\n"+
		"Agents, API server and etcd shared these cores with the coordinator.\n\n", r.Time.UTC().Format(time.DateTime+" UTC"), r.Commit, m.CPU, m.Cores,
		float64(m.MemoryBytes)/(1<<30), m.Kernel, m.Kubernetes, m.Hotplate, m.Go, m.Load)
	fmt.Fprintf(&b, "Nodes, pods and tokens were made in %.0f s. Agents began within %.0f s; %d nodes may fetch at once, an image takes %.0f s. "+
		"The registry was asked %d times for manifests.\n\n", r.Prepared, r.Ramp, r.Pullers, r.Fetch, r.Resolved)
	r.targets(&b)
	r.phaseTable(&b)
	t := r.Takeover
	fmt.Fprintf(&b, "## After kill -9\n\n%d nodes had both images. Another replica led after %.1f s, had heard every node after %.1f s, and "+
		"every Node was Ready after %.1f s. Lost: %d. Unknown: %d. A replica began to lead %d times in all.\n", t.ReadyBefore, t.Leads, t.Heard, t.Ready,
		t.Lost, t.Unknown, t.Led)
	return b.String()
}

func (r *Report) targets(b *strings.Builder) {
	b.WriteString("| what | is | at most | |\n|---|---:|---:|---|\n")
	row := func(what string, is, most float64, unit string) {
		word := "met"
		if is > most {
			word = "**missed**"
		}
		fmt.Fprintf(b, "| %s | %.4g %s | %.4g %s | %s |\n", what, is, unit, most, unit, word)
	}
	fill, steady, change := r.phase(phaseFill), r.phase(phaseSteady), r.phase(phaseChange)
	row("coordinator, fill", fill.cores(), mostCores, "cores")
	row("coordinator, steady", steady.cores(), mostCores, "cores")
	row("coordinator, change", change.cores(), mostCores, "cores")
	row("largest resident memory", mib(max(fill.PeakRSS, steady.PeakRSS, change.PeakRSS)), mib(mostMemory), "MiB")
	row("p99 of a report, steady, known token", steady.Cached.P99, mostP99, "ms")
	row("writes on Nodes, steady", float64(steady.NodeWrites), 0, "")
	row("nodes lost or Unknown by the restart", float64(r.Takeover.Lost+r.Takeover.Unknown), 0, "")
	b.WriteString("\n")
}

func (r *Report) phaseTable(b *strings.Builder) {
	b.WriteString("| phase | seconds | reports/s | p50 ms | p99 ms | max ms | p99 ms, known token | CPU s | cores | RSS MiB | node writes per node | " +
		"event writes per node | token reviews | not answered |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|\n")
	for _, p := range r.Phases {
		var refused []string
		for _, why := range slices.Sorted(maps.Keys(p.Refused)) {
			refused = append(refused, fmt.Sprintf("%d %s", p.Refused[why], why))
		}
		n := float64(r.Nodes)
		fmt.Fprintf(b, "| %s | %.1f | %.0f | %.1f | %.1f | %.0f | %.1f | %.1f | %.2f | %.0f | %.2f | %.2f | %d | %s |\n", p.Name, p.Seconds,
			p.per(float64(p.Reports)), p.All.P50, p.All.P99, p.All.Max, p.Cached.P99, p.CPUSeconds, p.cores(), mib(p.PeakRSS),
			float64(p.NodeWrites)/n, float64(p.EventWrites)/n, p.TokenReviews, strings.Join(refused, ", "))
	}
	b.WriteString("\n")
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
