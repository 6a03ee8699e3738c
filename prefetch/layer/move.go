package layer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// opaque is what archive.OverlayConvertWhiteout sets on a directory that hides what is below.
const opaque = "trusted.overlay.opaque"

// batch is how many names of a directory are held in memory at once.
const batch = 1024

// Move puts the entries of the tree into upper, an empty directory on the same filesystem, and removes Dir. lowers are the
// directories of the parents, the nearest first, as in the overlay mount of the snapshot, and empty for a base. upper's
// own mode, owner and time are not the layer's, as in containerd. A FormatError or ErrNeedsLowers leaves upper empty.
// After any error the tree is of no more use; what is left of Dir is the caller's to remove.
func (t *Tree) Move(upper string, lowers []string) error {
	if t.base != (len(lowers) == 0) {
		return fmt.Errorf("move layer into %s: it was laid out as base: %t, but has %d layers below", upper, t.base, len(lowers))
	}
	names, err := readNames(upper)
	if err != nil {
		return fmt.Errorf("move layer: %w", err)
	}
	if len(names) > 0 {
		return fmt.Errorf("move layer into %s: it is not empty, it has %q", upper, names[0])
	}
	if t.replaced {
		return fmt.Errorf("move layer: %w: it has something else in place of a directory that it had needed before", ErrNeedsLowers)
	}
	if t.unlisted > 0 {
		i := inherit{root: t.Dir, lowers: lowers}
		if err := i.walk("", below{}); err != nil {
			return fmt.Errorf("move layer: %w", err)
		}
	}
	if err := t.rename(upper); err != nil {
		return fmt.Errorf("move layer: %w", err)
	}
	return nil
}

func (t *Tree) rename(upper string) error {
	if err := copyOpaque(upper, t.Dir); err != nil {
		return err
	}
	for {
		names, err := readNames(t.Dir)
		if err != nil {
			return err
		}
		if len(names) == 0 {
			return os.Remove(t.Dir)
		}
		for _, name := range names {
			if err := os.Rename(filepath.Join(t.Dir, name), filepath.Join(upper, name)); err != nil {
				return err
			}
		}
	}
}

// copyOpaque does for the root what renaming does for the rest: it is the only thing that a layer can say of its root.
func copyOpaque(dst, src string) error {
	var value [8]byte
	n, err := unix.Lgetxattr(src, opaque, value[:])
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err == nil {
		err = unix.Lsetxattr(dst, opaque, value[:n], 0)
	}
	if err != nil {
		return &os.PathError{Op: "make opaque", Path: dst, Err: err}
	}
	return nil
}

// readNames returns some of the names in dir, and none only if it is empty.
func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(batch)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	return names, err
}

// Remove removes dir and all in it, also directories whose mode forbids their owner to do so. A dir that is not there is
// success.
func Remove(dir string) error {
	err := os.RemoveAll(dir)
	if errors.Is(err, os.ErrPermission) {
		unlock(dir)
		err = os.RemoveAll(dir)
	}
	if err != nil {
		return fmt.Errorf("remove unpacked layer: %w", err)
	}
	return nil
}

// unlock lets the owner of the directories at and below dir change them. What cannot be unlocked is left to RemoveAll,
// which says so.
func unlock(dir string) {
	if os.Chmod(dir, 0o700) != nil {
		return
	}
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(batch)
		for _, e := range entries {
			if e.IsDir() {
				unlock(filepath.Join(dir, e.Name()))
			}
		}
		if err != nil {
			return
		}
	}
}
