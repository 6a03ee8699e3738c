package restart

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hostconfig/apply"
)

// files is what a transaction does to files, each step of it durable when it returns. Paths are those of this process.
type files interface {
	// Read reads a regular file of at most maxState bytes. The error is errLink where path is a symbolic link: what is
	// written there would take its place.
	Read(path string) ([]byte, error)
	// Write replaces a file, or makes it, in one rename. Its directory must be there.
	Write(path string, data []byte, mode fs.FileMode) error
	// Rename puts a file in the place of another one in its directory.
	Rename(from, to string) error
	// Remove removes a file. It is no error if there is none.
	Remove(path string) error
	// Mkdir makes one directory.
	Mkdir(path string, mode fs.FileMode) error
}

// osFiles are the files of the operating system.
type osFiles struct{}

var _ files = osFiles{}

// errLink says that there is a symbolic link.
var errLink = errors.New("it is a symbolic link")

func (osFiles) Read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0) // a pipe would be waited for
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("read %s: %w", path, errLink)
	case err != nil:
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: it is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err == nil && len(data) > maxState {
		err = fmt.Errorf("read %s: it has more than %d bytes", path, maxState)
	}
	return data, err
}

func (osFiles) Write(path string, data []byte, mode fs.FileMode) error {
	return apply.WriteFile(path, data, mode)
}

func (osFiles) Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(to)
}

func (osFiles) Remove(path string) error {
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return syncDir(path)
}

func (osFiles) Mkdir(path string, mode fs.FileMode) error {
	if err := os.Mkdir(path, mode); err != nil {
		return err
	}
	return syncDir(path)
}

// syncDir makes a change of the names beside path durable.
func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return &fs.PathError{Op: "sync", Path: filepath.Dir(path), Err: err}
	}
	return nil
}
