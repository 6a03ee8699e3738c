package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
	"github.com/hotplate-dev/hotplate/prefetch"
	"github.com/hotplate-dev/hotplate/prefetch/prefetchtest"
)

// halfway returns the progress of a real pull of two layers, of which the first is there and the second is held back
// until finish is called, which waits for the end of the pull.
func halfway(t *testing.T) (img *prefetchtest.Image, pr *prefetch.Progress, finish func() prefetch.Result) {
	t.Helper()
	registry := prefetchtest.NewRegistry(t)
	img = prefetchtest.Build(t, 1, 300_000, 100_000)
	ref := registry.Push(img, "models/llama", "v1")
	hold := make(chan struct{})
	registry.Script(func(r *http.Request, _ int, a *prefetchtest.Answer) {
		if strings.HasSuffix(r.URL.Path, img.Layers[1].Digest.String()) {
			a.Hold = hold
		}
	})
	p, err := prefetch.New(prefetch.Config{Hosts: prefetchtest.Hosts(registry), Store: prefetchtest.NewMemStore(t),
		Log: prefetchtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	pr = new(prefetch.Progress)
	done := make(chan prefetch.Result, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		res, err := p.Ensure(ctx, prefetch.Image{Ref: ref, Pin: true}, pr)
		if err != nil {
			t.Errorf("pull: %v", err)
		}
		done <- res
	}()
	ended := false
	finish = func() prefetch.Result {
		ended = true
		close(hold)
		return <-done
	}
	t.Cleanup(func() {
		if !ended {
			finish()
		}
		cancel()
	})
	for { // ends with the test's own time limit
		s := pr.Snapshot()
		if len(s.Layers) == 2 && s.Layers[0].Done == s.Layers[0].Size && s.Layers[1].Phase == prefetch.Fetching {
			return img, pr, finish
		}
		time.Sleep(time.Millisecond)
	}
}

// shown is a pull at one moment, with something of everything.
func shown() prefetch.Snapshot {
	digest := func(c string) string { return "sha256:" + strings.Repeat(c, 64) }
	return prefetch.Snapshot{
		Ref: "example.com/llama:v1", Phase: prefetch.Fetching, Digest: digest("d"), BytesDone: 5 << 30, BytesTotal: 12 << 30,
		BytesFetched: 5 << 30, Rate: 1 << 30, Left: 7 * time.Second, Way: prefetch.API, WayReason: "the snapshotter is native",
		Started: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC),
		Layers: []prefetch.Layer{
			{Digest: digest("0"), MediaType: "m", Size: 4 << 30, Done: 4 << 30, Phase: prefetch.Ready},
			{Digest: digest("1"), MediaType: "m", Size: 4 << 30, Done: 1 << 30, Phase: prefetch.Fetching, Unpacked: 1 << 29,
				Rate: 1 << 30, Left: 3 * time.Second, Host: "harbor.example.com"},
			{Digest: digest("2"), MediaType: "m", Size: 2 << 30, Phase: prefetch.Fetching, WaitingFor: "memory"},
			{Digest: digest("3"), MediaType: "m", Size: 2 << 30, Phase: prefetch.Pending},
		},
	}
}

// results are how pulls can end.
func results() []prefetch.Result {
	return []prefetch.Result{
		{Ref: "example.com/llama:v1", Digest: "sha256:d", ConfigDigest: "sha256:c", ChainID: "sha256:b",
			Names: []string{"example.com/llama:v1"}, Pinned: true, PinSupported: true, Mountable: true, Way: prefetch.Direct,
			Kept: true, Size: 20 << 30, BytesFetched: 12 << 30, Duration: 12 * time.Second, BoundBy: prefetch.BoundStream,
			Advice: []string{"layer 3 is one 41.0 GiB gzip stream: repack it as zstd or uncompressed"}},
		{Ref: "example.com/weights:v1", Digest: "sha256:e", Way: prefetch.API, WayReason: "the snapshotter is native",
			BytesFetched: 1 << 20, Duration: time.Second, Note: "an artifact <of no use to CRI>"},
		{Ref: "example.com/there:v1", Digest: "sha256:f", Mountable: true, Duration: time.Millisecond},
	}
}

func TestWhatPlainLinesShow(t *testing.T) {
	var out bytes.Buffer
	p := plainLines{out: &out}
	p.show("llama:v1", prefetch.Snapshot{Phase: prefetch.Resolving, WaitingFor: "containerd"})
	p.show("llama:v1", shown())
	for _, res := range results() {
		p.done(res.Ref, res, nil)
	}
	p.done("qwen:v1", prefetch.Result{}, errors.New("no way")) // the program ends with it
	agenttest.Golden(t, *update, "pull.txt", out.String())
}

// Programs rely on this.
func TestWhatJSONLinesShow(t *testing.T) {
	var out bytes.Buffer
	j, s := jsonLines{out: &out}, shown()
	j.print(event{Event: "progress", Ref: "llama:v1", Progress: &s})
	for _, res := range results() {
		j.done(res.Ref, res, nil)
	}
	j.done("qwen:v1", prefetch.Result{}, errors.New("no way"))
	agenttest.Golden(t, *update, "pull.jsonl", out.String())
	var fields map[string]any
	for line := range strings.Lines(out.String()) {
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Errorf("%v: %s", err, line)
		}
	}
	for _, e := range []any{event{}, prefetch.Snapshot{}, prefetch.Result{}} {
		for f := range reflect.TypeOf(e).Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			undocumented := []string{"ref", "digest", "indexDigest", "configDigest", "chainID", "pinSupported", "started", "ended"}
			if !strings.Contains(jsonHelp, name) && !slices.Contains(undocumented, name) {
				t.Errorf("the help does not name %s", name)
			}
		}
	}
}

func TestPlainLines(t *testing.T) {
	_, pr, _ := halfway(t)
	var out bytes.Buffer
	p := plainLines{out: &out}
	synctest.Test(t, func(*testing.T) {
		stop := p.follow("llama:v1", pr)
		time.Sleep(2*lineInterval + time.Second)
		stop()
	})
	if n := strings.Count(out.String(), "llama:v1: Fetching "); n != 2 {
		t.Errorf("want a line every %s:\n%s", lineInterval, &out)
	}
}

func TestJSONLines(t *testing.T) {
	img, pr, finish := halfway(t)
	var out bytes.Buffer
	j := jsonLines{out: &out}
	synctest.Test(t, func(*testing.T) {
		stop := j.follow("llama:v1", pr)
		time.Sleep(2500 * time.Millisecond)
		stop()
	})
	res := finish()
	j.done("llama:v1", res, nil)

	var got []event
	for line := range strings.Lines(out.String()) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if p := e.Progress; p != nil && (p.BytesDone != img.Layers[0].Size || p.BytesTotal != img.Size()) {
			t.Errorf("half way: %d of %d", p.BytesDone, p.BytesTotal)
		}
		e.Progress = nil
		got = append(got, e)
	}
	progress := event{Event: "progress", Ref: "llama:v1"}
	want := []event{progress, progress, progress, // after one second, after two, and at the end
		{Event: "ready", Ref: "llama:v1", Result: &res}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// terminal returns a pseudo-terminal to write to, and what ends it and returns what was written.
func terminal(t *testing.T) (tty *os.File, end func() string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	raw := int(master.Fd())
	n, err := unix.IoctlGetInt(raw, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(raw, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(raw, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 200})
	}
	if err == nil {
		tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	written := make(chan string, 1)
	go func() {
		data, _ := io.ReadAll(master) // ends with EIO when the last writer closes
		written <- string(data)
	}()
	return tty, func() string {
		tty.Close()
		out := <-written
		master.Close()
		return out
	}
}

func TestBars(t *testing.T) {
	tty, end := terminal(t)
	img, pr, finish := halfway(t)
	show := (&pullOptions{output: outputText}).display(tty)
	if _, ok := show.(bars); !ok {
		t.Errorf("a terminal gets %T", show)
	}
	stop := show.follow("llama:v1", pr)
	res := finish()
	stop()
	show.done("llama:v1", res, nil)
	out := end()
	for _, part := range []string{"llama:v1\r\n", img.Layers[0].Digest.String()[:19], img.Layers[1].Digest.String()[:19],
		"llama:v1: Ready"} {
		if !strings.Contains(out, part) {
			t.Errorf("%q is not shown:\n%q", part, out)
		}
	}
}

func TestBarsOfAPullThatFailsAtOnce(t *testing.T) {
	var out bytes.Buffer
	b := bars{out: &out}
	b.follow("llama:v1", new(prefetch.Progress))()
	b.done("llama:v1", prefetch.Result{}, errors.New("no way"))
	if got := strings.TrimSpace(out.String()); got != "llama:v1" {
		t.Errorf("got %q", got)
	}
}

func TestWhatALayerDoes(t *testing.T) {
	var got []string
	for _, l := range append(shown().Layers, prefetch.Layer{Size: 2, Unpacked: 1, Phase: prefetch.Unpacking}) {
		got = append(got, doing(l))
	}
	want := []string{"Ready", "1.0 GiB/s, 3s left, 512.0 MiB unpacked, Fetching", "waits for memory", "Pending",
		"1 B unpacked, Unpacking"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhichDisplay(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if got := (&pullOptions{output: outputText}).display(file); got != (plainLines{out: file}) {
		t.Errorf("text into a file: %T", got)
	}
	if got := (&pullOptions{output: outputJSON}).display(file); got != (jsonLines{out: file}) {
		t.Errorf("json: %T", got)
	}
}
