package rig

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Entry is all that a user can see of one file, directory or other node, except for how many blocks it takes and when it
// was read or its inode changed.
type Entry struct {
	// Type is file, dir, symlink, char, block, fifo or socket. A whiteout of an overlay's upper directory is a char
	// with Rdev 0.
	Type string
	// Mode has the permissions, setuid, setgid and sticky as octal digits.
	Mode     string
	UID, GID uint32
	// Size is in bytes, and 0 for directories: what they take differs between filesystems.
	Size    int64
	ModTime time.Time
	Rdev    uint64
	// Xattrs has all namespaces that the caller may see; for root, trusted.* too.
	Xattrs map[string]string
	// Link is a symlink's target.
	Link string
	// HardLink is the first of several names, below the same directory, that are the same inode; empty for a single one.
	HardLink string
	// SHA256 is of a file's content.
	SHA256 string
}

// Tree looks at everything at and below dir, which is named ".". Nothing may change there meanwhile. A name that is listed
// but not there is left out: overlayfs lists whiteouts in a directory that no lower one has.
func Tree(dir string) (map[string]Entry, error) {
	tree := map[string]Entry{}
	type inode struct{ dev, ino uint64 }
	links := map[inode][]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		err = unix.Lstat(path, &st)
		if errors.Is(err, unix.ENOENT) && path != dir {
			return nil
		}
		if err != nil {
			return &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			i := inode{st.Dev, st.Ino}
			links[i] = append(links[i], name)
		}
		tree[name], err = newEntry(path, &st)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look at the tree %s: %w", dir, err)
	}
	for _, names := range links {
		if len(names) < 2 {
			continue
		}
		first := slices.Min(names)
		for _, name := range names {
			e := tree[name]
			e.HardLink = first
			tree[name] = e
		}
	}
	return tree, nil
}

func newEntry(path string, st *unix.Stat_t) (Entry, error) {
	e := Entry{
		Type: entryType(st.Mode),
		Mode: fmt.Sprintf("%04o", st.Mode&0o7777),
		UID:  st.Uid, GID: st.Gid,
		ModTime: time.Unix(st.Mtim.Unix()).UTC(),
	}
	var err error
	if e.Xattrs, err = xattrs(path); err != nil {
		return Entry{}, err
	}
	switch e.Type {
	case "file":
		e.Size = st.Size
		e.SHA256, err = contentHash(path)
	case "symlink":
		e.Size = st.Size
		e.Link, err = os.Readlink(path)
	case "char", "block":
		e.Rdev = st.Rdev
	}
	return e, err
}

func entryType(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "dir"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFCHR:
		return "char"
	case unix.S_IFBLK:
		return "block"
	case unix.S_IFIFO:
		return "fifo"
	default:
		return "socket"
	}
}

func contentHash(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// xattrs returns nil where there are none, also because the filesystem has no such thing.
func xattrs(path string) (map[string]string, error) {
	buf := make([]byte, 1<<16) // the kernel's limit for the list and for each value (xattr(7))
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.ENOTSUP) || (err == nil && n == 0) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "llistxattr", Path: path, Err: err}
	}
	attrs := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			return nil, &fs.PathError{Op: "lgetxattr " + name, Path: path, Err: err}
		}
		attrs[name] = string(buf[:n])
	}
	return attrs, nil
}

// MaskTimes replaces modification times at or after since by the zero time: what was written by the clock, and not by
// the image, differs from one run to the next.
func MaskTimes(tree map[string]Entry, since time.Time) {
	for name, e := range tree {
		if !e.ModTime.Before(since) {
			e.ModTime = time.Time{}
			tree[name] = e
		}
	}
}

// DiffTrees tells how got differs from want, one line for each difference, at most 30 of them. It is empty if they are
// equal.
func DiffTrees(want, got map[string]Entry) string {
	const most = 30
	names := map[string]bool{}
	for name := range want {
		names[name] = true
	}
	for name := range got {
		names[name] = true
	}
	var lines []string
	for name := range names {
		w, inWant := want[name]
		g, inGot := got[name]
		switch {
		case !inGot:
			lines = append(lines, fmt.Sprintf("%q is missing, a %s\n", name, w.Type))
		case !inWant:
			lines = append(lines, fmt.Sprintf("%q is too many, a %s\n", name, g.Type))
		default:
			lines = append(lines, diffEntries(name, w, g)...)
		}
	}
	slices.Sort(lines)
	if len(lines) > most {
		lines = append(lines[:most], fmt.Sprintf("and %d more\n", len(lines)-most))
	}
	return strings.Join(lines, "")
}

func diffEntries(name string, want, got Entry) []string {
	var lines []string
	differ := func(what string, w, g any) {
		lines = append(lines, fmt.Sprintf("%q: %s is %v, want %v\n", name, what, g, w))
	}
	field := func(what string, w, g string) {
		if w != g {
			differ(what, w, g)
		}
	}
	number := func(what string, w, g int64) {
		if w != g {
			differ(what, w, g)
		}
	}
	field("type", want.Type, got.Type)
	field("mode", want.Mode, got.Mode)
	number("uid", int64(want.UID), int64(got.UID))
	number("gid", int64(want.GID), int64(got.GID))
	number("size", want.Size, got.Size)
	if !want.ModTime.Equal(got.ModTime) {
		differ("mtime", want.ModTime, got.ModTime)
	}
	number("device", int64(want.Rdev), int64(got.Rdev))
	field("link target", fmt.Sprintf("%q", want.Link), fmt.Sprintf("%q", got.Link))
	field("hard link", fmt.Sprintf("%q", want.HardLink), fmt.Sprintf("%q", got.HardLink))
	field("content", cmp.Or(want.SHA256, "none"), cmp.Or(got.SHA256, "none"))
	field("xattrs", fmt.Sprintf("%.200q", want.Xattrs), fmt.Sprintf("%.200q", got.Xattrs))
	return lines
}
