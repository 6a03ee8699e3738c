package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/hack/bench/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

func environment(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func labels[T any](list []T, label func(T) string) string {
	var names []string
	for _, v := range list {
		names = append(names, label(v))
	}
	return strings.Join(names, " ")
}

func TestOptions(t *testing.T) {
	type want struct {
		Mode, Images, Links, Contestants string
		Rounds                           int
	}
	everyone := strings.Join([]string{report.Default, report.Tuned, report.Kept, report.NotKept}, " ")
	links := strings.Join([]string{report.LinkUnlimited, report.LinkSlow, report.LinkFlawed}, " ")
	for _, c := range []struct {
		vars map[string]string
		want want
	}{
		{nil, want{"full", "A B C D E", links, everyone, 3}},
		{map[string]string{"BENCH": "quick"}, want{"quick", "A B C D E", links, everyone, 1}},
		{map[string]string{"BENCH": "quick", "BENCH_ROUNDS": "5"}, want{"quick", "A B C D E", links, everyone, 5}},
		{map[string]string{
			"BENCH_IMAGES": "C,A", "BENCH_LINKS": report.LinkSlow,
			"BENCH_CONTESTANTS": report.Kept + " containerd-tuned-local",
		}, want{"full", "A C", report.LinkSlow, "containerd-tuned-local " + report.Kept, 3}},
	} {
		o, err := readOptions(environment(c.vars))
		if err != nil {
			t.Errorf("%v: %v", c.vars, err)
			continue
		}
		got := want{o.mode(), labels(o.images, imageSpec.label), labels(o.links, linkSpec.label),
			labels(o.contestants, contestant.label), o.rounds}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", c.vars, diff)
		}
		if !filepath.IsAbs(o.dir) || !filepath.IsAbs(o.hotplate) {
			t.Errorf("%v: paths %q and %q are not absolute", c.vars, o.dir, o.hotplate)
		}
	}
}

func TestOptionsAreRefusedByName(t *testing.T) {
	for name, value := range map[string]string{
		"BENCH": "slow", "BENCH_ROUNDS": "0", "BENCH_IMAGES": "A,Z", "BENCH_LINKS": "carrier-pigeon", "BENCH_CONTESTANTS": "docker",
	} {
		_, err := readOptions(environment(map[string]string{name: value}))
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%s: %v, want an error that names it", name, value, err)
		}
	}
}

func TestTagsTellImagesApart(t *testing.T) {
	seen := map[string]string{}
	for _, quick := range []bool{false, true} {
		for _, s := range append(imageSpecs(quick), imageSpec{name: "A", layers: []rig.LayerSpec{{}}}, imageSpec{name: "B"}) {
			tag := s.tag()
			if other, ok := seen[tag]; ok && other != s.name {
				t.Errorf("images %s and %s have the tag %s", other, s.name, tag)
			}
			seen[tag] = s.name
		}
	}
	// Each image, full and quick, and the two of our own, once.
	if len(seen) != 12 {
		t.Errorf("there are %d tags, want 12: %v", len(seen), seen)
	}
}

func TestImagesHaveTheSizesOfTheTask(t *testing.T) {
	want := map[string]int64{"A": 2 << 30, "B": 4 << 30, "C": 2 << 30, "D": 2400 << 20}
	for _, s := range imageSpecs(false) {
		var sum int64
		var small int
		for _, l := range s.layers {
			small += l.Files
			sum += l.Size
		}
		if s.name != "E" && sum != want[s.name] {
			t.Errorf("image %s has %d bytes, want %d", s.name, sum, want[s.name])
		}
		if s.name == "E" && (small != 100_000 || len(s.layers) != 20) {
			t.Errorf("image E has %d files in %d layers", small, len(s.layers))
		}
	}
}
