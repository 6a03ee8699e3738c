package report

import (
	"fmt"
	"strings"
	"time"
)

// Markdown renders the report for people. picture is the file beside it that SVG is in.
func Markdown(r *Report, picture string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Benchmark: registry to Ready\n\n")
	m := r.Machine
	fmt.Fprintf(&b, "%s, %s run. %s, %d cores, %.0f GiB, Linux %s, %s that takes %.0f MB/s (1 GiB, fsynced). "+
		"containerd %s, hotplate %s, %s. Page cache dropped before each pull: %s. Load average at the start: %.2f.\n\n",
		r.Time.UTC().Format(time.DateTime+" UTC"), r.Mode, m.CPU, m.Cores, float64(m.MemoryBytes)/(1<<30), m.Kernel,
		m.Filesystem, m.DiskWriteRate/1e6, m.Containerd, m.Hotplate, m.Go, yesNo(m.CachesDropped), m.Load)
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "- %s\n", n)
	}
	if len(r.Notes) > 0 {
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "![seconds to Ready](%s)\n\n", picture)
	b.WriteString("## Targets\n\n")
	b.WriteString("| what | is | at most | |\n|---|---:|---:|---|\n")
	for _, v := range r.Summary.Verdicts {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", v.What, v.value(), v.limit(), v.Word)
	}
	b.WriteString("\n")
	pullTables(&b, r)
	creationTable(&b, r)
	b.WriteString("## What was compared\n\n")
	for _, i := range r.Images {
		fmt.Fprintf(&b, "- Image %s: %s. %.0f MB in %d layers, %s.\n", i.Name, i.Description, float64(i.Bytes)/1e6, i.Layers,
			i.Digest)
	}
	for _, l := range r.Links {
		fmt.Fprintf(&b, "- Link %s: %s.\n", l.Name, l.Description)
	}
	for _, c := range r.Contestants {
		fmt.Fprintf(&b, "- %s: %s.\n", c.Name, c.Description)
	}
	return b.String()
}

// pullTables writes a table for each link.
func pullTables(b *strings.Builder, r *Report) {
	for _, link := range r.Links {
		fmt.Fprintf(b, "## Link %s\n\n", link.Name)
		b.WriteString("| image | contestant | seconds (fastest to slowest) | of tuned | of default | RSS hotplate MiB " +
			"| RSS containerd MiB | CPU s hotplate | CPU s containerd | cores busy | disk busy | fetched MB | requests | written MB | disk MB | failed |\n" +
			"|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
		for _, c := range r.Summary.Cells {
			if c.Link != link.Name {
				continue
			}
			fmt.Fprintf(b, "| %s | %s | %s%.2f (%.2f to %.2f) | %s | %s | %s | %.0f | %s | %.1f | %.0f %% | %s | %.0f | %d | %.0f | %.0f | %s |\n",
				c.Image, c.Contestant, atLeast(c), c.Seconds, c.Fastest, c.Slowest,
				r.Summary.ratio(c, Tuned), r.Summary.ratio(c, Default), orDash("%.0f", mib(c.Hotplate.PeakRSS)),
				mib(c.Containerd.PeakRSS), orDash("%.1f", c.Hotplate.CPUSeconds), c.Containerd.CPUSeconds, 100*c.CoresBusy, busy(c.DiskBusy),
				float64(c.Fetched)/1e6, c.Requests,
				float64(c.Hotplate.Written+c.Containerd.Written)/1e6, float64(c.DiskWritten)/1e6, failed(c))
		}
		b.WriteString("\n")
	}
}

func creationTable(b *strings.Builder, r *Report) {
	if len(r.Creations) == 0 {
		return
	}
	b.WriteString("## Creating an unrelated container meanwhile\n\n")
	b.WriteString("| while pulling | samples | median ms | p99 ms | max ms | failed | pulls |\n" +
		"|---|---:|---:|---:|---:|---:|---:|\n")
	for _, c := range r.Creations {
		what := c.Contestant
		if c.Image != "" {
			what += ", image " + c.Image + ", " + c.Link
		}
		fmt.Fprintf(b, "| %s | %d | %s | %s | %s | %d | %d |\n", what, len(c.Seconds), orDash("%.0f", c.Median*1e3),
			orDash("%.0f", c.P99*1e3), orDash("%.0f", c.Max*1e3), c.Failures, c.Pulls)
	}
	b.WriteString("\n")
}

// Ratios is the end of the output: each target, what it is and whether it is met.
func Ratios(r *Report) string {
	var b strings.Builder
	for _, v := range r.Summary.Verdicts {
		fmt.Fprintf(&b, "%-12s  %-58s  %8s  at most %s\n", v.Word, v.What, v.value(), v.limit())
	}
	if r.Mode != "full" {
		fmt.Fprintf(&b, "This was a %s run: its images are small, and its ratios say little.\n", r.Mode)
	}
	return b.String()
}

func (v Verdict) value() string {
	switch {
	case v.Word == notMeasured:
		return "-"
	case v.Unit != "":
		return fmt.Sprintf("%.0f %s", v.Value, v.Unit)
	case v.Bound != "":
		return fmt.Sprintf("%s %.2f", v.Bound, v.Value)
	}
	return fmt.Sprintf("%.2f", v.Value)
}

func (v Verdict) limit() string {
	if v.Unit != "" {
		return fmt.Sprintf("%.0f %s", v.AtMost, v.Unit)
	}
	return fmt.Sprintf("%.2f", v.AtMost)
}

// ratio is the cell's time as a part of another contestant's, as text.
func (s Summary) ratio(c Cell, against string) string {
	other, ok := s.find(c.Image, c.Link, against)
	switch {
	case !ok || other.Seconds == 0 || c.Unfinished && other.Unfinished:
		return "-"
	case c.Unfinished || other.Unfinished:
		return fmt.Sprintf("%s %.2f", bound(c, other), c.Seconds/other.Seconds)
	}
	return fmt.Sprintf("%.2f", c.Seconds/other.Seconds)
}

// busy is a part as a percentage, or a dash where it is not known.
func busy(part float64) string {
	if part < 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f %%", 100*part)
}

func atLeast(c Cell) string {
	if c.Unfinished {
		return "> "
	}
	return ""
}

// failed says how many rounds did not end in Ready, and how often an order had to be given again.
func failed(c Cell) string {
	s := fmt.Sprintf("%d of %d", c.Failures, c.Rounds)
	if c.Attempts > 1 {
		s += fmt.Sprintf(", up to %d orders", c.Attempts)
	}
	return s
}

func orDash(format string, v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf(format, v)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
