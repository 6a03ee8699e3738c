package rig

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
)

func TestBaseConfigOfEachLine(t *testing.T) {
	for _, line := range Lines() {
		for _, version := range append(ConfigVersions(line), 0) {
			text, err := BaseConfig(line, version, "/hosts")
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				Version int
				Plugins map[string]struct {
					Restrict bool `toml:"restrict_oom_score_adj"`
					Registry struct {
						ConfigPath string `toml:"config_path"`
					}
				}
			}
			if err := toml.Unmarshal([]byte(text), &got); err != nil {
				t.Fatal(err)
			}
			want := []string{"io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"}
			if got.Version == 2 {
				want = []string{"io.containerd.grpc.v1.cri"}
			}
			plugins := slices.Sorted(maps.Keys(got.Plugins))
			if diff := cmp.Diff(want, plugins); diff != "" {
				t.Errorf("%s version %d: plugins (-want +got):\n%s", line, version, diff)
			}
			if got.Plugins[want[0]].Registry.ConfigPath != "/hosts" || !got.Plugins[want[len(want)-1]].Restrict {
				t.Errorf("%s version %d lacks a setting:\n%s", line, version, text)
			}
			if version != 0 && got.Version != version {
				t.Errorf("%s: got version %d, want %d", line, got.Version, version)
			}
		}
	}
	for line, version := range map[string]int{"1.7": 3, "2.2": 4, "2.4": 5} {
		if _, err := BaseConfig(line, version, ""); err == nil {
			t.Errorf("%s is given version %d, which it does not read", line, version)
		}
	}
	text, err := BaseConfig("2.4", 0, "")
	if err != nil || strings.Contains(text, "config_path") {
		t.Errorf("without a hosts directory: %v\n%s", err, text)
	}
}

func TestNodeFilesAreWhereTheNodeSeesThem(t *testing.T) {
	n := &Node{cfg: NodeConfig{Line: "2.4", Dir: t.TempDir(), Units: map[string]string{
		"a.service": "[Install]\nWantedBy=b.target containerd.service\nRequiredBy=c.target\n", "d.service": "[Service]\n",
	}}, root: t.TempDir()}
	for _, dir := range []string{"etc", "var"} {
		if err := os.Mkdir(filepath.Join(n.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.writeRoot(t.Context()); err != nil {
		t.Fatal(err)
	}
	system := filepath.Join(n.cfg.Dir, "etc/systemd/system")
	var links []string
	for _, pattern := range []string{"*.wants/[a-d]*", "*.requires/*"} {
		found, err := filepath.Glob(filepath.Join(system, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			to, err := os.Readlink(path)
			if err != nil {
				t.Fatal(err)
			}
			links = append(links, strings.TrimPrefix(path, system+"/")+" "+to)
		}
	}
	want := []string{
		"b.target.wants/a.service /etc/systemd/system/a.service",
		"c.target.requires/a.service /etc/systemd/system/a.service",
		"containerd.service.wants/a.service /etc/systemd/system/a.service",
		"multi-user.target.wants/containerd.service /usr/local/lib/systemd/system/containerd.service",
	}
	slices.Sort(links)
	if diff := cmp.Diff(want, links); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
	for path, want := range map[string]string{
		"/etc/x": "etc/x", "var/y": "var/y", "/usr/z": "upper/usr/z", "/usr/../etc/x": "etc/x",
	} {
		if got, err := n.diskPath(path); err != nil || got != filepath.Join(n.cfg.Dir, want) {
			t.Errorf("%s is at %s, %v, want %s", path, got, err, want)
		}
	}
	for _, path := range []string{"/run/x", "/tmp", "/lib/x", "/sbin"} {
		if got, err := n.diskPath(path); err == nil {
			t.Errorf("%s is at %s, want an error", path, got)
		}
	}
}

func TestCounterFindsMissingNumbers(t *testing.T) {
	for name, tt := range map[string]struct {
		file, log string
		want      string // part of the error
		gap       time.Duration
	}{
		"whole": {
			"1 5.00\n2 5.10\n3 5.25\n", "t stdout F 1 5.00\nt stdout F 2 5.10\nt stdout F 3 5.25\n", "", 150 * time.Millisecond,
		},
		"one is missing":   {"1 5.00\n3 5.20\n4 5.30\n", "", "line 2", 200 * time.Millisecond},
		"twice":            {"1 5.00\n1 5.10\n2 5.20\n", "", "line 2", 100 * time.Millisecond},
		"garbage":          {"1 5.00\nx 5.10\n", "", `"x 5.10`, 0},
		"not all is in":    {"1 5.00\n2 5.10\n3 5.", "", "it has 2 lines", 100 * time.Millisecond},
		"the log has less": {"1 5.00\n2 5.10\n3 5.20\n", "t stdout F 1 5.00\n", "it has 1 lines", 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := &Counter{Name: "a", out: dir, log: filepath.Join(dir, "stdout.log")}
			for path, text := range map[string]string{filepath.Join(dir, "lines"): tt.file, c.log: tt.log} {
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			// The first look is always taken.
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err := c.check(ctx, "file", 3, c.Lines)
			if err == nil {
				err = c.check(ctx, "log", 3, c.LogLines)
			}
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want an error about %q", err, tt.want)
			}
			if gap, err := c.LargestGap(); gap != tt.gap && err == nil {
				t.Errorf("the largest gap is %s, want %s", gap, tt.gap)
			}
		})
	}
}
