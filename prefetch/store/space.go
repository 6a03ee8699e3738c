package store

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// roots are the directories of content and snapshots.
type roots struct{ content, snapshots string }

// Space implements prefetch.Store. Whether the direct way is open does not matter: it is enough to see the directories. While
// the daemon is away they are taken to be where they were: layers go on coming meanwhile.
func (s *Store) Space(ctx context.Context) (space prefetch.Space, err error) {
	defer away(&err)
	d, err := s.introspect(s.in(ctx))
	at := s.roots.Load()
	switch {
	case err == nil:
		// A plugin that is not there, or not this one, has no root that we could look at.
		content, _ := d.plugin(string(plugins.ContentPlugin), "content")
		snapshots, _ := d.plugin(string(plugins.SnapshotPlugin), s.cfg.Snapshotter)
		at = &roots{content["root"], snapshots["root"]}
		s.roots.Store(at)
	case at == nil || !isAway(err):
		return space, err
	}
	return prefetch.Space{Content: prefetch.VolumeOf(at.content), Snapshots: prefetch.VolumeOf(at.snapshots)}, nil
}

// Size implements prefetch.Store. What a committed snapshot takes is in the snapshotter's database.
func (s *Store) Size(ctx context.Context, st prefetch.State) (size int64, err error) {
	defer away(&err)
	ctx = s.in(ctx)
	var doc document
	if _, err := s.readDocument(ctx, st.Manifest, &doc); err != nil {
		return 0, err
	}
	for _, l := range doc.Layers {
		info, err := s.content().Info(ctx, l.Digest)
		if err != nil && !errdefs.IsNotFound(err) {
			return 0, fmt.Errorf("look for %s: %w", l.Digest, err)
		}
		size += info.Size
	}
	for name := st.ChainID.String(); name != ""; {
		info, err := s.snapshots().Stat(ctx, name)
		if err != nil {
			return 0, fmt.Errorf("look for snapshot %s: %w", name, err)
		}
		usage, err := s.snapshots().Usage(ctx, name)
		if err != nil {
			return 0, fmt.Errorf("count snapshot %s: %w", name, err)
		}
		size, name = size+usage.Size, info.Parent
	}
	return size, nil
}
