package hostconfig

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Bounds of what Observe reads.
const (
	// MaxFileSize is the size in bytes of the largest file whose content is read.
	MaxFileSize = 1 << 20
	// MaxEntries is the number of files and directories that a hosts directory may hold.
	MaxEntries = 20_000
	// MaxTotalSize bounds the content of all files together, in bytes.
	MaxTotalSize = 64 << 20
	// MaxDepth is how many directories deep Observe looks; containerd itself looks one deep.
	MaxDepth = 8
)

// Kind says what an entry of the hosts directory is.
type Kind string

// The kinds of entries.
const (
	KindFile Kind = "file"
	KindDir  Kind = "directory"
	// KindSymlink is never followed.
	KindSymlink Kind = "symlink"
	// KindOther is a device, a socket or a pipe; it is never opened.
	KindOther Kind = "special file"
)

// Entry is one thing found in the hosts directory.
type Entry struct {
	Kind Kind
	// Mode has the permission bits, and setuid, setgid and sticky.
	Mode fs.FileMode
	// Size is the file's size in bytes.
	Size int64
	// SHA256 is the hash of Data in hex; empty for what was not read.
	SHA256 string
	// Data is the file's content; nil for what was not read.
	Data []byte
	// TooLarge is set for a file of more than MaxFileSize bytes, which is not read.
	TooLarge bool
	// Unreadable says why a file or directory could not be read.
	Unreadable string
	// Target is where a symlink points; empty where that could not be read.
	Target string
}

// Fingerprint tells entries apart by what they are and hold, not by their mode: the SHA-256 in hex of a file that was
// read, otherwise the kind and what else is known. An absent entry has the fingerprint "".
func (e Entry) Fingerprint() string {
	switch {
	case e.SHA256 != "":
		return e.SHA256
	case e.Kind == KindSymlink:
		return "symlink to " + e.Target
	case e.Kind == KindFile:
		return "unread file of " + strconv.FormatInt(e.Size, 10) + " bytes"
	default:
		return string(e.Kind)
	}
}

// Observed is what a hosts directory holds: entries by their slash-separated path in it.
type Observed struct {
	Entries map[string]Entry
}

// below returns the paths of everything in the directory dir, sorted.
func (o Observed) below(dir string) []string {
	var paths []string
	for p := range o.Entries {
		if strings.HasPrefix(p, dir+"/") {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	return paths
}

// Dirs returns the names of the directories at the top, without SharedDir and whatever else begins with a dot, in byte
// order. A symlink or a file there counts: containerd follows it.
func (o Observed) Dirs() []string {
	var dirs []string
	for _, p := range slices.Sorted(maps.Keys(o.Entries)) {
		if !strings.Contains(p, "/") && !strings.HasPrefix(p, ".") {
			dirs = append(dirs, p)
		}
	}
	return dirs
}

// Observe reads a hosts directory. Symlinks are recorded and not followed. Pass the FS of an os.Root, so that a symlink
// that appears during the reading cannot lead out. A directory that does not exist holds nothing. What cannot be read
// is recorded as such; what goes over a bound of the whole is an error, because a plan must not rest on a part.
func Observe(fsys fs.FS) (Observed, error) {
	ob := observer{fsys: fsys, entries: map[string]Entry{}}
	err := ob.dir(".", 0)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return Observed{}, fmt.Errorf("read hosts directory: %w", err)
	}
	return Observed{Entries: ob.entries}, nil
}

type observer struct {
	fsys    fs.FS
	entries map[string]Entry
	total   int64
}

func (ob *observer) dir(dir string, depth int) error {
	list, err := ob.list(dir)
	if err != nil {
		return err
	}
	if len(ob.entries)+len(list) > MaxEntries {
		return fmt.Errorf("it holds more than %d entries; is it the right directory?", MaxEntries)
	}
	for _, d := range list {
		name := path.Join(dir, d.Name())
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone since it was listed
		}
		if err != nil {
			return err
		}
		if err := ob.entry(name, info, depth); err != nil {
			return err
		}
	}
	return nil
}

// list returns the entries of dir, sorted, and no more than one over the bound.
func (ob *observer) list(dir string) ([]fs.DirEntry, error) {
	f, err := ob.fsys.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	d, ok := f.(fs.ReadDirFile)
	if !ok {
		return nil, &fs.PathError{Op: "readdir", Path: dir, Err: errors.ErrUnsupported}
	}
	list, err := d.ReadDir(MaxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return list, nil
}

func (ob *observer) entry(name string, info fs.FileInfo, depth int) error {
	const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	e := Entry{Kind: KindOther, Mode: info.Mode() & modeBits}
	switch info.Mode().Type() {
	case fs.ModeDir:
		e.Kind = KindDir
	case fs.ModeSymlink:
		e.Kind = KindSymlink
		if target, err := fs.ReadLink(ob.fsys, name); err == nil {
			e.Target = target
		}
	case 0:
		e.Kind, e.Size = KindFile, info.Size()
		if err := ob.file(name, &e); err != nil {
			return err
		}
	}
	ob.entries[name] = e
	if e.Kind != KindDir {
		return nil
	}
	err := fmt.Errorf("it is more than %d directories deep", MaxDepth)
	if depth+1 < MaxDepth {
		err = ob.dir(name, depth+1)
		if err == nil || !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	e.Unreadable = err.Error()
	ob.entries[name] = e
	return nil
}

// file reads one file into e. Only going over the bound of the whole is an error.
func (ob *observer) file(name string, e *Entry) error {
	if e.Size > MaxFileSize {
		e.TooLarge = true
		return nil
	}
	f, err := ob.fsys.Open(name)
	if err != nil {
		e.Unreadable = err.Error()
		return nil
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		e.Unreadable = "it changed while it was read"
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		e.Unreadable = err.Error()
		return nil
	}
	if len(data) > MaxFileSize {
		e.TooLarge = true
		return nil
	}
	if ob.total += int64(len(data)); ob.total > MaxTotalSize {
		return fmt.Errorf("its files have more than %d bytes together; is it the right directory?", MaxTotalSize)
	}
	e.Data, e.SHA256, e.Size = data, hashHex(data), int64(len(data))
	return nil
}
