package config

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fsnotify/fsnotify"
)

const (
	// maxWatches bounds how many directories are watched; the rest is polled.
	maxWatches = 512
	// maxLinks bounds how many symlinks lead to one file, as in the kernel.
	maxLinks = 40
)

// watches are the directories in which a change of the followed files would show. Directories are watched and not the
// files themselves, because files are replaced by rename, and kubelet replaces a symlink (..data) beside them. It is
// for one goroutine.
type watches struct {
	watcher *fsnotify.Watcher // nil where the kernel grants none
	events  <-chan fsnotify.Event
	errors  <-chan error
	log     *slog.Logger

	wanted  interests
	watched map[string]os.FileInfo // by directory, as it was when the watch was added
	refused map[string]bool        // directories whose refusal is in the log
}

// interests says, for each directory to be watched, which names in it matter; nil for all of them.
type interests map[string]map[string]bool

func newWatches(watcher *fsnotify.Watcher, log *slog.Logger) *watches {
	w := &watches{watcher: watcher, log: log, watched: map[string]os.FileInfo{}, refused: map[string]bool{}}
	if watcher != nil {
		w.events, w.errors = watcher.Events, watcher.Errors
	}
	return w
}

// concerns reports whether an event may mean that a followed file has changed.
func (w *watches) concerns(event fsnotify.Event) bool {
	if _, ok := w.watched[event.Name]; ok {
		return true // the directory itself is gone or was replaced
	}
	names, ok := w.wanted[filepath.Dir(event.Name)]
	return ok && (names == nil || names[filepath.Base(event.Name)])
}

// follow makes these the files and directories to be watched, and reports whether a watch was added that was not there
// before.
func (w *watches) follow(files, dirs []string) (added bool) {
	w.wanted = interests{}
	for _, file := range files {
		w.wanted.follow(absolutePath(file), false)
	}
	for _, dir := range dirs {
		w.wanted.follow(absolutePath(dir), true)
	}
	if w.watcher == nil {
		return false
	}
	w.forget()
	maps.DeleteFunc(w.refused, func(dir string, _ bool) bool { _, wanted := w.wanted[dir]; return !wanted && dir != "" })
	for i, dir := range slices.Sorted(maps.Keys(w.wanted)) {
		if i >= maxWatches {
			w.refuse("", "there are more directories than are watched; the rest is only read now and then", "limit", maxWatches)
			break
		}
		if _, ok := w.watched[dir]; !ok {
			added = w.add(dir) || added
		}
	}
	return added
}

// forget drops the watches that are no longer wanted, that the kernel has dropped, and whose directory is another one
// by now.
func (w *watches) forget() {
	live := map[string]bool{}
	for _, dir := range w.watcher.WatchList() {
		live[dir] = true
	}
	for dir, then := range w.watched {
		now, err := os.Stat(dir)
		_, wanted := w.wanted[dir]
		if wanted && live[dir] && err == nil && os.SameFile(then, now) {
			continue
		}
		// The error is that of a watch which the kernel has dropped.
		_ = w.watcher.Remove(dir)
		delete(w.watched, dir)
	}
}

func (w *watches) add(dir string) bool {
	// Stat before the watch: if the directory is replaced between the two, the next look sees the difference.
	info, err := os.Stat(dir)
	if err == nil {
		err = w.watcher.Add(dir)
	}
	if err != nil {
		if !os.IsNotExist(err) {
			w.refuse(dir, "cannot watch a directory; it is only read now and then", "directory", dir, "error", err,
				"next", "if there is no space left, raise fs.inotify.max_user_watches")
		}
		return false
	}
	w.watched[dir] = info
	delete(w.refused, dir)
	return true
}

// refuse logs once for each directory.
func (w *watches) refuse(dir, message string, args ...any) {
	if !w.refused[dir] {
		w.refused[dir] = true
		w.log.Warn(message, args...)
	}
}

// follow adds the directories in which a change of path would show: the one that it is in, those of the symlinks on the
// way to it, and where it is not there yet, the nearest one that is.
func (in interests) follow(path string, isDir bool) {
	at, links := "/", 0
	rest := strings.Split(filepath.Clean(path), "/")[1:]
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		full := filepath.Join(at, name)
		info, err := os.Lstat(full)
		switch {
		case name == "" || name == ".":
		case name == "..":
			at = full
		case err != nil:
			in.add(at, name)
			return
		case info.Mode()&os.ModeSymlink != 0:
			in.add(at, name)
			target, err := os.Readlink(full)
			if links++; err != nil || links > maxLinks {
				return
			}
			if filepath.IsAbs(target) {
				at = "/"
			}
			rest = append(strings.Split(target, "/"), rest...)
		case len(rest) == 0 && !isDir:
			in.add(at, name)
		default:
			at = full
		}
	}
	if isDir {
		in[at] = nil
	}
}

func (in interests) add(dir, name string) {
	names, ok := in[dir]
	if ok && names == nil {
		return // all names matter already
	}
	if names == nil {
		names = map[string]bool{}
		in[dir] = names
	}
	names[name] = true
}
