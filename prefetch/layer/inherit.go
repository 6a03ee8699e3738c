package layer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/continuity/fs"
	"github.com/containerd/continuity/sysx"
	"golang.org/x/sys/unix"
)

// inherit gives marked directories what containerd's mkparent would have given them when it made them (containerd v2.4.2,
// pkg/archive/tar.go, mkparent; tar_unix.go, copyDirInfo and copyUpXAttrs).
type inherit struct {
	root   string
	lowers []string
}

// below is the directory of a lower layer that an unlisted one takes after. The zero value is none.
type below struct {
	path string
	stat *syscall.Stat_t
}

// walk treats the directories in dir, a path below the root that begins with a slash or is empty. from is what dir itself
// takes after. It looks into every directory of the tree, but at no file.
func (i *inherit) walk(dir string, from below) error {
	f, err := os.Open(i.root + dir)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(batch)
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			sub := dir + "/" + e.Name()
			took, err := i.treat(sub, from)
			if err != nil {
				return err
			}
			if err := i.walk(sub, took); err != nil {
				return err
			}
		}
		if len(entries) == 0 || err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
}

// treat gives one directory what it lacks, and returns what it takes after. from is that of its parent.
func (i *inherit) treat(dir string, from below) (below, error) {
	path := i.root + dir
	value, err := markOf(path)
	if err != nil || value == "" {
		return below{}, err
	}
	if err := unix.Lremovexattr(path, mark); err != nil {
		return below{}, &os.PathError{Op: "remove the mark of", Path: path, Err: err}
	}
	lower, err := i.find(dir)
	if err != nil {
		if ofContent(err) {
			err = &FormatError{Entry: strings.TrimPrefix(dir, "/"),
				Err: fmt.Errorf("the layer does not list this directory, and it cannot be looked up below: %w", err)}
		}
		return below{}, err
	}
	switch {
	case value == listed:
		err = fillXattrs(path, lower)
	case lower.stat != nil:
		err = copyAll(path, lower)
	default:
		err = asNew(path, value, from)
	}
	return lower, err
}

// find returns the directory with this path in the nearest lower that has something there; none, if that is something else
// or there is nothing.
func (i *inherit) find(dir string) (below, error) {
	for _, lower := range i.lowers {
		path, err := fs.RootPath(lower, dir)
		if err != nil {
			return below{}, err
		}
		fi, err := os.Lstat(path)
		switch {
		case err == nil && fi.IsDir():
			return below{path: path, stat: fi.Sys().(*syscall.Stat_t)}, nil
		case err == nil:
			return below{}, nil
		case !os.IsNotExist(err):
			return below{}, err
		}
	}
	return below{}, nil
}

// copyAll makes path like the directory below. Its time is that of its last new entry, if it has got any.
func copyAll(path string, lower below) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st := lower.stat
	if err := os.Lchown(path, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(path, st.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: path, Err: err}
	}
	if fi.ModTime().Equal(untouched()) {
		if err := os.Chtimes(path, time.Unix(st.Atim.Unix()), time.Unix(st.Mtim.Unix())); err != nil {
			return err
		}
	}
	return fillXattrs(path, lower)
}

// asNew leaves path as it is where nothing is below, except for what it would have got from its parent.
func asNew(path, value string, from below) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if value == nested && from.stat != nil && from.stat.Mode&unix.S_ISGID != 0 {
		if err := os.Lchown(path, -1, int(from.stat.Gid)); err != nil {
			return err
		}
	}
	if now := time.Now(); fi.ModTime().Equal(untouched()) {
		return os.Chtimes(path, now, now)
	}
	return nil
}

// fillXattrs gives path the xattrs below that it does not have, without trusted ones, and keeps its mode, which an ACL
// would change.
func fillXattrs(path string, lower below) error {
	if lower.stat == nil {
		return nil
	}
	keys, err := sysx.LListxattr(lower.path)
	if errors.Is(err, unix.ENOTSUP) || (err == nil && len(keys) == 0) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "list xattrs of", Path: lower.path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	for _, key := range keys {
		if strings.HasPrefix(key, "trusted.") {
			continue
		}
		if key == "system.posix_acl_default" {
			return fmt.Errorf("%w: %s has a default ACL", ErrNeedsLowers, lower.path)
		}
		if err := fillXattr(path, lower.path, key); err != nil {
			return err
		}
	}
	if err := unix.Chmod(path, st.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: path, Err: err}
	}
	return nil
}

func fillXattr(dst, src, key string) error {
	// An ACL is not kept from being replaced by XATTR_CREATE.
	if _, err := sysx.LGetxattr(dst, key); err == nil {
		return nil
	}
	value, err := sysx.LGetxattr(src, key)
	if err == nil {
		err = unix.Lsetxattr(dst, key, value, 0)
	}
	if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, sysx.ENODATA) {
		return &os.PathError{Op: "copy xattr " + key + " to", Path: dst, Err: err}
	}
	return nil
}
