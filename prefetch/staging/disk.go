package staging

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// errLocked says that somebody else has the blob.
var errLocked = errors.New("locked")

// disk is what staging asks of a filesystem. Tests put one in its place that fails and forgets.
type disk interface {
	Mkdir(dir string) error
	// Lock locks a directory until the closer is closed. It returns errLocked if it is locked, fs.ErrNotExist if it has
	// been removed.
	Lock(dir string) (io.Closer, error)
	// OpenFile follows no symlink. A read-only file that is opened for writing is made writable.
	OpenFile(name string, flag int, perm os.FileMode) (file, error)
	Stat(name string) (stat, error)
	ReadDir(dir string) ([]string, error)
	Rename(from, to string) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	SyncDir(dir string) error
}

type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Chmod(mode os.FileMode) error
	Sync() error
	// StartWriting asks the kernel to begin writing a range to the disk. It promises nothing.
	StartWriting(off, n int64)
}

type stat struct {
	regular         bool
	size, allocated int64 // bytes
	shared          bool  // has another link
}

// osDisk is the real one.
type osDisk struct{}

var _ disk = osDisk{}

func (osDisk) Mkdir(dir string) error { return os.Mkdir(dir, 0o700) }

func (osDisk) Lock(dir string) (io.Closer, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	same, err := lockOpen(f, dir)
	if err == nil && !same {
		err = &os.PathError{Op: "lock", Path: dir, Err: fs.ErrNotExist}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// lockOpen locks f and tells whether f is still what has the name.
func lockOpen(f *os.File, name string) (same bool, err error) {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, errLocked
		}
		return false, &os.PathError{Op: "flock", Path: name, Err: err}
	}
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	now, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, now), err
}

func (osDisk) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	f, err := os.OpenFile(name, flag|unix.O_NOFOLLOW, perm)
	if errors.Is(err, fs.ErrPermission) && flag&os.O_RDWR != 0 {
		if err := os.Chmod(name, 0o600); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(name, flag|unix.O_NOFOLLOW, perm)
	}
	if err != nil {
		return nil, err
	}
	return &osFile{File: f}, nil
}

func (osDisk) Stat(name string) (stat, error) {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return stat{}, &os.PathError{Op: "lstat", Path: name, Err: err}
	}
	s := stat{size: st.Size, allocated: st.Blocks * 512, shared: st.Nlink > 1,
		regular: st.Mode&unix.S_IFMT == unix.S_IFREG}
	return s, nil
}

func (osDisk) ReadDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}

func (osDisk) Rename(from, to string) error { return os.Rename(from, to) }
func (osDisk) Remove(name string) error     { return os.Remove(name) }

func (osDisk) SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
