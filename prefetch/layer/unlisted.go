package layer

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"
)

// mark is an xattr on directories that the tar needed before it listed them, or without. containerd would have given them
// what the directory below has. Values: see the constants. trusted.* cannot be set by a tar (containerd v2.4.2,
// pkg/archive/tar_unix.go, setxattr).
const mark = "trusted.hotplate.unlisted"

const (
	// unlisted has not been listed.
	unlisted = "u"
	// nested has not been listed either, and was made in one that was unlisted then: if that has the setgid bit below,
	// this one would have got its group.
	nested = "n"
	// listed was listed later: mode, owner and time are the tar's, and of the xattrs those below that the tar does not set.
	listed = "l"
)

// untouched is the modification time of a marked directory in which nothing has been made. Nothing else gives it to a
// directory that is not listed. It is in whole seconds, for filesystems that know no smaller ones.
func untouched() time.Time { return time.Unix(1, 0) }

// watcher sees every header before archive.Apply does.
type watcher struct {
	root    string
	marks   bool
	last    tar.Header
	entries int64
	named   int64 // see weigh
	made    int64
	// replaced is true if a directory that was made may be gone again. containerd would have looked it up below all the
	// same, and refused the layer if that cannot be done.
	replaced bool
	// same is the parent of the previous entry, if that entry could not change what its name means.
	same *resolved
}

// resolved is a directory as it stands in the tar, and where that is.
type resolved struct{ dir, real string }

// weigh tells about how many bytes containerd's archive.Apply keeps of an entry until the end of the layer, and drops what
// is of no use to it: it keeps the headers of directories, and archive/tar allows records of 1 MiB in each.
func weigh(h *tar.Header) int64 {
	const fixed = 250 // measured: a string, a map's entry, a header
	n := int64(fixed + len(h.Name) + len(h.Linkname))
	for key, value := range h.PAXRecords {
		if !strings.HasPrefix(key, "SCHILY.xattr.") { // the only ones that archive.Apply looks at
			delete(h.PAXRecords, key)
			continue
		}
		if h.Typeflag == tar.TypeDir {
			n += int64(2 * (len(key) + len(value))) // once more in Xattrs
		}
	}
	return n
}

// see implements archive.Filter. It makes and marks the directories that containerd's mkparent would make next, in the same
// order. Where something is wrong it does nothing: containerd is about to find it too, and says it.
func (w *watcher) see(h *tar.Header) (bool, error) {
	w.entries++
	w.last = tar.Header{Typeflag: h.Typeflag, Name: h.Name, Linkname: h.Linkname}
	if w.named += weigh(h); w.named > MaxNames {
		return false, fmt.Errorf("names and attributes of its entries take more than %d MiB", MaxNames>>20)
	}
	if !w.marks {
		return true, nil
	}
	dir, base := filepath.Split(h.Name)
	if w.same == nil || dir != w.same.dir {
		w.same = nil
		real, err := fs.RootPath(w.root, dir)
		if err != nil {
			return true, nil //nolint:nilerr // see above
		}
		if real != w.root {
			if _, err := w.parent(real); err != nil {
				return false, err
			}
		}
		w.same = &resolved{dir: dir, real: real}
	}
	path := filepath.Join(w.same.real, filepath.Join("/", base))
	if h.Typeflag != tar.TypeReg {
		w.same = nil
	}
	if w.made == 0 {
		return true, nil
	}
	if h.Typeflag == tar.TypeDir {
		return true, relabel(path)
	}
	if fi, err := os.Lstat(path); err == nil && fi.IsDir() {
		w.replaced = true
	}
	return true, nil
}

// parent makes dir, which is below the root and free of symlinks, and marks it, if it is not there. It tells whether dir is
// unlisted.
func (w *watcher) parent(dir string) (bool, error) {
	if dir == w.root {
		return false, nil
	}
	if _, err := os.Lstat(dir); err == nil {
		value, err := markOf(dir)
		return value == unlisted || value == nested, err
	} else if !os.IsNotExist(err) {
		return false, nil
	}
	under, err := w.parent(filepath.Dir(dir))
	if err != nil {
		return false, err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return false, nil //nolint:nilerr // containerd meets the same
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return false, err
	}
	value := unlisted
	if under {
		value = nested
	}
	if err := unix.Lsetxattr(dir, mark, []byte(value), 0); err != nil {
		return false, &os.PathError{Op: "mark as unlisted", Path: dir, Err: err}
	}
	w.made++
	return true, os.Chtimes(dir, untouched(), untouched())
}

// relabel notes that a directory that may be marked is listed now.
func relabel(dir string) error {
	value, err := markOf(dir)
	if err != nil || value == "" || value == listed {
		return err
	}
	if err := unix.Lsetxattr(dir, mark, []byte(listed), 0); err != nil {
		return &os.PathError{Op: "mark as listed", Path: dir, Err: err}
	}
	return nil
}

// markOf returns the empty string for what is not marked or not there.
func markOf(path string) (string, error) {
	var value [1]byte
	n, err := unix.Lgetxattr(path, mark, value[:])
	switch err {
	case nil:
		return string(value[:n]), nil
	case unix.ENODATA, unix.ENOENT, unix.ENOTDIR, unix.ENOTSUP, unix.ENAMETOOLONG, unix.ELOOP, unix.EINVAL:
		return "", nil
	default:
		return "", &os.PathError{Op: "look for a mark on", Path: path, Err: err}
	}
}
