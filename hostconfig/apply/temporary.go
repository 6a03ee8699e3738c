package apply

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// PublishTemporary makes a host directory that is not part of the wanted state, and that a later Apply leaves alone.
// remove removes it again; calling it twice is no error. After a crash the next Open removes it. The files are all in
// dir, by their path in the hosts directory. A directory that is there already is an error.
func (h *Host) PublishTemporary(
	ctx context.Context, dir string, files hostconfig.Tree,
) (remove func(context.Context) error, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkTree(files); err != nil {
		return nil, err
	}
	for _, p := range files.Paths() {
		if !strings.HasPrefix(p, dir+"/") {
			return nil, fmt.Errorf("%q is not in the directory %q", p, dir)
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%q would be empty; containerd does not look at %s then", dir, hostconfig.DefaultHost)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.begin(); err != nil {
		return nil, err
	}
	if err := h.publishTemporary(dir, files); err != nil {
		h.settled = false
		return nil, err
	}
	return func(ctx context.Context) error { return h.endTemporary(ctx, dir) }, nil
}

func (h *Host) publishTemporary(dir string, files hostconfig.Tree) error {
	if _, ok := h.m.Temporary[dir]; ok {
		return h.fault("publish", dir, errors.New("it is already there"))
	}
	switch _, err := h.hosts.Lstat(dir); {
	case err == nil:
		return h.fault("publish", dir, errors.New("somebody else has put something there: remove it"))
	case !absent(err):
		return h.fault("publish", dir, err)
	}
	hashes := map[string]string{}
	for p, f := range files {
		hashes[p] = f.SHA256()
	}
	h.m.Temporary[dir] = hashes
	if err := h.save(); err != nil {
		return err
	}
	if err := h.publish(dir, files); err != nil {
		return err
	}
	h.live[dir] = true
	return nil
}

func (h *Host) endTemporary(ctx context.Context, dir string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.live[dir]; !ok {
		return nil
	}
	h.live[dir] = false
	err := h.begin()
	if err == nil {
		err = h.dropTemporaries()
	}
	if err == nil {
		err = h.tidy()
	}
	if err == nil {
		err = h.save()
	}
	if err != nil {
		h.settled = false
		return err
	}
	delete(h.live, dir)
	return nil
}

// dropTemporaries removes the temporary host directories that nobody uses any more.
func (h *Host) dropTemporaries() error {
	for _, dir := range slices.Sorted(maps.Keys(h.m.Temporary)) {
		if h.live[dir] {
			continue
		}
		if err := h.removeTemporary(dir, h.m.Temporary[dir]); err != nil {
			return err
		}
	}
	return nil
}

// removeTemporary removes one temporary host directory, unless it is no longer ours.
func (h *Host) removeTemporary(dir string, files map[string]string) error {
	info, err := h.hosts.Lstat(dir)
	if err != nil && !absent(err) {
		return h.fault("remove", dir, err)
	}
	if err == nil && info.IsDir() {
		ours := func(p, hash string) bool { return files[p] == hash }
		left, err := h.withdraw(dir, ours)
		if err != nil {
			return err
		}
		if left {
			h.cfg.Log.Warn("somebody else's files stay in a directory of the probe", "path", h.path(dir))
		}
	}
	delete(h.m.Temporary, dir)
	return nil
}
