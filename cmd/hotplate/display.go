package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/prefetch"
)

const (
	barInterval  = 100 * time.Millisecond
	lineInterval = 2 * time.Second
)

// every calls f now and then and a last time when the returned function is called, which waits for it.
func every(interval time.Duration, f func(last bool)) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				f(true)
				return
			case <-tick.C:
				f(false)
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

// bars draws one bar a layer on a terminal.
type bars struct{ out io.Writer }

func (b bars) follow(ref string, pr *prefetch.Progress) func() {
	fmt.Fprintln(b.out, ref)
	container := mpb.New(mpb.WithOutput(b.out), mpb.WithRefreshRate(barInterval), mpb.WithWidth(40))
	var layers []*mpb.Bar
	stop := every(barInterval, func(last bool) {
		s := pr.Snapshot()
		for i, l := range s.Layers {
			if i == len(layers) {
				layers = append(layers, layerBar(container, pr, i, l))
			}
			layers[i].EwmaSetCurrent(l.Done, barInterval)
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

// layerBar is the bar of the layer at index i, with what it does or waits for at its end.
func layerBar(container *mpb.Progress, pr *prefetch.Progress, i int, l prefetch.Layer) *mpb.Bar {
	return container.AddBar(l.Size,
		mpb.PrependDecorators(
			decor.Name(shortDigest(l.Digest), decor.WCSyncSpaceR),
			decor.CountersKibiByte("% .1f / % .1f", decor.WCSyncSpace),
		),
		mpb.AppendDecorators(
			decor.EwmaSpeed(decor.SizeB1024(0), "% .1f", 30, decor.WCSyncSpace),
			decor.Any(func(decor.Statistics) string {
				s := pr.Snapshot()
				if i >= len(s.Layers) {
					return ""
				}
				if w := s.Layers[i].WaitingFor; w != "" {
					return " waits for " + w
				}
				return " " + string(s.Layers[i].Phase)
			}),
		),
	)
}

func (b bars) done(ref string, res prefetch.Result, err error) { printResult(b.out, ref, res, err) }

// plainLines prints a line now and then, for logs and pipes.
type plainLines struct{ out io.Writer }

func (p plainLines) follow(ref string, pr *prefetch.Progress) func() {
	var fetched int64
	return every(lineInterval, func(last bool) {
		if last {
			return
		}
		s := pr.Snapshot()
		rate := float64(s.BytesFetched-fetched) / lineInterval.Seconds()
		fetched = s.BytesFetched
		fmt.Fprintf(p.out, "%s: %s %s of %s, %s/s\n", ref, s.Phase, report.Bytes(s.BytesDone), report.Bytes(s.BytesTotal),
			report.Bytes(int64(rate)))
		for _, l := range s.Layers {
			if l.Phase == prefetch.Fetching {
				fmt.Fprintf(p.out, "  %s %s of %s from %s %s\n", shortDigest(l.Digest), report.Bytes(l.Done),
					report.Bytes(l.Size), l.Host, l.WaitingFor)
			}
		}
	})
}

func (p plainLines) done(ref string, res prefetch.Result, err error) {
	printResult(p.out, ref, res, err)
}

func printResult(out io.Writer, ref string, res prefetch.Result, err error) {
	if err != nil {
		return // the program ends with it
	}
	pinned := ""
	if res.Pinned {
		pinned = ", pinned"
	}
	fmt.Fprintf(out, "%s: Ready%s: %s, %s fetched in %s\n", ref, pinned, res.Digest, report.Bytes(res.BytesFetched),
		res.Duration.Round(time.Millisecond))
	if res.Note != "" {
		fmt.Fprintf(out, "  note: %s\n", res.Note)
	}
}

// jsonLines prints one JSON object a line: progress events while it works, then a result event an image.
type jsonLines struct{ out *os.File }

// event is one line of --output json.
type event struct {
	Event    string             `json:"event"` // progress, ready or failed
	Ref      string             `json:"ref"`
	Progress *prefetch.Snapshot `json:"progress,omitempty"`
	Result   *prefetch.Result   `json:"result,omitempty"`
	Error    string             `json:"error,omitempty"`
}

func (j jsonLines) follow(ref string, pr *prefetch.Progress) func() {
	enc := json.NewEncoder(j.out)
	return every(time.Second, func(bool) {
		s := pr.Snapshot()
		_ = enc.Encode(event{Event: "progress", Ref: ref, Progress: &s}) // a reader that went away ends us by SIGPIPE
	})
}

func (j jsonLines) done(ref string, res prefetch.Result, err error) {
	e := event{Event: "ready", Ref: ref, Result: &res}
	if err != nil {
		e = event{Event: "failed", Ref: ref, Error: err.Error()}
	}
	_ = json.NewEncoder(j.out).Encode(e) // as above
}

// shortDigest is what a person needs of a digest to tell it from the others.
func shortDigest(d string) string {
	const algorithm, hex = len("sha256:"), 12
	return d[:min(algorithm+hex, len(d))]
}
