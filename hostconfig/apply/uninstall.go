package apply

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"time"
)

// Uninstall puts the hosts directory back as it was found: hosts.toml files first, what they named after grace, and
// what was adopted in its place. It waits for grace, or until ctx ends. What somebody else has changed meanwhile is
// left alone and named in the receipt. The hosts directory goes if hotplate made it and nothing is in it. After an
// error, call Uninstall again, in this process or a later one; after success there is no manifest any more.
func (h *Host) Uninstall(ctx context.Context, grace time.Duration) (Receipt, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.live) // a probe under way misses, and its own removal finds nothing left to do
	h.settled = false
	r, err := h.converge(ctx, nil, Options{}, grace, grace <= 0)
	if err != nil {
		return r, err
	}
	if !r.NextRetire.IsZero() {
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-time.After(grace):
		}
		last, err := h.converge(ctx, nil, Options{}, grace, true)
		r.Changed = append(r.Changed, last.Changed...)
		r.Left = append(r.Left, last.Left...)
		r.NextRetire = last.NextRetire
		if err != nil {
			return r, err
		}
	}
	h.settled = false // whatever comes next finds no manifest and perhaps no directory
	if err := h.removeMade(); err != nil {
		return r, err
	}
	if err := h.state.Remove(manifestName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, h.stateFault("remove", manifestName, err)
	}
	h.saved = nil
	if err := h.state.Sync("."); err != nil {
		return r, h.stateFault("remove", manifestName, err)
	}
	return r, nil
}

// removeMade removes the directories that were made for the hosts directory, innermost first, while they are empty.
func (h *Host) removeMade() error {
	for _, dir := range slices.Backward(h.m.Made) {
		parent, err := h.open(filepath.Dir(dir))
		if absent(err) {
			continue
		}
		if err != nil {
			return fault("remove", dir, err)
		}
		err = parent.Remove(filepath.Base(dir))
		if err == nil {
			err = parent.Sync(".")
		}
		err = errors.Join(err, parent.Close())
		if notEmpty(err) {
			return nil
		}
		if err != nil && !absent(err) {
			return fault("remove", dir, err)
		}
	}
	return nil
}
