package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// world is a host in a random history. What somebody else has put there is in foreign; at the end nothing else may be
// there.
type world struct {
	*rig
	rng     *rand.Rand
	m       *machine
	h       *Host
	foreign map[string]string // by path: content, link target, or a directory's mode
	history []string
}

var worldHosts = []string{"docker.io", "a.example.com:5000", "b.example.com", "_default"}

func TestRandomHistoriesEndAsWantedAndUninstallToTheForeignTree(t *testing.T) {
	seeds := uint64(120)
	if os.Getenv("HOTPLATE_FULL") != "" {
		seeds = 3000
	}
	for seed := range seeds {
		w := &world{rig: newRig(t), rng: rand.New(rand.NewPCG(seed, 0)), foreign: map[string]string{}}
		w.m = newMachine(t, w.top)
		w.open = w.m.open
		w.settleDown()
		for range 3 + w.rng.IntN(10) {
			w.something()
		}
		w.finish()
		if t.Failed() {
			t.Fatalf("seed %d: %s", seed, strings.Join(w.history, "\n\t"))
		}
		os.RemoveAll(w.top)
	}
}

func (w *world) note(format string, args ...any) {
	w.history = append(w.history, fmt.Sprintf(format, args...))
}

// put writes a foreign file, at a time of its own.
func (w *world) put(p, data string) {
	w.write(p, data)
	w.age(p)
	w.foreign[p] = data
	for dir := filepath.Dir(p); dir != "."; dir = filepath.Dir(dir) {
		w.foreign[dir] = "directory"
	}
}

// settleDown makes the foreign tree that hotplate finds.
func (w *world) settleDown() {
	for _, host := range append(slices.Clone(worldHosts), "a.example.com_5000_") {
		if strings.HasSuffix(host, "_") == (w.rng.IntN(3) == 0) {
			continue
		}
		switch w.rng.IntN(4) {
		case 0:
			w.put(host+"/hosts.toml", fmt.Sprintf("server = \"https://%d.example.com\"\n", w.rng.IntN(100)))
		case 1:
			w.put(host+"/ca.crt", fmt.Sprint(w.rng.IntN(100)))
			w.put(host+"/sub/dir/key", fmt.Sprint(w.rng.IntN(100)))
		case 2:
			w.put(host+"/hosts.toml", "# broken")
			w.symlink(host+"/link", "hosts.toml")
			w.foreign[host+"/link"] = "link"
		}
	}
	w.put("unrelated.example.com/hosts.toml", "server = \"https://unrelated.example.com\"\n")
}

// desired makes up what is wanted.
func (w *world) desired() hostconfig.Tree {
	var regs []hostconfig.Registry
	for _, host := range worldHosts {
		if w.rng.IntN(3) > 0 {
			ca := []string{"one", "two"}[w.rng.IntN(2)]
			regs = append(regs, mirror(host, fmt.Sprintf("https://m%d.example.com", w.rng.IntN(3)), ca))
		}
	}
	return render(w.t, regs...)
}

func adoptAll() Options {
	opts := Options{Adopt: map[string]bool{}}
	for _, host := range worldHosts {
		opts.Adopt[host] = true
	}
	return opts
}

func (w *world) running() *Host {
	w.t.Helper()
	if w.h == nil {
		w.h = w.start()
	}
	return w.h
}

// something happens.
func (w *world) something() {
	w.t.Helper()
	switch w.rng.IntN(10) {
	case 0, 1, 2:
		tree := w.desired()
		w.note("apply %v", tree.HostDirs())
		if _, err := w.running().Apply(context.Background(), tree, adoptAll()); err != nil {
			w.t.Errorf("apply: %v", err)
		}
	case 3, 4, 5:
		w.mishap()
	case 6:
		d := time.Duration(w.rng.IntN(90)) * time.Second
		w.note("%v go by", d)
		w.clock.advance(d)
	case 7:
		p := fmt.Sprintf("%d.example.org/hosts.toml", w.rng.IntN(3))
		w.note("somebody writes %s", p)
		w.put(p, fmt.Sprintf("server = \"https://%d.example.com\"\n", w.rng.IntN(100)))
	case 8:
		w.drift()
	case 9:
		dir := hostconfig.HostDir(worldHosts[w.rng.IntN(len(worldHosts))])
		if info, err := os.Lstat(filepath.Join(w.hosts, dir)); err == nil && info.IsDir() {
			w.note("somebody puts a file into %s", dir)
			w.put(dir+"/stray", fmt.Sprint(w.rng.IntN(100)))
		}
	}
}

// drift changes something of ours, which the next Apply that wants it repairs.
func (w *world) drift() {
	w.t.Helper()
	tree := w.desired()
	if len(tree) == 0 {
		return
	}
	for range 2 {
		if _, err := w.running().Apply(context.Background(), tree, adoptAll()); err != nil {
			w.t.Errorf("apply: %v", err)
		}
		p := tree.Paths()[w.rng.IntN(len(tree))]
		path := filepath.Join(w.hosts, p)
		var err error
		switch w.rng.IntN(4) {
		case 0:
			err = os.WriteFile(path, []byte("# by other-tool\n"), 0o644)
		case 1:
			err = os.Remove(path)
		case 2:
			err = os.Chmod(path, 0o666)
		case 3:
			err = replaceByLink(path)
		}
		if err != nil {
			w.t.Error(err)
		}
		w.note("apply %v, then somebody changes %s", tree.HostDirs(), p)
	}
	if _, err := w.running().Apply(context.Background(), tree, adoptAll()); err != nil {
		w.t.Errorf("apply: %v", err)
	}
}

// mishap lets something go wrong in the middle of something.
func (w *world) mishap() {
	w.t.Helper()
	all := append(slices.Clone(deaths), failures...)
	m := all[w.rng.IntN(len(all))]
	w.m.ops, w.m.at, w.m.mishap, w.m.hit = 0, w.rng.IntN(40), m, ""
	h, err := w.h, error(nil)
	if h == nil {
		h, err = open(context.Background(), w.config(), w.open)
	}
	if err == nil {
		switch w.rng.IntN(6) {
		case 0:
			w.note("uninstall")
			_, err = h.Uninstall(context.Background(), 0)
		case 1:
			w.note("probe")
			var remove func(context.Context) error
			remove, err = h.PublishTemporary(context.Background(), probeDir, probeTree(w.t))
			if err == nil && w.rng.IntN(2) == 0 {
				err = remove(context.Background())
			}
			if err != nil && strings.Contains(err.Error(), "already there") {
				err = nil // the one before was not removed
			}
		default:
			tree := w.desired()
			w.note("apply %v", tree.HostDirs())
			_, err = h.Apply(context.Background(), tree, adoptAll())
		}
	}
	w.note("\t%s operation %d (%s): %v", m.name, w.m.at, w.m.hit, err)
	if err != nil && !errors.Is(err, errDead) && !errors.Is(err, m.err) {
		w.t.Errorf("error is %v", err)
	}
	w.h = h
	if w.m.dead {
		if h != nil {
			w.close(h)
		}
		w.h = nil
		w.m.restart()
	}
	w.m.heal()
}

// finish converges, and uninstalls.
func (w *world) finish() {
	w.t.Helper()
	tree := w.desired()
	w.note("converge to %v", tree.HostDirs())
	tr := &trial{rig: w.rig, strays: true, scenario: scenario{adopt: slices.Collect(maps.Keys(adoptAll().Adopt))}}
	tr.settle(w.running(), tree)
	for p, f := range tree {
		if got := string(readFile(w.t, filepath.Join(w.hosts, p))); got != string(f.Data) {
			w.t.Errorf("%s holds %q", p, got)
		}
	}
	if got := names(snapshot(w.t, filepath.Join(w.hosts, hostconfig.SharedDir))); got["tmp"] {
		w.t.Errorf("temporary files are left: %v", got)
	}
	w.uninstall(w.running())
	w.close(w.h)
	w.m.flush()
	got := map[string]string{}
	walk(w.t, w.hosts, func(p string, info fs.FileInfo) {
		switch {
		case info.IsDir():
			got[p] = "directory"
		case info.Mode()&fs.ModeSymlink != 0:
			got[p] = "link"
		default:
			got[p] = string(readFile(w.t, filepath.Join(w.hosts, p)))
			if now, err := os.Lstat(filepath.Join(w.hosts, p)); err != nil || now.Sys().(*syscall.Stat_t).Nlink != 1 ||
				now.ModTime().Year() != 2020 {
				w.t.Errorf("%s is not as it was: %v, %v", p, now, err)
			}
		}
	})
	if diff := cmp.Diff(w.foreign, got); diff != "" {
		w.t.Errorf("after uninstall (-want +got):\n%s", diff)
	}
}
