package staging

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// errKilled is what every operation returns after the process has died.
var errKilled = errors.New("killed")

// Outcomes of an operation. A failed write that is not done has written its first half; a failed fsync of a file that is
// not done has lost the bytes for good, as Linux does.
const (
	done = iota
	failedNotDone
	failedDone
	killed
)

// memDisk is a filesystem that knows what would be left of it after a power loss. It assumes less than real ones give: only
// SyncDir makes names durable, and what is not synced may be there or not, in any combination.
type memDisk struct {
	mu    sync.Mutex
	nodes []*node
	root  *node
	locks map[*node]bool
	ops   []string         // what was done that can fail
	fault func(op int) int // the outcome of the operation with this number
	dead  bool
}

type node struct {
	mode           os.FileMode
	bytes, onDisk  []byte
	names, entries map[string]*node // of a directory: now, and on the disk
	pending        []func()         // what takes bytes to onDisk, or names to entries
	links          int
}

var _ disk = (*memDisk)(nil)

func newMemDisk() *memDisk {
	d := &memDisk{locks: map[*node]bool{}}
	d.root = d.node(true)
	return d
}

func (d *memDisk) node(dir bool) *node {
	n := &node{links: 1}
	if dir {
		n.names, n.entries = map[string]*node{}, map[string]*node{}
	}
	d.nodes = append(d.nodes, n)
	return n
}

// restart lets the dead process be followed by a new one.
func (d *memDisk) restart() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead, d.fault = false, nil
	clear(d.locks)
}

// powerLoss forgets what was not synced, except that each pending change has reached the disk with probability p.
func (d *memDisk) powerLoss(r *rand.Rand, p float64) {
	d.restart()
	for _, n := range d.nodes {
		for _, apply := range n.pending {
			if r.Float64() < p {
				apply()
			}
		}
		n.pending = nil
		n.bytes, n.names = slices.Clone(n.onDisk), maps.Clone(n.entries)
	}
}

// do does an operation, or what the fault makes of it.
func (d *memDisk) do(what string, notDone, do func() error) error {
	outcome := done
	if d.fault != nil {
		outcome = d.fault(len(d.ops))
	}
	d.ops = append(d.ops, what)
	if d.dead || outcome == killed {
		if !d.dead && notDone != nil && what != "sync" {
			_ = notDone()
		}
		d.dead = true
		return errKilled
	}
	switch outcome {
	case failedNotDone:
		if notDone != nil {
			_ = notDone()
		}
		return unix.EIO
	case failedDone:
		_ = do()
		return unix.EIO
	}
	return do()
}

func (d *memDisk) find(name string) (*node, error) {
	n := d.root
	for _, part := range split(name) {
		if n = n.names[part]; n == nil {
			return nil, &os.PathError{Op: "find", Path: name, Err: fs.ErrNotExist}
		}
	}
	return n, nil
}

func split(name string) []string {
	if name = filepath.Clean(name); name == "/" {
		return nil
	}
	return append(split(filepath.Dir(name)), filepath.Base(name))
}

// enter sets names of a directory; nil removes.
func (n *node) enter(changes map[string]*node) {
	set := func(m map[string]*node) {
		for name, to := range changes {
			if m[name] = to; to == nil {
				delete(m, name)
			}
		}
	}
	set(n.names)
	n.pending = append(n.pending, func() { set(n.entries) })
}

// change does something to a name in an existing directory.
func (d *memDisk) change(what, name string, f func(dir *node, base string) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.do(what+" "+filepath.Base(name), nil, func() error {
		dir, err := d.find(filepath.Dir(name))
		if err != nil {
			return err
		}
		return f(dir, filepath.Base(name))
	})
}

func (d *memDisk) Mkdir(name string) error {
	return d.change("mkdir", name, func(dir *node, base string) error {
		if dir.names[base] != nil {
			return fs.ErrExist
		}
		dir.enter(map[string]*node{base: d.node(true)})
		return nil
	})
}

func (d *memDisk) Remove(name string) error {
	return d.change("remove", name, func(dir *node, base string) error {
		n := dir.names[base]
		switch {
		case n == nil:
			return fs.ErrNotExist
		case len(n.names) > 0:
			return unix.ENOTEMPTY
		}
		n.links--
		dir.enter(map[string]*node{base: nil})
		return nil
	})
}

func (d *memDisk) Rename(from, to string) error {
	return d.change("rename", from, func(dir *node, base string) error {
		n := dir.names[base]
		if n == nil {
			return fs.ErrNotExist
		}
		dir.enter(map[string]*node{base: nil, filepath.Base(to): n})
		return nil
	})
}

// Link is what the content store does.
func (d *memDisk) Link(from, to string) error {
	return d.change("link", to, func(dir *node, base string) error {
		n, err := d.find(from)
		if err != nil || dir.names[base] != nil {
			return err
		}
		n.links++
		dir.enter(map[string]*node{base: n})
		return nil
	})
}

func (d *memDisk) SyncDir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.do("syncdir", nil, func() error {
		n, err := d.find(name)
		if err == nil {
			n.flush()
		}
		return err
	})
}

func (n *node) flush() {
	for _, apply := range n.pending {
		apply()
	}
	n.pending = nil
}

type memLock struct {
	d *memDisk
	n *node
}

func (l memLock) Close() error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	delete(l.d.locks, l.n)
	return nil
}

func (d *memDisk) Lock(name string) (io.Closer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find(name)
	switch {
	case d.dead:
		return nil, errKilled
	case err != nil:
		return nil, err
	case d.locks[n]:
		return nil, errLocked
	}
	d.locks[n] = true
	return memLock{d, n}, nil
}

func (d *memDisk) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	var f memFile
	err := d.change("open", name, func(dir *node, base string) error {
		n := dir.names[base]
		switch {
		case n == nil && flag&os.O_CREATE == 0:
			return fs.ErrNotExist
		case n == nil:
			n = d.node(false)
			n.mode = perm
			dir.enter(map[string]*node{base: n})
		case flag&os.O_EXCL != 0:
			return fs.ErrExist
		}
		f = memFile{d, n, flag&os.O_RDWR != 0}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (d *memDisk) Stat(name string) (stat, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find(name)
	if err != nil {
		return stat{}, err
	}
	size := int64(len(n.bytes))
	return stat{regular: n.names == nil, size: size, allocated: size, shared: n.links > 1}, nil
}

func (d *memDisk) ReadDir(name string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find(name)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(n.names)), nil
}

type memFile struct {
	d        *memDisk
	n        *node
	writable bool
}

func (f memFile) Close() error              { return nil }
func (f memFile) StartWriting(int64, int64) {}

func (f memFile) ReadAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if off >= int64(len(f.n.bytes)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.bytes[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f memFile) WriteAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	write := func(p []byte) {
		p = slices.Clone(p)
		to := func(b *[]byte) {
			if grow := int(off) + len(p) - len(*b); grow > 0 {
				*b = append(*b, make([]byte, grow)...)
			}
			copy((*b)[off:], p)
		}
		to(&f.n.bytes)
		f.n.pending = append(f.n.pending, func() { to(&f.n.onDisk) })
	}
	if !f.writable || f.n.links > 1 {
		panic("write to a file that may be somebody else's")
	}
	err := f.d.do("write", func() error { write(p[:len(p)/2]); return nil }, func() error { write(p); return nil })
	return len(p), err
}

func (f memFile) Truncate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return f.d.do("truncate", nil, func() error {
		to := func(b *[]byte) {
			*b = append((*b)[:min(int64(len(*b)), size)], make([]byte, max(size-int64(len(*b)), 0))...)
		}
		to(&f.n.bytes)
		f.n.pending = append(f.n.pending, func() { to(&f.n.onDisk) })
		return nil
	})
}

func (f memFile) Chmod(mode os.FileMode) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return f.d.do("chmod", nil, func() error { f.n.mode = mode; return nil })
}

func (f memFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return f.d.do("sync", func() error { f.n.pending = nil; return nil }, func() error { f.n.flush(); return nil })
}
