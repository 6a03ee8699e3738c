package layer_test

import (
	"archive/tar"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"
)

// generator makes layers whose entries meet each other: few names, everywhere.
type generator struct{ *rand.Rand }

func pick[T any](g generator, from ...T) T { return from[g.IntN(len(from))] }

func (g generator) name() string {
	name := ""
	for range 1 + g.IntN(3) {
		name = path.Join(name, pick(g, "a", "b", "c", "d"))
	}
	return name
}

// layer makes entries that mostly agree with each other: what contradicts is refused, and shows nothing but that.
func (g generator) layer() []entry {
	l := layerSoFar{used: map[string]byte{}}
	for range 1 + g.IntN(12) {
		name := g.name()
		parent, base := path.Split(name)
		wild := g.IntN(30) == 0
		if !wild && !l.allows(name) {
			continue
		}
		if g.IntN(2) == 0 {
			l.list(g, path.Clean(parent))
		}
		switch n := g.IntN(20); {
		case n < 7:
			l.add(name, file(name, fmt.Sprint("data", g.IntN(1000))).mode(pick[int64](g, 0o644, 0o4755, 0o600)))
		case n < 12:
			l.add(name, dir(name, pick[int64](g, 0o755, 0o700, 0o1777, 0o2775, 0)))
		case n < 13:
			l.add(name, soft(name, pick(g, "a", "../b", "/c/d", "nowhere")))
		case n < 15:
			if target := l.file(); target != "" && target != name {
				l.add(name, hard(name, target))
			}
		case n < 16:
			l.add(name, node(name, pick[byte](g, tar.TypeFifo, tar.TypeChar), 1, 3))
		case n < 17:
			l.add(name, dir(name, 0o755), file(path.Join(name, ".wh..wh..opq"), ""))
		default:
			if _, used := l.used[name]; wild || !used {
				l.used[name] = 'w'
				l.entries = append(l.entries, file(parent+".wh."+base, ""))
			}
		}
	}
	for i := range l.entries {
		l.entries[i] = g.odd(l.entries[i])
	}
	return l.entries
}

// layerSoFar remembers what each name is.
type layerSoFar struct {
	entries []entry
	used    map[string]byte
}

func (l *layerSoFar) add(name string, entries ...entry) {
	l.entries = append(l.entries, entries...)
	l.used[name] = entries[0].Typeflag
}

// allows tells whether nothing is in the way of name: no whiteout, nothing below it, no parent that is something else.
func (l *layerSoFar) allows(name string) bool {
	if l.used[name] == 'w' {
		return false
	}
	for used := range l.used {
		if strings.HasPrefix(used, name+"/") {
			return false
		}
	}
	for p := path.Dir(name); p != "."; p = path.Dir(p) {
		if kind, used := l.used[p]; used && kind != tar.TypeDir {
			return false
		}
	}
	return true
}

// list adds an entry for a directory that has none, and for its parents.
func (l *layerSoFar) list(g generator, name string) {
	if _, used := l.used[name]; used || name == "." {
		return
	}
	l.list(g, path.Dir(name))
	l.add(name, dir(name, pick[int64](g, 0o755, 0o711)))
}

// file is the last file that is there.
func (l *layerSoFar) file() string {
	for _, e := range slices.Backward(l.entries) {
		if e.Typeflag == tar.TypeReg && l.used[e.Name] == tar.TypeReg {
			return e.Name
		}
	}
	return ""
}

// odd gives an entry an owner, a time and xattrs.
func (g generator) odd(e entry) entry {
	e = e.owner(g.IntN(3), g.IntN(3)).time(past.Add(time.Duration(g.IntN(1000)) * time.Second))
	if (e.Typeflag == tar.TypeDir || e.Typeflag == tar.TypeReg) && g.IntN(3) == 0 {
		e = e.xattr(pick(g, "user.a", "user.b"), fmt.Sprint(g.IntN(9)))
	}
	if e.Typeflag == tar.TypeDir && g.IntN(20) == 0 {
		e = e.xattr(pick(g, "system.posix_acl_access", "system.posix_acl_default"), acl)
	}
	return e
}

func TestAnyLayeringIsSameAsContainerd(t *testing.T) {
	needsOverlay(t)
	images := 100
	if testing.Short() {
		images = 20
	}
	layers := 0
	for seed := range images {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			g := generator{rand.New(rand.NewPCG(3, uint64(seed)))}
			var l layering
			for range 2 + g.IntN(4) {
				l = append(l, g.layer())
			}
			took, err := compare(t, blobs(t, l))
			layers += took
			if err != nil {
				t.Log(err)
			}
		})
	}
	// Most are refused sooner or later, for entries contradict each other; the layers before that count.
	t.Logf("%d layers compared in %d images", layers, images)
	if layers < 2*images {
		t.Errorf("only %d layers were taken in %d images: the generator makes too much that is refused", layers, images)
	}
}
