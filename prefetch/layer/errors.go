package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
)

const rebuild = "rebuild the image and push it again"

var (
	// ErrDiffID says that the tar is not the one that the image's config names.
	ErrDiffID = errors.New("layer does not have the diff ID that the image's config says")
	// ErrWindow says that a zstd frame needs a larger window than Spec.Window, which is less than MaxWindow: try again
	// with that.
	ErrWindow = errors.New("layer needs a zstd window larger than the allowed one")
	// ErrNeedsLowers says that the layer comes out right only on its parents: try again with Spec.Lowers.
	ErrNeedsLowers = errors.New("layer has to be laid out on its parents")
)

// FormatError says what is broken in a blob. Fetching it again from a registry where it has the right digest does not
// help.
type FormatError struct {
	// Entry is the name of the tar's entry that was at fault, or the last one before; empty if there was none.
	Entry string
	Err   error
}

// Error implements error.
func (e *FormatError) Error() string {
	if e.Entry == "" {
		return fmt.Sprintf("layer is broken: %v; %s", e.Err, rebuild)
	}
	return fmt.Sprintf("layer is broken at %q: %v; %s", e.Entry, e.Err, rebuild)
}

// Unwrap gives the cause.
func (e *FormatError) Unwrap() error { return e.Err }

// blame says whose fault err is, which came out of archive.Apply.
func (w *watcher) blame(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || !ofContent(err) {
		return err
	}
	if w.last.Typeflag == tar.TypeLink && errors.Is(err, syscall.ENOENT) {
		err = fmt.Errorf("hard link to %q, which this layer does not have (containerd cannot unpack it either): %w",
			w.last.Linkname, err)
	}
	return &FormatError{Entry: w.last.Name, Err: err}
}

// ofContent tells whether err can only come from what is in the tar. Everything without an errno is containerd's or
// archive/tar's complaint.
func ofContent(err error) bool {
	var errno syscall.Errno
	return !errors.As(err, &errno) || slices.Contains([]syscall.Errno{
		syscall.ENOENT, syscall.ENOTDIR, syscall.EISDIR, syscall.EEXIST, syscall.EINVAL, syscall.ELOOP,
		syscall.ENAMETOOLONG, syscall.EMLINK, syscall.ERANGE, syscall.E2BIG,
	}, errno)
}
