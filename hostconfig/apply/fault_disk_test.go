package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// mishap is what befalls one operation.
type mishap struct {
	name string
	// happens says whether the operation takes effect; torn, that of a file's data only half does.
	happens, torn bool
	// dies ends the process: nothing it does from then on has an effect. Otherwise the operation returns err.
	dies bool
	err  error
	// powerLoss takes back everything that was not synced.
	powerLoss bool
}

var errDead = errors.New("the process is dead")

// Every fault exists as persisted and as not persisted, because a write that failed may have happened.
var (
	deaths = []mishap{
		{name: "killed before", dies: true},
		{name: "killed in the middle of writing a file", dies: true, torn: true},
		{name: "killed after", dies: true, happens: true},
		{name: "power lost after", dies: true, happens: true, powerLoss: true},
	}
	failures = []mishap{
		{name: "disk full", err: syscall.ENOSPC},
		{name: "disk full in the middle of writing a file", err: syscall.ENOSPC, torn: true},
		{name: "disk full but persisted", err: syscall.ENOSPC, happens: true},
		{name: "disk error", err: syscall.EIO},
		{name: "disk error but persisted", err: syscall.EIO, happens: true},
	}
)

// machine is the computer that a process and its disks run on. At operation number at, a mishap happens.
type machine struct {
	t      testing.TB
	at     int
	mishap mishap
	after  func(op string) // called whenever something that containerd can see has changed

	mu     sync.Mutex
	ops    int
	hit    string // the operation that the mishap befell, "" until then
	dead   bool
	undo   []unsynced // what a power loss takes back
	trash  string
	serial int
}

// unsynced is a change that is in memory only until one of dirs is synced. A rename is whole or not there at all, as
// journaling file systems have it.
type unsynced struct {
	dirs []string
	back func() error
	keep string // a file of ours that back needs
	gone string // a directory that was removed: what had happened in it is of no account once that is durable
}

func newMachine(t testing.TB, top string) *machine {
	m := &machine{t: t, at: -1, trash: filepath.Join(top, "trash")}
	if err := os.MkdirAll(m.trash, 0o700); err != nil {
		t.Fatal(err)
	}
	return m
}

// restart is a new process on the same disks, to which nothing happens. What a process that was killed had not synced
// is there, but still not synced.
func (m *machine) restart() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead && m.mishap.powerLoss {
		for _, u := range slices.Backward(m.undo) {
			if err := u.back(); err != nil && !absent(err) && !errors.Is(err, fs.ErrExist) {
				m.t.Fatalf("take back what was not synced: %v", err)
			}
		}
		m.forget(func(unsynced) bool { return true })
	}
	m.at, m.dead = -1, false
}

// flush makes everything durable.
func (m *machine) flush() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(func(unsynced) bool { return true })
}

// heal keeps the mishap from happening any more.
func (m *machine) heal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = -1
}

// forget makes changes durable.
func (m *machine) forget(which func(unsynced) bool) {
	for i, u := range m.undo {
		if u.gone == "" || !which(u) {
			continue
		}
		for j := range i {
			if slices.Contains(m.undo[j].dirs, u.gone) {
				m.undo[j].back = func() error { return nil }
			}
		}
	}
	m.undo = slices.DeleteFunc(m.undo, func(u unsynced) bool {
		if !which(u) {
			return false
		}
		if u.keep != "" {
			_ = os.Remove(u.keep)
		}
		return true
	})
}

func (m *machine) open(dir string) (disk, error) {
	if m.dead {
		return nil, errDead
	}
	d, err := openDisk(dir)
	if err != nil {
		return nil, err
	}
	return &faultyDisk{disk: d, m: m, dir: dir}, nil
}

// do runs one operation; take says how to take it back and when it is durable.
func (m *machine) do(op string, visible bool, run, torn func() error, take func() (unsynced, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errDead
	}
	index := m.ops
	m.ops++
	fault := index == m.at && (torn != nil || !m.mishap.torn)
	if !fault {
		return m.effect(op, visible, run, take)
	}
	m.hit = op
	var err error
	switch {
	case m.mishap.torn:
		err = m.effect(op, visible, torn, take)
	case m.mishap.happens:
		err = m.effect(op, visible, run, take)
	}
	if m.mishap.dies {
		m.dead = true
		return errDead
	}
	if err != nil {
		return err
	}
	return &fs.PathError{Op: op, Path: "somewhere", Err: m.mishap.err}
}

func (m *machine) effect(op string, visible bool, run func() error, take func() (unsynced, error)) error {
	var u unsynced
	if take != nil {
		var err error
		if u, err = take(); err != nil {
			m.t.Fatalf("%s: prepare to take it back: %v", op, err)
		}
	}
	if err := run(); err != nil {
		return err
	}
	if take != nil {
		m.undo = append(m.undo, u)
	}
	if visible && m.after != nil {
		m.after(op)
	}
	return nil
}

// save keeps what is at path, if anything, and returns what brings it back.
func (m *machine) save(path string) (back func() error, keep string, err error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return func() error { return nil }, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	if info.IsDir() {
		return func() error { return os.Mkdir(path, info.Mode().Perm()) }, "", nil
	}
	m.serial++
	keep = filepath.Join(m.trash, fmt.Sprint(m.serial))
	return func() error { return os.Rename(keep, path) }, keep, os.Link(path, keep)
}

// faultyDisk is a disk of the operating system in a machine.
type faultyDisk struct {
	disk
	m   *machine
	dir string
}

func (d *faultyDisk) abs(name string) string { return filepath.Join(d.dir, name) }

// visible reports whether containerd could look at any of names.
func (d *faultyDisk) visible(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		return !strings.HasPrefix(name, tempDir) && !strings.HasPrefix(name, "manifest.json")
	})
}

func (d *faultyDisk) Create(name string, data []byte, mode fs.FileMode) error {
	return d.m.do("create "+name, d.visible(name),
		func() error { return d.disk.Create(name, data, mode) },
		func() error { return d.disk.Create(name, data[:len(data)/2], mode) },
		func() (unsynced, error) {
			path := d.abs(name)
			return unsynced{dirs: []string{filepath.Dir(path)}, back: func() error { return os.Remove(path) }}, nil
		})
}

func (d *faultyDisk) Mkdir(name string, mode fs.FileMode) error {
	return d.m.do("mkdir "+name, d.visible(name), func() error { return d.disk.Mkdir(name, mode) }, nil,
		func() (unsynced, error) {
			path := d.abs(name)
			return unsynced{dirs: []string{filepath.Dir(path)}, back: func() error { return os.RemoveAll(path) }}, nil
		})
}

func (d *faultyDisk) Link(name, second string) error {
	return d.m.do("link "+name+" "+second, d.visible(second), func() error { return d.disk.Link(name, second) }, nil,
		func() (unsynced, error) {
			path := d.abs(second)
			return unsynced{dirs: []string{filepath.Dir(path)}, back: func() error { return os.Remove(path) }}, nil
		})
}

func (d *faultyDisk) Rename(from, to string) error {
	return d.m.do("rename "+from+" "+to, d.visible(from, to), func() error { return d.disk.Rename(from, to) }, nil,
		func() (unsynced, error) {
			a, b := d.abs(from), d.abs(to)
			back, keep, err := d.m.save(b)
			return unsynced{dirs: []string{filepath.Dir(a), filepath.Dir(b)}, keep: keep, back: func() error {
				if err := os.Rename(b, a); err != nil {
					return err
				}
				return back()
			}}, err
		})
}

func (d *faultyDisk) Exchange(a, b string) error {
	exchange := func() error { return d.disk.Exchange(a, b) }
	return d.m.do("exchange "+a+" "+b, true, exchange, nil, func() (unsynced, error) {
		return unsynced{dirs: []string{filepath.Dir(d.abs(a)), filepath.Dir(d.abs(b))}, back: func() error {
			again, err := openDisk(d.dir)
			if err != nil {
				return err
			}
			return errors.Join(again.Exchange(a, b), again.Close())
		}}, nil
	})
}

func (d *faultyDisk) Remove(name string) error {
	if _, err := d.disk.Lstat(name); err != nil {
		return err
	}
	return d.m.do("remove "+name, d.visible(name), func() error { return d.disk.Remove(name) }, nil,
		func() (unsynced, error) {
			path := d.abs(name)
			back, keep, err := d.m.save(path)
			u := unsynced{dirs: []string{filepath.Dir(path)}, keep: keep, back: back}
			if keep == "" {
				u.gone = path
			}
			return u, err
		})
}

func (d *faultyDisk) Sync(name string) error {
	return d.m.do("sync "+name, false, func() error {
		if err := d.disk.Sync(name); err != nil {
			return err
		}
		d.m.forget(func(u unsynced) bool { return slices.Contains(u.dirs, filepath.Join(d.dir, name)) })
		return nil
	}, nil, nil)
}

// Reads of a dead process see nothing, so that it cannot conclude anything.
func (d *faultyDisk) Lstat(name string) (fs.FileInfo, error) {
	if d.m.dead {
		return nil, errDead
	}
	return d.disk.Lstat(name)
}
