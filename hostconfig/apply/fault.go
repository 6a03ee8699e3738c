package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// fault says what could not be done to which path, why, and what to do about it.
func fault(what, name string, err error) error {
	var (
		perr *fs.PathError
		lerr *os.LinkError
	)
	switch { // they name the path relative to a directory that the reader does not see
	case errors.As(err, &perr):
		err = perr.Err
	case errors.As(err, &lerr):
		err = lerr.Err
	}
	if hint := hint(err); hint != "" {
		return fmt.Errorf("%s %q: %w: %s", what, name, err, hint)
	}
	return fmt.Errorf("%s %q: %w", what, name, err)
}

func hint(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "make room on its file system; what was in force stays in force"
	case errors.Is(err, unix.EROFS):
		return "its file system is mounted read-only; mount it writable for hotplate"
	case errors.Is(err, fs.ErrPermission):
		return "hotplate has to run as its owner or as root, and the directory must not be immutable (lsattr)"
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EBUSY):
		return "it is a mount point, or comes from a lower layer of an overlay, and cannot be moved; " +
			"move its content away by hand"
	case errors.Is(err, unix.EIO):
		return "the disk fails; see the kernel's log"
	}
	return ""
}

// absent reports whether err says that a name does not exist.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

// notEmpty reports whether err says that a directory is not empty.
func notEmpty(err error) bool { return errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) }

func (h *Host) path(name string) string {
	return filepath.Join(h.cfg.HostsDir, filepath.FromSlash(name))
}

func (h *Host) statePath(name string) string { return filepath.Join(h.cfg.StateDir, name) }

func (h *Host) fault(what, name string, err error) error { return fault(what, h.path(name), err) }

func (h *Host) stateFault(what, name string, err error) error {
	return fault(what, h.statePath(name), err)
}
