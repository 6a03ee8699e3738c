package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/hotplate-dev/hotplate/agent/images"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/prefetch"
)

const (
	barInterval  = 100 * time.Millisecond
	lineInterval = 2 * time.Second
	jsonInterval = time.Second
)

// jsonHelp describes what jsonLines prints.
const jsonHelp = "With --output json, each line is an object with event and ref. While an image is pulled, event is progress\n" +
	"every second, and progress holds phase (Pending, Resolving, Fetching, Unpacking, Ready, Failed), bytesDone of\n" +
	"bytesTotal (compressed; what was there counts as done), bytesFetched, rate in bytes a second, left in nanoseconds,\n" +
	"waitingFor, way and wayReason, and layers with the same of each. At the end event is ready, and result holds digest,\n" +
	"names, pinned, mountable, way, wayReason, kept, size, bytesFetched, duration in nanoseconds, boundBy, advice and note;\n" +
	"or event is failed with error. Fields without a value are left out. The exit code is 1 if an image failed."

// bars draws one bar a layer on a terminal.
type bars struct{ out io.Writer }

func (b bars) follow(ref string, pr *prefetch.Progress) func() {
	fmt.Fprintln(b.out, ref)
	container := mpb.New(mpb.WithOutput(b.out), mpb.WithRefreshRate(barInterval), mpb.WithWidth(40))
	var layers []*mpb.Bar
	stop := images.Follow(pr, barInterval, func(s prefetch.Snapshot, last bool) {
		for i, l := range s.Layers {
			if i == len(layers) {
				layers = append(layers, layerBar(container, pr, i, l))
			}
			layers[i].SetCurrent(l.Done)
		}
		if last {
			for _, bar := range layers {
				bar.Abort(false) // leaves the bar as it is; a full one has already ended
			}
		}
	})
	return func() {
		stop()
		container.Wait()
	}
}

// layerBar is the bar of the layer at index i, with its rate and what it does or waits for at its end.
func layerBar(container *mpb.Progress, pr *prefetch.Progress, i int, l prefetch.Layer) *mpb.Bar {
	return container.AddBar(l.Size,
		mpb.PrependDecorators(
			decor.Name(report.Short(l.Digest), decor.WCSyncSpaceR),
			decor.CountersKibiByte("% .1f / % .1f", decor.WCSyncSpace),
		),
		mpb.AppendDecorators(
			decor.Any(func(decor.Statistics) string {
				s := pr.Snapshot()
				if i >= len(s.Layers) {
					return ""
				}
				return " " + doing(s.Layers[i])
			}),
		),
	)
}

// doing is how fast a layer comes, how long it takes still, and what it does or waits for.
func doing(l prefetch.Layer) string {
	var parts []string
	if l.Rate > 0 {
		parts = append(parts, pace(l.Rate, l.Left))
	}
	if l.Unpacked > 0 && l.Unpacked < l.Size {
		parts = append(parts, report.Bytes(l.Unpacked)+" unpacked")
	}
	if l.WaitingFor != "" {
		return strings.Join(append(parts, "waits for "+l.WaitingFor), ", ")
	}
	return strings.Join(append(parts, string(l.Phase)), ", ")
}

// pace is how fast bytes come, and how long the rest takes.
func pace(rate int64, left time.Duration) string {
	return report.Rate(rate) + ", " + report.Left(left) + " left"
}

func (b bars) done(ref string, res prefetch.Result, err error) { printResult(b.out, ref, res, err) }

// plainLines prints a line now and then, for logs and pipes.
type plainLines struct{ out io.Writer }

func (p plainLines) follow(ref string, pr *prefetch.Progress) func() {
	return images.Follow(pr, lineInterval, func(s prefetch.Snapshot, last bool) {
		if !last {
			p.show(ref, s)
		}
	})
}

func (p plainLines) show(ref string, s prefetch.Snapshot) {
	line := fmt.Sprintf("%s: %s %s of %s", ref, s.Phase, report.Bytes(s.BytesDone), report.Bytes(s.BytesTotal))
	if s.Rate > 0 {
		line += ", " + pace(s.Rate, s.Left)
	}
	if s.WaitingFor != "" {
		line += ", waits for " + s.WaitingFor
	}
	fmt.Fprintln(p.out, line)
	for _, l := range s.Layers {
		if l.Phase == prefetch.Pending || l.Phase == prefetch.Ready {
			continue
		}
		from := ""
		if l.Host != "" {
			from = " from " + l.Host
		}
		fmt.Fprintf(p.out, "  %s %s of %s%s: %s\n", report.Short(l.Digest), report.Bytes(l.Done), report.Bytes(l.Size), from,
			doing(l))
	}
}

func (p plainLines) done(ref string, res prefetch.Result, err error) {
	printResult(p.out, ref, res, err)
}

func printResult(out io.Writer, ref string, res prefetch.Result, err error) {
	if err != nil {
		return // the program ends with it
	}
	state := "Ready"
	if !res.Mountable {
		state = "present, not mountable"
	}
	if res.Pinned {
		state += ", pinned"
	}
	fmt.Fprintf(out, "%s: %s: %s, %s fetched in %s (%s)\n", ref, state, res.Digest, report.Bytes(res.BytesFetched),
		res.Duration.Round(time.Millisecond), report.RateOver(res.BytesFetched, res.Duration))
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(out, "  %s: %s\n", name, value)
		}
	}
	line("way", way(res))
	line("bound by", string(res.BoundBy))
	for _, a := range res.Advice {
		line("advice", a)
	}
	line("note", res.Note)
}

// way says how the layers got in; empty when none had to.
func way(res prefetch.Result) string {
	if res.Way == "" {
		return ""
	}
	s := string(res.Way)
	if res.WayReason != "" {
		s += " (" + res.WayReason + ")"
	}
	if res.Kept {
		return s + ", compressed layers kept"
	}
	return s + ", compressed layers not kept"
}

// jsonLines prints one JSON object a line: progress events while it works, then a result event an image.
type jsonLines struct{ out io.Writer }

// event is one line of --output json. jsonHelp describes it.
type event struct {
	Event    string             `json:"event"` // progress, ready or failed
	Ref      string             `json:"ref"`
	Progress *prefetch.Snapshot `json:"progress,omitempty"`
	Result   *prefetch.Result   `json:"result,omitempty"`
	Error    string             `json:"error,omitempty"`
}

func (j jsonLines) follow(ref string, pr *prefetch.Progress) func() {
	return images.Follow(pr, jsonInterval, func(s prefetch.Snapshot, _ bool) {
		j.print(event{Event: "progress", Ref: ref, Progress: &s})
	})
}

func (j jsonLines) done(ref string, res prefetch.Result, err error) {
	if err != nil {
		j.print(event{Event: "failed", Ref: ref, Error: err.Error()})
		return
	}
	j.print(event{Event: "ready", Ref: ref, Result: &res})
}

func (j jsonLines) print(e event) {
	enc := json.NewEncoder(j.out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(e) // a reader that went away ends us by SIGPIPE
}
