package configtoml

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
)

const (
	// maxLinks is how many symlinks Linux follows in one look-up (path_resolution(7)).
	maxLinks = 40
	// maxFile is the largest file that is read, in bytes. The longest config.toml that containerd prints has 12 KB.
	maxFile = 1 << 20
	// maxDirEntries is the largest directory that a pattern is matched with.
	maxDirEntries = 4096
)

// ErrTooLarge is in the chain of every error about a configuration that is larger than what is read.
var ErrTooLarge = errors.New("larger than hotplate reads")

// node is the node's file tree. It resolves symlinks within itself, absolute ones too, as the node does. Names are those
// of io/fs: without a leading slash.
type node struct {
	root fs.FS
	// tooLarge keeps what fs.Glob does not return.
	tooLarge error
}

// resolve returns where name is when all symlinks have been followed.
func (n *node) resolve(name string) (string, error) {
	links := 0
	done, rest := ".", strings.Split(name, "/")
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, part)
		info, err := fs.Lstat(n.root, next)
		if err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
		}
		target, err := fs.ReadLink(n.root, next)
		if err != nil {
			return "", err
		}
		if path.IsAbs(target) {
			done = "."
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return done, nil
}

// Open, Stat and ReadDir are for fs.Glob.

func (n *node) Open(name string) (fs.File, error) {
	real, err := n.resolve(name)
	if err != nil {
		return nil, err
	}
	return n.root.Open(real)
}

func (n *node) Stat(name string) (fs.FileInfo, error) {
	real, err := n.resolve(name)
	if err != nil {
		return nil, err
	}
	return fs.Stat(n.root, real)
}

func (n *node) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := n.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	dir, ok := f.(fs.ReadDirFile)
	if !ok {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: syscall.ENOTDIR}
	}
	list, err := dir.ReadDir(maxDirEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(list) > maxDirEntries {
		n.tooLarge = fmt.Errorf("/%s has more than %d entries: %w", name, maxDirEntries, ErrTooLarge)
		return nil, n.tooLarge
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

// glob returns the files that match an absolute pattern, in the order of filepath.Glob.
func (n *node) glob(pattern string) ([]string, error) {
	names, err := fs.Glob(n, strings.TrimPrefix(pattern, "/"))
	if err := errors.Join(err, n.tooLarge); err != nil {
		return nil, err
	}
	for i, name := range names {
		names[i] = "/" + name
	}
	return names, nil
}

// rawFile is a file as it is on the disk.
type rawFile struct {
	real string // absolute, without symlinks
	info fs.FileInfo
	data []byte
}

// read reads a file whole. It opens nothing but regular files.
func (n *node) read(name string) (rawFile, error) {
	real, err := n.resolve(strings.TrimPrefix(name, "/"))
	if err != nil {
		return rawFile{}, err
	}
	info, err := fs.Lstat(n.root, real)
	if err != nil {
		return rawFile{}, err
	}
	if !info.Mode().IsRegular() {
		return rawFile{}, &fs.PathError{Op: "read", Path: name, Err: errNotRegular}
	}
	f, err := n.root.Open(real)
	if err != nil {
		return rawFile{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return rawFile{}, err
	}
	if len(data) > maxFile {
		return rawFile{}, fmt.Errorf("%s has more than %d bytes: %w", name, maxFile, ErrTooLarge)
	}
	return rawFile{real: "/" + real, info: info, data: data}, nil
}

var errNotRegular = errors.New("not a regular file")
