package apply

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// plan finds out what has to be done, and widens the manifest such that it is true of the disk at every moment of it.
// It changes nothing on disk.
func (tx *transaction) plan() error {
	h := tx.h
	var err error
	if tx.observed, err = h.observe(); err != nil {
		return err
	}
	plan := hostconfig.Diff(tx.observed, h.m.owned(), tx.desired, tx.adopt)
	tx.receipt.Conflicts, tx.receipt.Drift = plan.Conflicts, plan.Drift
	aside := map[string]time.Time{}
	for _, c := range plan.Changes {
		if tx.skip[hostOf(c.Path)] && c.Op != hostconfig.PublishFile && c.Op != hostconfig.RetireFile {
			continue
		}
		switch c.Op {
		case hostconfig.PublishFile, hostconfig.ReplaceFile:
			tx.write(c)
		case hostconfig.PublishDir:
			tx.publish(c)
		case hostconfig.AdoptDir:
			tx.take(c)
		case hostconfig.SetAside:
			tx.setAside(c, aside)
		case hostconfig.RemoveDir, hostconfig.RemoveFile:
			tx.remove(c)
		case hostconfig.RetireFile:
			tx.retire(c)
		}
	}
	h.m.Aside = aside
	for p := range tx.desired {
		if f, ok := h.m.Files[p]; ok && !f.Retire.IsZero() { // wanted again
			f.Retire = time.Time{}
			h.m.Files[p] = f
		}
	}
	tx.putBack()
	tx.unlink()
	return nil
}

// write plans a file in a directory that exists, or in SharedDir.
func (tx *transaction) write(c hostconfig.Change) {
	f := hostconfig.File{Mode: c.Mode, Data: c.Data}
	s := step{path: c.Path, phase: writeDirs, done: func() { tx.h.m.settled(c.Path, f) }}
	if c.Op == hostconfig.PublishFile {
		s.phase = writeShared
	}
	if c.Old != f.SHA256() || tx.observed.Entries[c.Path].Mode != c.Mode {
		s.run = func() error {
			if err := tx.h.makeIfMissing(path.Dir(c.Path), hostconfig.DirMode); err != nil {
				return err
			}
			return tx.h.put(c.Path, f)
		}
	}
	tx.h.m.claim(c.Path, f)
	tx.add(s)
}

// claimAll claims the files of a directory and returns what settles them.
func (tx *transaction) claimAll(files hostconfig.Tree) (done func()) {
	for p, f := range files {
		tx.h.m.claim(p, f)
	}
	return func() {
		for p, f := range files {
			tx.h.m.settled(p, f)
		}
	}
}

// publish plans a directory that does not exist.
func (tx *transaction) publish(c hostconfig.Change) {
	tx.add(step{
		path: c.Path, phase: writeDirs, done: tx.claimAll(c.Files),
		run: func() error { return tx.h.publish(c.Path, c.Files) },
	})
}

// take plans an adoption.
func (tx *transaction) take(c hostconfig.Change) {
	k, err := tx.keep(c, c.Path)
	if err != nil {
		tx.add(step{path: c.Path, phase: writeDirs, run: func() error { return err }})
		return
	}
	for p := range c.OldFiles {
		kind := tx.observed.Entries[p].Kind
		if p != c.Path && p != c.Path+"/"+hostconfig.HostsTOML &&
			(kind == hostconfig.KindFile || kind == hostconfig.KindSymlink) {
			k.Links = append(k.Links, p)
		}
	}
	slices.Sort(k.Links)
	if len(k.Links) > 0 {
		k.LinksUntil = tx.now.Add(tx.delay)
	}
	done := tx.claimAll(c.Files)
	tx.h.m.Kept[c.Path] = k
	tx.add(step{path: c.Path, phase: writeDirs, done: done, run: func() error { return tx.h.adopt(c, k) }})
}

// keep returns the record of a foreign thing that makes way for our directory forDir.
func (tx *transaction) keep(c hostconfig.Change, forDir string) (keptThing, error) {
	h := tx.h
	ino, err := h.inode(c.Path)
	if err != nil {
		return keptThing{}, h.fault("read", c.Path, err)
	}
	occupied, err := h.inode(keptPath(c.Path))
	if err != nil {
		return keptThing{}, h.fault("read", keptPath(c.Path), err)
	}
	if occupied != 0 {
		return keptThing{}, h.fault("adopt", c.Path, fmt.Errorf(
			"hotplate keeps an earlier thing of that name as %q: remove one of the two", h.path(keptPath(c.Path))))
	}
	return keptThing{Inode: ino, For: forDir}, nil
}

// setAside plans the other spelling of a host. It waits for the loads that saw it before ours was there.
func (tx *transaction) setAside(c hostconfig.Change, aside map[string]time.Time) {
	if _, ok := tx.h.m.Kept[c.Path]; ok {
		tx.leave(c.Path, "somebody has put it there again after hotplate set it aside; containerd does not look at it")
		return
	}
	until := tx.due(tx.h.m.Aside[c.Path])
	if !tx.now.Before(until) {
		k, err := tx.keep(c, hostconfig.HostDir(c.Host))
		if err != nil {
			tx.add(step{path: c.Path, phase: removeDirs, run: func() error { return err }})
			return
		}
		tx.h.m.Kept[c.Path] = k
		tx.add(step{path: c.Path, phase: removeDirs, run: func() error { return tx.h.setAside(c.Path) }})
		return
	}
	aside[c.Path] = until
}

// due returns when something may go that was to go at until, which is zero when that is decided only now. A clock that
// was set back does not make it wait for longer than the delay.
func (tx *transaction) due(until time.Time) time.Time {
	latest := tx.now.Add(tx.delay)
	switch {
	case tx.force:
		return tx.now
	case until.IsZero() || until.After(latest):
		return latest
	default:
		return until
	}
}

// remove plans the end of a host directory, or of our file in somebody else's.
func (tx *transaction) remove(c hostconfig.Change) {
	h := tx.h
	files := c.OldFiles
	dir := c.Path
	if c.Op == hostconfig.RemoveFile {
		files, dir = map[string]string{c.Path: c.Old}, path.Dir(c.Path)
	}
	if _, ok := h.m.Kept[dir]; ok {
		return // putBack does it
	}
	gone := true
	for p, old := range files {
		if old != "" && !h.m.ours(p, old) {
			tx.leave(p, "it was changed since hotplate wrote it")
			tx.disown(files)
			return
		}
		gone = gone && old == ""
	}
	if gone {
		tx.disown(files)
		return
	}
	for p := range files {
		h.m.begin(p)
	}
	tx.add(step{path: c.Path, phase: removeDirs, done: func() { tx.disown(files) }, run: func() error {
		if c.Op == hostconfig.RemoveFile {
			return h.remove(c.Path)
		}
		left, err := h.withdraw(c.Path, h.m.ours)
		if left {
			tx.leave(c.Path, "it holds files that somebody else put there")
		}
		return err
	}})
	if c.Op == hostconfig.RemoveFile {
		tx.leave(dir, "it holds files that somebody else put there")
	}
}

func (tx *transaction) disown(files map[string]string) {
	for p := range files {
		delete(tx.h.m.Files, p)
	}
}

// retire plans the end of a file that nothing names any more.
func (tx *transaction) retire(c hostconfig.Change) {
	h := tx.h
	f := h.m.Files[c.Path]
	switch {
	case c.Old == "":
		delete(h.m.Files, c.Path)
		return
	case !h.m.ours(c.Path, c.Old):
		delete(h.m.Files, c.Path)
		tx.leave(c.Path, "it was changed since hotplate wrote it")
		return
	}
	switch user, skipped := tx.user(c.Path); {
	case skipped:
		f.Retire = time.Time{} // the delay begins when it is no longer named
	case user != "":
		delete(h.m.Files, c.Path)
		tx.leave(c.Path, "it is named in "+h.path(user)+", which hotplate did not write")
		return
	}
	f.Retire = tx.due(f.Retire)
	h.m.Files[c.Path] = f
	if tx.now.Before(f.Retire) {
		return
	}
	h.m.begin(c.Path)
	tx.add(step{
		path: c.Path, phase: retire, run: func() error { return h.remove(c.Path) },
		done: func() { delete(h.m.Files, c.Path) },
	})
}

// user returns a hosts.toml that names the PEM file and is not ours, "" for none; or skipped when one of ours names it
// that is to stay as it is.
func (tx *transaction) user(pem string) (foreign string, skipped bool) {
	for p, e := range tx.observed.Entries {
		if path.Base(p) != hostconfig.HostsTOML || !strings.Contains(string(e.Data), path.Base(pem)) {
			continue
		}
		if _, ours := tx.h.m.Files[p]; !ours {
			foreign = p
		} else if tx.skip[hostOf(p)] {
			skipped = true
		}
	}
	return foreign, skipped
}

// putBack plans the return of the things that made way for a directory that is no longer wanted.
func (tx *transaction) putBack() {
	h := tx.h
	for _, dir := range slices.Sorted(maps.Keys(h.m.Kept)) {
		k := h.m.Kept[dir]
		_, wanted := tx.desired[k.For+"/"+hostconfig.HostsTOML]
		if wanted || tx.skip[hostOf(k.For)] {
			continue
		}
		files := map[string]string{}
		for p := range h.m.Files {
			if path.Dir(p) == dir {
				files[p] = ""
				h.m.begin(p)
			}
		}
		tx.add(step{path: dir, phase: putBack, run: func() error {
			reason, err := h.restore(dir, k)
			if reason != "" {
				tx.leave(dir, reason)
			}
			return err
		}, done: func() {
			tx.disown(files)
			delete(h.m.Kept, dir)
		}})
	}
}

// unlink plans the end of the second names of adopted files.
func (tx *transaction) unlink() {
	h := tx.h
	for _, dir := range slices.Sorted(maps.Keys(h.m.Kept)) {
		k := h.m.Kept[dir]
		_, wanted := tx.desired[k.For+"/"+hostconfig.HostsTOML]
		if k.LinksUntil.IsZero() || !wanted || tx.skip[hostOf(dir)] {
			continue
		}
		k.LinksUntil = tx.due(k.LinksUntil)
		h.m.Kept[dir] = k
		if tx.now.Before(k.LinksUntil) {
			continue
		}
		tx.add(step{path: dir, phase: retire, run: func() error { return h.unlink(dir, k) }, done: func() {
			k.Links, k.LinksUntil = nil, time.Time{}
			h.m.Kept[dir] = k
		}})
	}
}
