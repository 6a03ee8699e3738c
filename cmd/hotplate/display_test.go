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
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

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

func TestPlainLines(t *testing.T) {
	img, pr, finish := halfway(t)
	var out bytes.Buffer
	p := plainLines{out: &out}
	synctest.Test(t, func(*testing.T) {
		stop := p.follow("llama:v1", pr)
		time.Sleep(2*lineInterval + time.Second)
		stop()
	})
	line := regexp.MustCompile(`(?m)^llama:v1: Fetching [0-9.]+ KiB of [0-9.]+ KiB, [0-9.]+ K?i?B/s$`)
	lines := line.FindAllString(out.String(), -1)
	if len(lines) != 2 || !strings.HasSuffix(lines[1], ", 0 B/s") {
		t.Errorf("want a line every %s, the second without speed:\n%s", lineInterval, &out)
	}
	if held := "  " + img.Layers[1].Digest.String()[:19] + " 0 B of "; strings.Count(out.String(), held) != 2 {
		t.Errorf("the layer under way is not shown twice as %q:\n%s", held, &out)
	}
	res := finish()
	out.Reset()
	p.done("llama:v1", res, nil)
	p.done("qwen:v1", prefetch.Result{}, errors.New("no way")) // the program ends with it
	want := regexp.MustCompile(`^llama:v1: Ready, pinned: ` + img.Manifest.Digest.String() +
		`, [0-9.]+ KiB fetched in \S+\n$`)
	if !want.MatchString(out.String()) {
		t.Errorf("at the end it says %q", &out)
	}
	out.Reset()
	p.done("llama:v1", prefetch.Result{Digest: "sha256:0", Note: "containerd knows no pins"}, nil)
	const noted = "llama:v1: Ready: sha256:0, 0 B fetched in 0s\n  note: containerd knows no pins\n"
	if got := out.String(); got != noted {
		t.Errorf("got %q, want %q", got, noted)
	}
}

func TestJSONLines(t *testing.T) {
	img, pr, finish := halfway(t)
	path := filepath.Join(t.TempDir(), "out")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	j := jsonLines{out: out}
	synctest.Test(t, func(*testing.T) {
		stop := j.follow("llama:v1", pr)
		time.Sleep(2500 * time.Millisecond)
		stop()
	})
	half := pr.Snapshot()
	res := finish()
	j.done("llama:v1", res, nil)
	j.done("qwen:v1", prefetch.Result{}, errors.New("no way"))

	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []event
	for line := range strings.Lines(string(data)) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		got = append(got, e)
	}
	progress := event{Event: "progress", Ref: "llama:v1", Progress: &half}
	want := []event{progress, progress, progress, // after one second, after two, and at the end
		{Event: "ready", Ref: "llama:v1", Result: &res}, {Event: "failed", Ref: "qwen:v1", Error: "no way"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if half.BytesDone != img.Layers[0].Size || half.BytesTotal != img.Size() {
		t.Errorf("half way: %d of %d", half.BytesDone, half.BytesTotal)
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
	if speed := regexp.MustCompile(`[1-9][0-9.]* [KM]iB/s`); !speed.MatchString(out) {
		t.Errorf("no speed is shown:\n%q", out)
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
