package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// layers shows the layers of an image: a bar each on a terminal, a line a second elsewhere.
type layers struct {
	container *mpb.Progress // nil where there is no terminal
	bars      map[string]*mpb.Bar
	printed   time.Time
}

func newLayers(ctx context.Context) *layers {
	l := &layers{bars: make(map[string]*mpb.Bar)}
	if term.IsTerminal(int(os.Stdout.Fd())) {
		l.container = mpb.NewWithContext(ctx, mpb.WithWidth(40))
	}
	return l
}

func (l *layers) update(all []report.Layer) {
	if l.container == nil {
		l.print(all)
		return
	}
	for _, layer := range all {
		bar := l.bars[layer.Digest]
		if bar == nil {
			bar = l.container.AddBar(layer.Size,
				mpb.PrependDecorators(decor.Name(layer.Digest[:19], decor.WCSyncSpaceR)),
				mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f")))
			l.bars[layer.Digest] = bar
		}
		bar.SetCurrent(layer.Done)
	}
}

func (l *layers) print(all []report.Layer) {
	if len(all) == 0 || time.Since(l.printed) < time.Second {
		return
	}
	l.printed = time.Now()
	for _, layer := range all {
		fmt.Printf("%s %-9s %10s of %s\n", layer.Digest[:19], layer.Phase, report.Bytes(layer.Done), report.Bytes(layer.Size))
	}
	fmt.Println()
}

// full says that everything has arrived: the last report may have come before the last bytes.
func (l *layers) full() {
	for _, bar := range l.bars {
		bar.SetTotal(-1, true)
	}
}

// end waits for the last drawing.
func (l *layers) end() {
	if l.container == nil {
		return
	}
	for _, bar := range l.bars {
		bar.Abort(false)
	}
	l.container.Wait()
}
