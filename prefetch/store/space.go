package store

import (
	"context"
	"os"

	"github.com/containerd/containerd/v2/plugins"
	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// Space implements prefetch.Store. Whether the direct way is open does not matter: it is enough to see the directories.
func (s *Store) Space(ctx context.Context) (space prefetch.Space, err error) {
	defer away(&err)
	d, err := s.introspect(s.in(ctx))
	if err != nil {
		return space, err
	}
	// A plugin that is not there, or not this one, has no root that we could look at.
	content, _ := d.plugin(string(plugins.ContentPlugin), "content")
	snapshots, _ := d.plugin(string(plugins.SnapshotPlugin), s.cfg.Snapshotter)
	return prefetch.Space{Content: volume(content["root"]), Snapshots: volume(snapshots["root"])}, nil
}

// volume looks at the filesystem with dir on it.
func volume(dir string) prefetch.Volume {
	info, err := os.Stat(dir)
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err != nil || !info.IsDir() || unix.Stat(dir, &st) != nil || unix.Statfs(dir, &fs) != nil {
		return prefetch.Volume{}
	}
	return prefetch.Volume{
		Path: dir, Device: uint64(st.Dev), //nolint:unconvert // it has another type on other machines
		Size: int64(fs.Blocks) * fs.Bsize, Free: int64(fs.Bfree) * fs.Bsize,
		Inodes: int64(fs.Files), FreeInodes: int64(fs.Ffree),
	}
}
