package prefetch

import (
	"os"

	"golang.org/x/sys/unix"
)

// VolumeOf looks at the filesystem with dir on it. Path is empty where it cannot be looked at from here.
func VolumeOf(dir string) Volume {
	info, err := os.Stat(dir)
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err != nil || !info.IsDir() || unix.Stat(dir, &st) != nil || unix.Statfs(dir, &fs) != nil {
		return Volume{}
	}
	return Volume{
		Path: dir, Device: uint64(st.Dev), //nolint:unconvert // it has another type on other machines
		Size: int64(fs.Blocks) * fs.Bsize, Free: int64(fs.Bavail) * fs.Bsize,
		Inodes: int64(fs.Files), FreeInodes: int64(fs.Ffree),
	}
}
