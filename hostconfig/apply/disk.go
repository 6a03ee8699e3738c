package apply

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// disk is one directory tree of the host and the few things this package does to it. Names are slash-separated and
// relative to it. No method follows a symbolic link below the tree's root, and none leaves the tree. A change is
// visible when the method returns, and survives a power loss after Sync of the directory that holds the name.
type disk interface {
	Lstat(name string) (fs.FileInfo, error)
	// List returns the names in a directory, sorted.
	List(name string) ([]string, error)
	// ReadFile reads a regular file of at most limit bytes.
	ReadFile(name string, limit int64) ([]byte, error)

	// Create makes a regular file. Its content, but not yet its name, is durable when Create returns.
	Create(name string, data []byte, mode fs.FileMode) error
	Mkdir(name string, mode fs.FileMode) error
	// Link gives the file or symbolic link at name a second name.
	Link(name, second string) error
	Rename(from, to string) error
	// Exchange swaps two names in one step.
	Exchange(a, b string) error
	// Remove removes a file, a symbolic link or an empty directory.
	Remove(name string) error
	// Sync makes the names in a directory durable.
	Sync(name string) error

	// FS reads the tree; it too stays in it.
	FS() fs.FS
	// Is reports whether the tree is the directory that dir, a path of the host, names now.
	Is(dir string) bool
	Close() error
}

// opener opens the disk whose root is the directory dir of the host. Of dir itself, symbolic links are followed.
type opener func(dir string) (disk, error)

var (
	errNotRegular = errors.New("is not a regular file")
	errTooLarge   = errors.New("is too large")
	errTooMany    = fmt.Errorf("holds more than %d entries", hostconfig.MaxEntries)
)

// osDisk is a disk of the operating system. os.Root keeps every name below the root even while somebody swaps
// directories for links; the checks of osDisk on top of it refuse links that stay below the root.
type osDisk struct {
	root *os.Root
}

var _ disk = (*osDisk)(nil)

func openDisk(dir string) (disk, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &osDisk{root: root}, nil
}

func (d *osDisk) Close() error { return d.root.Close() }

func (d *osDisk) FS() fs.FS { return d.root.FS() }

func (d *osDisk) Is(dir string) bool {
	there, err := os.Stat(dir)
	if err != nil {
		return false
	}
	here, err := d.root.Stat(".")
	return err == nil && os.SameFile(here, there)
}

// noLinks checks that the directories on the way to name are directories.
func (d *osDisk) noLinks(name string) error {
	if !fs.ValidPath(name) {
		return &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	for i, c := range name {
		if c != '/' {
			continue
		}
		info, err := d.root.Lstat(name[:i])
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return &fs.PathError{Op: "open", Path: name[:i], Err: syscall.ENOTDIR}
		}
	}
	return nil
}

func (d *osDisk) Lstat(name string) (fs.FileInfo, error) {
	if err := d.noLinks(name); err != nil {
		return nil, err
	}
	return d.root.Lstat(name)
}

// openChecked opens name for reading and checks with ok that it is what Lstat sees there.
func (d *osDisk) openChecked(name string, ok func(fs.FileMode) error) (*os.File, error) {
	info, err := d.Lstat(name)
	if err != nil {
		return nil, err
	}
	if err := ok(info.Mode()); err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	// Should a pipe have come since, opening it must not block.
	f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if opened, err := f.Stat(); err != nil || !os.SameFile(info, opened) {
		swapped := &fs.PathError{Op: "open", Path: name, Err: errors.New("changed meanwhile")}
		return nil, errors.Join(err, f.Close(), swapped)
	}
	return f, nil
}

func (d *osDisk) openDir(name string) (*os.File, error) {
	return d.openChecked(name, func(mode fs.FileMode) error {
		if !mode.IsDir() {
			return syscall.ENOTDIR
		}
		return nil
	})
}

func (d *osDisk) List(name string) ([]string, error) {
	f, err := d.openDir(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(hostconfig.MaxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(names) > hostconfig.MaxEntries {
		return nil, &fs.PathError{Op: "list", Path: name, Err: errTooMany}
	}
	slices.Sort(names)
	return names, nil
}

func (d *osDisk) ReadFile(name string, limit int64) ([]byte, error) {
	f, err := d.openChecked(name, func(mode fs.FileMode) error {
		if !mode.IsRegular() {
			return errNotRegular
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = &fs.PathError{Op: "read", Path: name, Err: errTooLarge}
	}
	return data, err
}

func (d *osDisk) Create(name string, data []byte, mode fs.FileMode) (err error) {
	if err := d.noLinks(name); err != nil {
		return err
	}
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil { // not left to the umask
		return err
	}
	return f.Sync()
}

func (d *osDisk) Mkdir(name string, mode fs.FileMode) error {
	if err := d.noLinks(name); err != nil {
		return err
	}
	if err := d.root.Mkdir(name, mode); err != nil {
		return err
	}
	f, err := d.openDir(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Chmod(mode)
}

func (d *osDisk) Link(name, second string) error {
	if err := errors.Join(d.noLinks(name), d.noLinks(second)); err != nil {
		return err
	}
	return d.root.Link(name, second)
}

func (d *osDisk) Rename(from, to string) error {
	if err := errors.Join(d.noLinks(from), d.noLinks(to)); err != nil {
		return err
	}
	return d.root.Rename(from, to)
}

func (d *osDisk) Exchange(a, b string) error {
	da, err := d.openDir(path.Dir(a))
	if err != nil {
		return err
	}
	defer da.Close()
	db, err := d.openDir(path.Dir(b))
	if err != nil {
		return err
	}
	defer db.Close()
	err = unix.Renameat2(int(da.Fd()), path.Base(a), int(db.Fd()), path.Base(b), unix.RENAME_EXCHANGE)
	if err != nil {
		return &os.LinkError{Op: "exchange", Old: a, New: b, Err: err}
	}
	return nil
}

func (d *osDisk) Remove(name string) error {
	if err := d.noLinks(name); err != nil {
		return err
	}
	return d.root.Remove(name)
}

func (d *osDisk) Sync(name string) error {
	f, err := d.openDir(name)
	if err != nil {
		return err
	}
	defer f.Close()
	// Some file systems, network ones among them, cannot sync a directory and keep its names durable by themselves.
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	return nil
}
