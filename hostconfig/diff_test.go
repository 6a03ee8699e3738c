package hostconfig_test

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/hostconfigtest"
)

// node is a machine in memory: its hosts directory and hotplate's state.
type node struct {
	disk  fstest.MapFS
	owned hostconfig.Owned
	kept  map[string]*fstest.MapFile // what adopting put away
}

func newNode() *node {
	return &node{disk: fstest.MapFS{}, owned: hostconfig.Owned{}, kept: map[string]*fstest.MapFile{}}
}

func (n *node) observe(t testing.TB) hostconfig.Observed {
	t.Helper()
	o, err := hostconfig.Observe(n.disk)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (n *node) plan(t testing.TB, desired hostconfig.Tree, adopt ...string) hostconfig.Plan {
	t.Helper()
	set := map[string]bool{}
	for _, host := range adopt {
		set[host] = true
	}
	return hostconfig.Diff(n.observe(t), n.owned, desired, set)
}

// apply takes the steps of a plan. It checks that each finds what the plan says it will.
func (n *node) apply(t testing.TB, p hostconfig.Plan) {
	t.Helper()
	for _, c := range p.Changes {
		n.step(t, c)
	}
}

func (n *node) step(t testing.TB, c hostconfig.Change) {
	t.Helper()
	switch c.Op {
	case hostconfig.PublishFile, hostconfig.ReplaceFile:
		n.expect(t, c, c.Path, c.Old)
		n.put(c.Path, hostconfig.File{Mode: c.Mode, Data: c.Data})
	case hostconfig.PublishDir:
		n.expect(t, c, c.Path, "")
		n.putAll(c.Files)
	case hostconfig.AdoptDir, hostconfig.SetAside:
		for p, old := range c.OldFiles {
			n.expect(t, c, p, old)
		}
		for p := range n.below(c.Path) {
			n.kept[p] = n.disk[p]
			delete(n.disk, p)
		}
		n.putAll(c.Files)
	case hostconfig.RemoveDir:
		for p, old := range c.OldFiles {
			n.expect(t, c, p, old)
			delete(n.disk, p)
			delete(n.owned, p)
		}
		delete(n.disk, c.Path)
		if left := n.below(c.Path); len(left) > 0 {
			t.Fatalf("%s %s leaves %v", c.Op, c.Path, slices.Collect(maps.Keys(left)))
		}
	case hostconfig.RemoveFile, hostconfig.RetireFile:
		n.expect(t, c, c.Path, c.Old)
		delete(n.disk, c.Path)
		delete(n.owned, c.Path)
	default:
		t.Fatalf("unknown op %q", c.Op)
	}
}

func (n *node) expect(t testing.TB, c hostconfig.Change, p, old string) {
	t.Helper()
	if got := n.observe(t).Entries[p].Fingerprint(); got != old {
		t.Fatalf("%s %s expects %q at %s, where there is %q", c.Op, c.Path, old, p, got)
	}
}

func (n *node) put(p string, f hostconfig.File) {
	n.disk[p] = &fstest.MapFile{Data: f.Data, Mode: f.Mode}
	n.owned[p] = hostconfig.OwnedFile{SHA256: []string{f.SHA256()}, Mode: f.Mode}
}

func (n *node) putAll(t hostconfig.Tree) {
	for p, f := range t {
		n.put(p, f)
	}
}

// below returns what is on the disk at dir and in it.
func (n *node) below(dir string) map[string]bool {
	out := map[string]bool{}
	for p := range n.disk {
		if p == dir || strings.HasPrefix(p, dir+"/") {
			out[p] = true
		}
	}
	return out
}

func mirrorOf(host, url string) hostconfig.Registry {
	return hostconfig.Registry{Host: host, Upstream: hostconfig.Deny, Mirrors: []hostconfig.Mirror{
		{URL: url, TLS: hostconfig.TLS{CA: hostconfigtest.CA(1)}},
	}}
}

func render(t testing.TB, regs ...hostconfig.Registry) hostconfig.Tree {
	t.Helper()
	tree, err := hostconfig.Render(regs, v24)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func ops(p hostconfig.Plan) []string {
	var out []string
	for _, c := range p.Changes {
		out = append(out, string(c.Op)+" "+shortPath(c.Path))
	}
	return out
}

// shortPath writes PEM files without their hash.
func shortPath(p string) string {
	if name, ok := strings.CutPrefix(p, ".hotplate/"); ok {
		kind, _, _ := strings.Cut(name, "-")
		return kind
	}
	return p
}

func conflicts(p hostconfig.Plan) []string {
	var out []string
	for _, c := range p.Conflicts {
		out = append(out, fmt.Sprintf("%s %s blocking=%t", c.Host, shortPath(c.Path), c.Blocking))
	}
	return out
}

func drift(p hostconfig.Plan) []string {
	var out []string
	for _, d := range p.Drift {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", d.Kind, shortPath(d.Path), d.Comment)))
	}
	return out
}

func TestDiff(t *testing.T) {
	elsewhere := &fstest.MapFile{Data: []byte("/elsewhere"), Mode: fs.ModeSymlink}
	foreign := &fstest.MapFile{Data: []byte("# written by gpu-setup\nserver = \"https://x\"\n"), Mode: 0o644}
	a := mirrorOf("a.example.com:5000", "https://m.example.com")
	const dirA, otherA = "a.example.com_5000_", "a.example.com:5000"
	for name, tc := range map[string]struct {
		before  []hostconfig.Registry // applied first
		change  func(n *node)         // what somebody does then
		desired []hostconfig.Registry
		adopt   []string

		ops, conflicts, drift []string
	}{
		"an empty directory gets PEM files first": {
			desired: []hostconfig.Registry{a},
			ops:     []string{"publish file ca", "publish directory " + dirA},
		},
		"what is as it should be is left alone": {
			before: []hostconfig.Registry{a}, desired: []hostconfig.Registry{a},
		},
		"a change of the config is no drift": {
			before: []hostconfig.Registry{a}, desired: []hostconfig.Registry{mirrorOf(a.Host, "https://n.example.com")},
			ops: []string{"replace file " + dirA + "/hosts.toml"},
		},
		"a host that is not wanted any more goes, and its certificates last": {
			before: []hostconfig.Registry{a}, ops: []string{"remove directory " + dirA, "retire file ca"},
		},
		"an edit is drift and names the editor": {
			before: []hostconfig.Registry{a}, desired: []hostconfig.Registry{a},
			change: func(n *node) { n.disk[dirA+"/hosts.toml"] = foreign },
			ops:    []string{"replace file " + dirA + "/hosts.toml"},
			drift:  []string{"changed " + dirA + "/hosts.toml written by gpu-setup"},
		},
		"a symlink in the place of a file is drift": {
			before: []hostconfig.Registry{a}, desired: []hostconfig.Registry{a},
			change: func(n *node) {
				n.disk[dirA+"/hosts.toml"] = &fstest.MapFile{Data: []byte("/etc/passwd"), Mode: fs.ModeSymlink}
			},
			ops:   []string{"replace file " + dirA + "/hosts.toml"},
			drift: []string{"changed " + dirA + "/hosts.toml"},
		},
		"a symlink in the place of a certificate is replaced": {
			desired: []hostconfig.Registry{a},
			change: func(n *node) {
				for p := range render(t, a) {
					if strings.HasSuffix(p, ".pem") {
						n.disk[p] = &fstest.MapFile{Data: []byte("/etc/shadow"), Mode: fs.ModeSymlink}
					}
				}
			},
			ops:   []string{"publish file ca", "publish directory " + dirA},
			drift: []string{"changed ca"},
		},
		"another mode is drift": {
			before: []hostconfig.Registry{a}, desired: []hostconfig.Registry{a},
			change: func(n *node) {
				f := *n.disk[dirA+"/hosts.toml"]
				f.Mode = 0o666
				n.disk[dirA+"/hosts.toml"] = &f
			},
			ops: []string{"replace file " + dirA + "/hosts.toml"},
			drift: []string{"wrong mode " + dirA + "/hosts.toml Managed by hotplate. Do not edit this file: hotplate " +
				"puts it back as soon as it changes."},
		},
		"a lost directory is published again": {
			before: []hostconfig.Registry{a}, desired: []hostconfig.Registry{a},
			change: func(n *node) { delete(n.disk, dirA+"/hosts.toml") },
			ops:    []string{"publish directory " + dirA},
			drift:  []string{"missing " + dirA + "/hosts.toml"},
		},
		"a lost file in a directory that is still there is put back": {
			before: []hostconfig.Registry{a}, desired: []hostconfig.Registry{a},
			change: func(n *node) {
				delete(n.disk, dirA+"/hosts.toml")
				n.disk[dirA] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
			},
			ops:   []string{"replace file " + dirA + "/hosts.toml"},
			drift: []string{"missing " + dirA + "/hosts.toml"},
		},
		"a foreign file beside ours stays and does not stop us": {
			before: []hostconfig.Registry{a}, desired: []hostconfig.Registry{mirrorOf(a.Host, "https://n.example.com")},
			change: func(n *node) { n.disk[dirA+"/README"] = foreign },
			ops:    []string{"replace file " + dirA + "/hosts.toml"},
			drift:  []string{"stray " + dirA + "/README written by gpu-setup"},
		},
		"a foreign file beside ours keeps the directory": {
			before: []hostconfig.Registry{a},
			change: func(n *node) { n.disk[dirA+"/README"] = foreign },
			ops:    []string{"remove file " + dirA + "/hosts.toml", "retire file ca"},
			drift:  []string{"stray " + dirA + "/README written by gpu-setup"},
		},
		"a foreign directory is a conflict, and its certificates are not written": {
			desired:   []hostconfig.Registry{a},
			change:    func(n *node) { n.disk[dirA+"/hosts.toml"] = foreign },
			conflicts: []string{"a.example.com:5000 " + dirA + " blocking=true"},
		},
		"a conflict of one host does not stop another": {
			desired:   []hostconfig.Registry{a, mirrorOf("b.example.com", "https://m.example.com")},
			change:    func(n *node) { n.disk[dirA+"/hosts.toml"] = foreign },
			ops:       []string{"publish file ca", "publish directory b.example.com"},
			conflicts: []string{"a.example.com:5000 " + dirA + " blocking=true"},
		},
		"a foreign directory is adopted when asked for": {
			desired: []hostconfig.Registry{a}, adopt: []string{a.Host},
			change: func(n *node) { n.disk[dirA+"/hosts.toml"] = foreign },
			ops:    []string{"publish file ca", "adopt directory " + dirA},
		},
		"an empty foreign directory is a conflict": {
			desired:   []hostconfig.Registry{a},
			change:    func(n *node) { n.disk[dirA] = &fstest.MapFile{Mode: fs.ModeDir | 0o755} },
			conflicts: []string{"a.example.com:5000 " + dirA + " blocking=true"},
		},
		"an empty foreign directory is adopted": {
			desired: []hostconfig.Registry{a}, adopt: []string{a.Host},
			change: func(n *node) { n.disk[dirA] = &fstest.MapFile{Mode: fs.ModeDir | 0o755} },
			ops:    []string{"publish file ca", "adopt directory " + dirA},
		},
		"a symlink in the place of the directory is a conflict": {
			desired:   []hostconfig.Registry{a},
			change:    func(n *node) { n.disk[dirA] = elsewhere },
			conflicts: []string{"a.example.com:5000 " + dirA + " blocking=true"},
		},
		"a symlink in the place of the directory is adopted as a symlink": {
			desired: []hostconfig.Registry{a}, adopt: []string{a.Host},
			change: func(n *node) { n.disk[dirA] = elsewhere },
			ops:    []string{"publish file ca", "adopt directory " + dirA},
		},
		"a foreign directory in the other spelling is a conflict": {
			desired:   []hostconfig.Registry{a},
			change:    func(n *node) { n.disk[otherA+"/hosts.toml"] = foreign },
			conflicts: []string{"a.example.com:5000 " + otherA + " blocking=true"},
		},
		"a directory in the other spelling that comes later does not stop us": {
			before: []hostconfig.Registry{a}, desired: []hostconfig.Registry{mirrorOf(a.Host, "https://n.example.com")},
			change:    func(n *node) { n.disk[otherA+"/hosts.toml"] = foreign },
			ops:       []string{"replace file " + dirA + "/hosts.toml"},
			conflicts: []string{"a.example.com:5000 " + otherA + " blocking=false"},
		},
		"a foreign directory in the other spelling is set aside, after ours is there": {
			desired: []hostconfig.Registry{a}, adopt: []string{a.Host},
			change: func(n *node) { n.disk[otherA+"/hosts.toml"] = foreign },
			ops:    []string{"publish file ca", "publish directory " + dirA, "set aside " + otherA},
		},
		"both spellings are adopted": {
			desired: []hostconfig.Registry{a}, adopt: []string{a.Host},
			change: func(n *node) { n.disk[otherA+"/hosts.toml"], n.disk[dirA+"/hosts.toml"] = foreign, foreign },
			ops:    []string{"publish file ca", "adopt directory " + dirA, "set aside " + otherA},
		},
		"the mangled spelling of an IPv6 host hides ours": {
			desired:   []hostconfig.Registry{mirrorOf("[fd00::1]", "https://m.example.com")},
			change:    func(n *node) { n.disk["[fd00:_1]_/hosts.toml"] = foreign },
			conflicts: []string{"[fd00::1] [fd00:_1]_ blocking=true"},
		},
		"a foreign thing in the place of the shared directory stops who needs it": {
			desired: []hostconfig.Registry{a, {Host: "b.example.com", Upstream: hostconfig.Allow}},
			change: func(n *node) {
				n.disk[hostconfig.SharedDir] = &fstest.MapFile{Data: []byte("/etc"), Mode: fs.ModeSymlink}
			},
			ops:       []string{"publish directory b.example.com"},
			conflicts: []string{"a.example.com:5000 .hotplate blocking=true"},
		},
		"a lost state directory: what is exactly right is claimed": {
			before: []hostconfig.Registry{a}, desired: []hostconfig.Registry{a},
			change: func(n *node) { clear(n.owned) },
			ops:    []string{"publish file ca", "replace file " + dirA + "/hosts.toml"},
		},
		"a lost state directory: what is not right is a conflict": {
			before: []hostconfig.Registry{a}, desired: []hostconfig.Registry{mirrorOf(a.Host, "https://n.example.com")},
			change:    func(n *node) { clear(n.owned) },
			conflicts: []string{"a.example.com:5000 " + dirA + " blocking=true"},
		},
		"foreign directories of other hosts are nobody's business": {
			change: func(n *node) { n.disk["x.example.com/hosts.toml"] = foreign },
		},
		"what is gone already only leaves the manifest": {
			before: []hostconfig.Registry{a}, change: func(n *node) { clear(n.disk) },
			ops: []string{"remove directory " + dirA, "retire file ca"},
		},
		"an empty directory of ours goes": {
			before: []hostconfig.Registry{a},
			change: func(n *node) {
				clear(n.disk)
				n.disk[dirA] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
			},
			ops: []string{"remove directory " + dirA, "retire file ca"},
		},
		"behind a symlink nothing is removed": {
			before: []hostconfig.Registry{a},
			change: func(n *node) {
				clear(n.disk)
				n.disk[dirA] = &fstest.MapFile{Data: []byte("/etc"), Mode: fs.ModeSymlink}
			},
			ops: []string{"remove file " + dirA + "/hosts.toml", "retire file ca"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode()
			n.apply(t, n.plan(t, render(t, tc.before...)))
			if tc.change != nil {
				tc.change(n)
			}
			desired := render(t, tc.desired...)
			p := n.plan(t, desired, tc.adopt...)
			for what, pair := range map[string][2][]string{
				"changes": {tc.ops, ops(p)}, "conflicts": {tc.conflicts, conflicts(p)}, "drift": {tc.drift, drift(p)},
			} {
				if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
					t.Errorf("%s (-want +got):\n%s", what, diff)
				}
			}
			for _, c := range p.Conflicts {
				if c.Reason == "" || c.Action == "" {
					t.Errorf("%+v does not say what and what to do", c)
				}
			}
			n.apply(t, p)
			checkConverged(t, n, desired, tc.adopt...)
		})
	}
}

// checkConverged checks that nothing is left to do, and that what is not in conflict is on the disk.
func checkConverged(t *testing.T, n *node, desired hostconfig.Tree, adopt ...string) {
	t.Helper()
	p := n.plan(t, desired, adopt...)
	if !p.Empty() {
		t.Fatalf("there is still something to do: %v", ops(p))
	}
	blocked := map[string]bool{}
	for _, c := range p.Conflicts {
		dir := hostconfig.HostDir(c.Host)
		blocked[dir] = blocked[dir] || c.Blocking
	}
	o := n.observe(t)
	for path, f := range desired {
		dir, _, _ := strings.Cut(path, "/")
		if blocked[dir] || dir == hostconfig.SharedDir && len(blocked) > 0 {
			continue
		}
		if e := o.Entries[path]; e.SHA256 != f.SHA256() || e.Mode != f.Mode {
			t.Errorf("%s is not on the disk as desired", path)
		}
	}
	for path := range n.owned {
		if _, ok := desired[path]; !ok {
			t.Errorf("the manifest still has %s", path)
		}
	}
}

// A wall for all other hosts has a hole where somebody else has a directory, empty or not.
func TestDiffNamesForeignDirectoriesBesideDefault(t *testing.T) {
	n := newNode()
	n.disk["docker.io"] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	n.disk["quay.io/hosts.toml"] = &fstest.MapFile{Data: []byte("server = \"https://quay.io\"\n"), Mode: 0o644}
	n.disk["README"] = &fstest.MapFile{Data: []byte("not a directory"), Mode: 0o644}
	mirror := []hostconfig.Mirror{{URL: "https://harbor.example.com"}}
	desired := render(t,
		hostconfig.Registry{Host: "ghcr.io", Upstream: hostconfig.Deny, Mirrors: mirror},
		hostconfig.Registry{Host: "_default", Upstream: hostconfig.Deny, Mirrors: mirror})
	for range 2 { // before and after it is applied
		p := n.plan(t, desired)
		var got []string
		for _, c := range p.Conflicts {
			if c.Host != "_default" || c.Blocking {
				t.Errorf("conflict %+v; want one of _default that blocks nothing", c)
			}
			got = append(got, c.Path)
		}
		if diff := cmp.Diff([]string{"docker.io", "quay.io"}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		n.apply(t, p)
	}
	checkConverged(t, n, desired)
	if p := n.plan(t, render(t, hostconfig.Registry{Host: "ghcr.io", Upstream: hostconfig.Deny, Mirrors: mirror})); len(p.Conflicts) > 0 {
		t.Errorf("without _default: %+v", p.Conflicts)
	}
}

// TestDiffConverges lets configs and other people change a node at random. Whatever happens, one plan makes it right
// for all hosts that are not in conflict, and what is foreign is never lost.
func TestDiffConverges(t *testing.T) {
	gen := newGenerator(11)
	for round := range 150 {
		n := newNode()
		for step := range 6 {
			var foreign map[string]string
			if step > 0 {
				foreign = vandalise(gen.Rand, n, step)
			}
			regs := gen.registries()
			var adopt []string
			for _, r := range regs {
				if gen.chance(30) {
					adopt = append(adopt, r.Host)
				}
			}
			desired := render(t, regs...)
			n.apply(t, n.plan(t, desired, adopt...))
			checkConverged(t, n, desired, adopt...)
			for p, data := range foreign {
				holds := func(f *fstest.MapFile) bool { return f != nil && string(f.Data) == data }
				if !holds(n.disk[p]) && !holds(n.kept[p]) {
					t.Errorf("the foreign file %s is lost", p)
				}
			}
			if t.Failed() {
				t.Fatalf("round %d, step %d", round, step)
			}
		}
	}
}

// vandalise changes and removes files of ours and adds foreign ones, which it returns.
func vandalise(r *rand.Rand, n *node, step int) map[string]string {
	foreign := map[string]string{}
	for _, p := range slices.Sorted(maps.Keys(n.owned)) {
		if n.disk[p] == nil {
			continue
		}
		switch f := *n.disk[p]; r.IntN(8) {
		case 0:
			delete(n.disk, p)
		case 1:
			f.Data = append([]byte("# edited\n"), f.Data...)
			n.disk[p] = &f
		case 2:
			f.Mode ^= 0o022
			n.disk[p] = &f
		case 3:
			stray := path.Dir(p) + "/" + fmt.Sprint("stray", step)
			foreign[stray] = stray
		}
	}
	for _, dir := range []string{
		"docker.io", "registry.example.com:5000", "registry.example.com_5000_", "[fd00:_1]_", "nobody.example.com",
	} {
		p := dir + "/hosts.toml"
		if _, mine := n.owned[p]; !mine && n.disk[p] == nil && n.kept[p] == nil && r.IntN(5) == 0 {
			foreign[p] = fmt.Sprint("# foreign ", step)
		}
	}
	for p, data := range foreign {
		n.disk[p] = &fstest.MapFile{Data: []byte(data), Mode: 0o640}
	}
	return foreign
}

func TestUninstallLeavesWhatWasThere(t *testing.T) {
	gen := newGenerator(12)
	for range 100 {
		n := newNode()
		n.disk["x.example.com/hosts.toml"] = &fstest.MapFile{Data: []byte("x"), Mode: 0o600}
		before := n.observe(t)
		n.apply(t, n.plan(t, render(t, gen.registries()...)))
		n.apply(t, n.plan(t, render(t, gen.registries()...)))
		n.apply(t, n.plan(t, hostconfig.Tree{}))
		if diff := cmp.Diff(before, n.observe(t)); diff != "" {
			t.Fatalf("before (-), after (+):\n%s", diff)
		}
	}
}
