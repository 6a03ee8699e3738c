package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

const (
	// quiet is how long nothing may happen before changes are told; together they are told within patience.
	quiet    = 50 * time.Millisecond
	patience = 250 * time.Millisecond
	// lookAgain is how often a hosts directory that has gone is looked for.
	lookAgain = time.Second
	// maxWatches bounds the host directories that are watched. Drift in more is found when Apply next looks.
	maxWatches = 4096
)

// Watch calls changed after something in the hosts directory dir, or in a directory in it, was changed by anybody,
// hotplate included. Changes that follow each other closely are told as one, a quarter of a second late at most.
// changed is called in the goroutine of the caller, never twice at a time. Watch returns nil when ctx ends, or what
// keeps it from watching: then drift is found only when Apply next looks.
//
// Events are hints; they can be lost, and what changes behind a symbolic link makes none. Call Apply from time to time
// as well.
func Watch(ctx context.Context, dir string, changed func()) (err error) {
	w, err := newWatcher(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.fw.Close()) }()
	return w.loop(ctx, changed)
}

type watcher struct {
	fw   *fsnotify.Watcher
	dir  string
	gone bool // dir is not there, or not watched yet
}

// newWatcher watches dir from its return on.
func newWatcher(dir string) (*watcher, error) {
	fw, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %q: %w: raise fs.inotify.max_user_instances", dir, err)
	}
	w := &watcher{fw: fw, dir: filepath.Clean(dir)}
	if err := w.watchAll(); err != nil {
		return nil, errors.Join(err, fw.Close())
	}
	return w, nil
}

func (w *watcher) loop(ctx context.Context, changed func()) error {
	var due, latest <-chan time.Time // nil while there is nothing to tell
	note := func() {
		due = time.After(quiet)
		if latest == nil {
			latest = time.After(patience)
		}
	}
	for {
		var again <-chan time.Time
		if w.gone {
			again = time.After(lookAgain)
		}
		select {
		case <-ctx.Done():
			return nil
		case ev, ok := <-w.fw.Events:
			if !ok {
				return nil
			}
			if w.private(ev.Name) {
				continue
			}
			if err := w.follow(ev); err != nil {
				return err
			}
			note()
		case err := <-w.fw.Errors:
			// A directory that is renamed and gone a moment later, as the probe's, cannot be let go of
			// (fsnotify backend_inotify.go, handleEvent, 1.10.1).
			if !errors.Is(err, fsnotify.ErrEventOverflow) && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("watch %q: %w", w.dir, err)
			}
			note()
		case <-again:
			if err := w.watchAll(); err != nil {
				return err
			}
			if !w.gone {
				note()
			}
		case <-due:
			due, latest = nil, nil
			changed()
		case <-latest:
			due, latest = nil, nil
			changed()
		}
	}
}

// private reports whether name is one that only this package writes, at every step it takes.
func (w *watcher) private(name string) bool {
	return name == filepath.Join(w.dir, tempDir) || name == filepath.Join(w.dir, keptDir)
}

// follow watches a host directory that has come, and notices when the hosts directory itself goes.
func (w *watcher) follow(ev fsnotify.Event) error {
	if ev.Name == w.dir && ev.Has(fsnotify.Remove|fsnotify.Rename) {
		for _, name := range w.fw.WatchList() { // after a rename they are on the old directories
			_ = w.fw.Remove(name) // it may have gone by itself
		}
		w.gone = true
		return nil
	}
	if ev.Has(fsnotify.Create) && filepath.Dir(ev.Name) == w.dir {
		return w.watchDir(ev.Name)
	}
	return nil
}

// watchAll watches the hosts directory and the directories in it.
func (w *watcher) watchAll() error {
	w.gone = false
	switch err := w.fw.Add(w.dir); {
	case errors.Is(err, fs.ErrNotExist):
		w.gone = true
		return nil
	case err != nil:
		return watchFault(w.dir, err)
	}
	// Whatever comes after the watch of w.dir makes an event, so that nothing is missed.
	entries, err := os.ReadDir(w.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return watchFault(w.dir, err)
	}
	for _, e := range entries {
		if err := w.watchDir(filepath.Join(w.dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// watchDir watches name if it is a directory.
func (w *watcher) watchDir(name string) error {
	info, err := os.Lstat(name)
	if err != nil || !info.IsDir() || len(w.fw.WatchList()) >= maxWatches {
		return nil //nolint:nilerr // gone again, or nothing to watch: its end makes an event in w.dir
	}
	if err := w.fw.Add(name); err != nil && !absent(err) {
		return watchFault(name, err)
	}
	return nil
}

func watchFault(name string, err error) error {
	return fmt.Errorf("watch %q: %w: if it says \"no space left\", raise fs.inotify.max_user_watches", name, err)
}
