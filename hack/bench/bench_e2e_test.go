//go:build e2e

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/hotplate-dev/hotplate/hack/bench/proc"
	"github.com/hotplate-dev/hotplate/hack/bench/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

// newBench has a registry with a small image of five layers, and no links.
func newBench(t *testing.T) (*bench, stored) {
	t.Helper()
	rigtest.RequireRoot(t)
	b := &bench{
		options: options{dir: t.TempDir(), limit: time.Minute, quick: true, creationPulls: 1, creationSamples: 5},
		proc:    proc.Host(), report: &report.Report{Time: time.Now(), Mode: "quick"}, started: time.Now(),
	}
	var err error
	if b.device, err = proc.DeviceOf(b.dir); err != nil {
		t.Fatal(err)
	}
	if b.lib, err = openLibrary(t.Context(), b.dir, "test"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	spec := imageSpec{name: "small", description: "five layers"}
	for range 4 {
		spec.layers = append(spec.layers, rig.LayerSpec{Content: rig.Weights, Size: 20 << 20})
	}
	say := func(string) {}
	img, err := b.lib.ensure(t.Context(), spec, say)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.lib.ensure(t.Context(), tinyImage(), say); err != nil {
		t.Fatal(err)
	}
	return b, img
}

// TestTimedPullMeasuresWhatHappened pulls over each link and compares the numbers with what is known of the image.
func TestTimedPullMeasuresWhatHappened(t *testing.T) {
	b, img := newBench(t)
	for _, spec := range linkSpecs() {
		l, err := spec.start(b.lib)
		if err != nil {
			t.Fatal(err)
		}
		b.links = append(b.links, startedLink{l, spec.name})
		for _, c := range contestants() {
			if c.hotplate() || c.optional {
				continue
			}
			run, err := b.timed(t.Context(), img, l, spec.name, c, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", run)
			if run.Failure != "" || run.Attempts != 1 || run.Seconds <= 0 {
				t.Errorf("%s over %s: %+v, want it to be Ready at once", c.name, spec.name, run)
			}
			// The registry counts what it hands to the kernel, so bytes that nobody took are among them.
			if run.Fetched < img.bytes || run.Fetched > 2*img.bytes || run.Requests < int64(len(img.blobs)) {
				t.Errorf("%s over %s: %d bytes in %d requests, the image has %d in %d blobs", c.name, spec.name, run.Fetched,
					run.Requests, img.bytes, len(img.blobs))
			}
			if run.ContentBytes < img.bytes || run.Containerd.Written < 2*80<<20 || run.Containerd.CPUSeconds <= 0 ||
				run.Containerd.PeakRSS < 10<<20 || run.Hotplate != (report.Process{}) {
				t.Errorf("%s over %s: %+v cannot be", c.name, spec.name, run)
			}
			if left, err := os.ReadDir(b.nodesDir()); err != nil || len(left) > 0 {
				t.Errorf("after a pull the daemon's files: %v, %v, want none", left, err)
			}
		}
	}
	// The same images again need no push.
	if _, err := b.lib.ensure(t.Context(), img.spec, func(s string) { t.Errorf("again: %s", s) }); err != nil {
		t.Error(err)
	}
}

// TestHotplateIsMeasured builds it and lets it pull.
func TestHotplateIsMeasured(t *testing.T) {
	b, img := newBench(t)
	b.hotplate = filepath.Join(t.TempDir(), "hotplate")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", b.hotplate, "../../cmd/hotplate")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build hotplate: %v\n%s", err, out)
	}
	b.contestants = contestants()
	if err := b.chooseContestants(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := linkSpecs()[0].start(b.lib)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range b.contestants {
		if !c.hotplate() {
			continue
		}
		run, err := b.timed(t.Context(), img, l, "direct", c, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", run)
		if run.Failure != "" || run.Fetched < img.bytes || run.Hotplate.PeakRSS < 10<<20 || run.Hotplate.CPUSeconds <= 0 ||
			run.Hotplate.Written+run.Containerd.Written < 80<<20 {
			t.Errorf("%s: %+v cannot be", c.name, run)
		}
		if kept := run.ContentBytes >= img.bytes; kept != (c.name != report.NotKept) {
			t.Errorf("%s: %d bytes are in the content store, and the image has %d", c.name, run.ContentBytes, img.bytes)
		}
	}
}

// TestPullThatFailsIsAResult takes the registry away.
func TestPullThatFailsIsAResult(t *testing.T) {
	b, img := newBench(t)
	proxy := rigtest.Proxy(t, rig.ProxyConfig{Upstream: b.lib.registry.URL()})
	l := &flawed{proxy}
	broken := brokenLink{l}
	run, err := b.timed(t.Context(), img, broken, "broken", contestants()[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	if run.Failure == "" || run.Attempts != maxAttempts || run.Seconds != b.limit.Seconds() {
		t.Errorf("%+v, want a failure after %d attempts with the limit's time", run, maxAttempts)
	}
}

// brokenLink answers 404.
type brokenLink struct{ *flawed }

func (b brokenLink) Begin(uint64) error {
	b.SetScript(func(*http.Request) rig.Fault { return rig.Answer(http.StatusNotFound) })
	return nil
}

// TestContainersAreCreatedMeanwhile counts that containers were, when idle and during a pull.
func TestContainersAreCreatedMeanwhile(t *testing.T) {
	b, img := newBench(t)
	path, err := rig.StartLink(rig.LinkConfig{Upstream: b.lib.registry.Host(), BytesPerSecond: 10 << 20})
	if err != nil {
		t.Fatal(err)
	}
	l := &slow{Link: path, log: b.lib.log}
	b.links = []startedLink{{l, "slow"}}
	b.contestants = contestants()[:1]
	if err := b.creations(t.Context(), img, l, "slow"); err != nil {
		t.Fatal(err)
	}
	b.report.Summarise()
	if len(b.report.Creations) != 2 {
		t.Fatalf("there are %d measurements, want 2", len(b.report.Creations))
	}
	for _, c := range b.report.Creations {
		t.Logf("%+v", c)
		if len(c.Seconds) == 0 || c.Failures > 0 || c.Median <= 0 {
			t.Errorf("%s: %+v, want containers that were created", c.Contestant, c)
		}
	}
}

// TestTunedSettingsTakeEffect looks at what the daemons do while every layer is held back after its headers: how many
// requests are open, for how many bytes, and how many layers have a snapshot to be unpacked into. containerd unpacks one
// after the other unless max_concurrent_unpacks says otherwise, and then prepares all of them at once (unpack of
// core/unpack/unpacker.go).
func TestTunedSettingsTakeEffect(t *testing.T) {
	for _, c := range []struct {
		contestant string
		// requests is how many are open at once: one for each layer, three by default; or a layer's first one, whose body
		// is the first chunk, and those for its other chunks of 8 MiB.
		requests, unpacks int
		ranges            bool
	}{
		{report.Default, 3, 1, false},
		{report.Tuned, 10, 5, true},
		{"containerd-tuned-local", 10, 1, true},
	} {
		t.Run(c.contestant, func(t *testing.T) {
			b, img := newBench(t)
			open, unpacking, later := heldBack(t, b, img, c.contestant, func(open, unpacking int) bool {
				return open >= c.requests && unpacking >= c.unpacks
			})
			// 20 MiB and a tar header are three chunks.
			want := 0
			if c.ranges {
				want = 4 * 2
			}
			if later != want {
				t.Errorf("%d requests were for later chunks, want %d", later, want)
			}
			if unpacking != c.unpacks || open < c.requests || !c.ranges && open > c.requests {
				t.Errorf("%d requests were open and %d layers waited to be unpacked, want %d and %d", open, unpacking, c.requests,
					c.unpacks)
			}
		})
	}
}

// heldBack lets the contestant pull while nothing but headers comes of layers, until enough is under way, and then to the
// end. It returns how many requests were open and how many layers had a snapshot, and how many requests for later chunks
// there were in all.
func heldBack(t *testing.T, b *bench, img stored, name string, enough func(open, unpacking int) bool) (open, unpacking, later int) {
	t.Helper()
	release := make(chan struct{})
	proxy := rigtest.Proxy(t, rig.ProxyConfig{Upstream: b.lib.registry.URL()})
	proxy.SetScript(func(r *http.Request) rig.Fault {
		if strings.Contains(r.URL.Path, "/blobs/") && !strings.Contains(r.URL.Path, img.config()) {
			return rig.Fault{StallAfter: rig.At(0), Release: release}
		}
		return rig.Fault{}
	})
	all := contestants()
	c := all[slices.IndexFunc(all, func(c contestant) bool { return c.name == name })]
	n, err := startNode(t.Context(), filepath.Join(b.nodesDir(), "node"), c.config, proxy.Host(), b.lib.registry.Host())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}()
	pulled := make(chan error, 1)
	go func() {
		_, err := n.cri.PullImage(t.Context(), modelHost+"/"+repository+":"+img.spec.tag(), nil)
		pulled <- err
	}()
	err = await(t.Context(), settleTime, func() bool {
		open, unpacking = openRequests(proxy), extracting(t, n)
		return enough(open, unpacking)
	})
	close(release)
	if err := errors.Join(err, <-pulled); err != nil {
		t.Errorf("%d requests were open and %d layers waited to be unpacked: %v", open, unpacking, err)
	}
	return open, unpacking, chunks(proxy)
}

// config is the hex digest of the image's configuration, the last of its blobs.
func (s stored) config() string { return filepath.Base(filepath.Dir(s.blobs[len(s.blobs)-1])) }

func openRequests(p *rig.Proxy) (n int) {
	for _, r := range p.Requests() {
		if !r.Done && strings.Contains(r.Path, "/blobs/") {
			n++
		}
	}
	return n
}

// chunks is how many requests were for a later chunk of 8 MiB: containerd asks for all from there on, and closes the
// connection when it has the chunk (core/remotes/docker/fetcher.go).
func chunks(p *rig.Proxy) (n int) {
	for _, r := range p.Requests() {
		from, ok := strings.CutPrefix(r.Range, "bytes=")
		first, err := strconv.ParseInt(strings.TrimSuffix(from, "-"), 10, 64)
		if ok && err == nil && first > 0 && first%(8<<20) == 0 {
			n++
		}
	}
	return n
}

// extracting is how many snapshots layers are unpacked into.
func extracting(t *testing.T, n *node) (count int) {
	t.Helper()
	c, err := client.New(n.daemon.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	err = c.SnapshotService(snapshotter).Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if i.Kind == snapshots.KindActive && strings.HasPrefix(i.Name, snapshots.UnpackKeyPrefix) {
			count++
		}
		return nil
	})
	if err != nil {
		t.Fatal(fmt.Errorf("list snapshots: %w", err))
	}
	return count
}
