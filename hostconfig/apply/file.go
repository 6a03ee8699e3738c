package apply

import (
	"errors"
	"io/fs"
	"path/filepath"
)

// TempFile is the path of what WriteFile renames to path. It is one that nobody else uses: the directory may be somebody
// else's, who may have a file that is called .tmp.
func TempFile(path string) string { return path + ".hotplate-tmp" }

// WriteFile replaces the file at path in one rename: a reader, also after a crash, sees the old content or the new, and
// the new survives a power loss when WriteFile returns. The directory of path must exist. Two writers of one path must
// not run at once. A crash can leave TempFile(path), which the next WriteFile replaces.
func WriteFile(path string, data []byte, mode fs.FileMode) (err error) {
	dir, name := filepath.Dir(path), filepath.Base(path)
	d, err := openDisk(dir)
	if err != nil {
		return fault("write", path, err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	temp := TempFile(name)
	if err = d.Remove(temp); err == nil || absent(err) {
		err = d.Create(temp, data, mode)
	}
	if err == nil {
		err = d.Rename(temp, name)
	}
	if err != nil {
		_ = d.Remove(temp) // it may hold the space that was missing
		return fault("write", path, err)
	}
	if err := d.Sync("."); err != nil {
		return fault("write", path, err)
	}
	return nil
}
