package report_test

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/hotplate-dev/hotplate/hack/bench/report"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "write the golden files")

// example has three rounds of image A over two links, one of B, and what goes wrong: a pull that failed once, one that
// failed mostly, and a contestant that was not measured.
func example() *report.Report {
	r := &report.Report{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Mode: "full",
		Machine: report.Machine{
			CPU: "Example 9000", Cores: 2, MemoryBytes: 8 << 30, Kernel: "6.12.0", Filesystem: "ext4", DiskWriteRate: 5e8,
			Load: 0.02, Containerd: "2.4.2", Hotplate: "v0.3.0", Go: "go1.26.6", CachesDropped: true,
		},
		Images: []report.Image{
			{Name: "A", Description: "layers", Digest: "sha256:aa", Layers: 6, Bytes: 2e9},
			{Name: "B", Description: "a <layer>", Digest: "sha256:bb", Layers: 2, Bytes: 4e9},
		},
		Links: []report.Link{
			{Name: report.LinkUnlimited, Description: "direct"}, {Name: report.LinkSlow, Description: "slow"},
		},
		Contestants: []report.Contestant{
			{Name: report.Default, Description: "as it comes"}, {Name: report.Tuned, Description: "tuned"},
			{Name: report.Kept, Description: "blobs kept"},
		},
		Notes: []string{"Somebody else was there."},
		Creations: []report.Creation{
			{Contestant: report.Idle, Seconds: []float64{0.1, 0.2, 0.3, 0.4}},
			{Contestant: report.Kept, Image: "A", Link: report.LinkUnlimited, Pulls: 3, Failures: 1},
		},
	}
	add := func(link, image, contestant, failure string, round int, seconds float64) {
		run := report.Run{
			Image: image, Link: link, Contestant: contestant, Round: round, Seconds: seconds, Failure: failure, Attempts: 1,
			Containerd: report.Process{PeakRSS: int64(100+round) << 20, CPUSeconds: 3, Written: 4e9},
			Fetched:    2e9, Requests: 10, DiskWritten: 5e9, CoresBusy: 0.75, DiskBusy: 0.5,
		}
		if contestant == report.Kept {
			run.Hotplate = report.Process{PeakRSS: int64(240+40*round) << 20, CPUSeconds: 4, Written: 1e9}
		}
		r.Runs = append(r.Runs, run)
	}
	for round, s := range []float64{10, 30, 11} {
		add(report.LinkUnlimited, "A", report.Default, "", round, s)
		add(report.LinkUnlimited, "A", report.Tuned, "", round, 2*s)
		add(report.LinkUnlimited, "A", report.Kept, "", round, s/2)
	}
	add(report.LinkSlow, "A", report.Default, "not Ready after 10m0s", 0, 600)
	add(report.LinkSlow, "A", report.Default, "not Ready after 10m0s", 1, 600)
	add(report.LinkSlow, "A", report.Default, "", 2, 90)
	add(report.LinkSlow, "A", report.Tuned, "", 0, 20)
	add(report.LinkSlow, "A", report.Tuned, "not Ready after 10m0s", 1, 600)
	add(report.LinkSlow, "A", report.Tuned, "", 2, 22)
	add(report.LinkSlow, "A", report.Kept, "", 0, 17.6)
	add(report.LinkUnlimited, "B", report.Kept, "hotplate: exit status 1", 0, 600)
	add(report.LinkUnlimited, "B", report.Tuned, "", 0, 5)
	r.Summarise()
	return r
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got); go test -update writes it:\n%s", path, diff)
	}
}

func TestRendering(t *testing.T) {
	r := example()
	golden(t, "report.md", report.Markdown(r, "latest.svg"))
	golden(t, "report.svg", report.SVG(r))
	golden(t, "ratios.txt", report.Ratios(r))
	r.Mode = "quick"
	if !strings.Contains(report.Ratios(r), "quick run") {
		t.Error("the ratios of a quick run do not say so")
	}
}

func TestPlotIsXML(t *testing.T) {
	d := xml.NewDecoder(strings.NewReader(report.SVG(example())))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestEncodeAndDecode(t *testing.T) {
	want := example()
	data, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := report.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after a round trip (-want +got):\n%s", diff)
	}
	for _, bad := range []string{"", "{}", "[1]"} {
		if _, err := report.Decode([]byte(bad)); err == nil {
			t.Errorf("%q gave a report", bad)
		}
	}
}

func TestMedianAndPercentile(t *testing.T) {
	hundred := make([]float64, 200)
	for i := range hundred {
		hundred[len(hundred)-1-i] = float64(i + 1)
	}
	for _, c := range []struct {
		values      []float64
		median, p99 float64
	}{
		{[]float64{7}, 7, 7},
		{[]float64{9, 1}, 5, 9},
		{[]float64{3, 1, 2}, 2, 3},
		{hundred, 100.5, 198},
	} {
		if got := report.Median(c.values); got != c.median {
			t.Errorf("median of %v is %v, want %v", c.values, got, c.median)
		}
		if got := report.Percentile(c.values, 99); got != c.p99 {
			t.Errorf("p99 of %v is %v, want %v", c.values, got, c.p99)
		}
	}
	if !math.IsNaN(report.Median(nil)) || !math.IsNaN(report.Percentile(nil, 99)) {
		t.Error("nothing has a median")
	}
	if hundred[0] != 200 {
		t.Error("the values were sorted in place")
	}
}

func TestEmptyReportRenders(t *testing.T) {
	r := &report.Report{Time: time.Unix(1, 0), Mode: "full"}
	r.Summarise()
	if _, err := r.Encode(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(report.Markdown(r, "latest.svg"), "not measured") || !strings.HasPrefix(report.SVG(r), "<svg") {
		t.Error("a report without runs does not say that nothing was measured")
	}
}
