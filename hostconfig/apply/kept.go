package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// keptPath is where the foreign thing from p is kept.
func keptPath(p string) string { return keptDir + "/" + p }

// inode returns the inode number of name, 0 for nothing.
func (h *Host) inode(name string) (uint64, error) {
	info, err := h.hosts.Lstat(name)
	if absent(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.New("the operating system does not tell its inode number")
	}
	return st.Ino, nil
}

// adopt puts our directory at dir and the foreign thing that was there into keptDir, in one exchange of names. The
// foreign thing itself is not touched, so that nothing of it can be lost.
func (h *Host) adopt(c hostconfig.Change, k keptThing) error {
	t, err := h.build(c.Path, c.Files)
	if err != nil {
		return err
	}
	if err := h.linkAll(c.Path, t, k.Links); err != nil {
		return err
	}
	if err := h.makePrivate(keptDir); err != nil {
		return err
	}
	if err := h.unchanged(c); err != nil {
		return err
	}
	// Complete before it gets the name at which recover looks for it.
	err = h.hosts.Rename(t, keptPath(c.Path))
	if err == nil {
		err = h.hosts.Sync(keptDir)
	}
	if err == nil {
		err = h.hosts.Exchange(keptPath(c.Path), c.Path)
	}
	if err == nil {
		err = errors.Join(h.hosts.Sync("."), h.hosts.Sync(keptDir))
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		err = fmt.Errorf("%w: this file system cannot exchange two names; move the directory away by hand", err)
	}
	if err != nil {
		return h.fault("adopt", c.Path, err)
	}
	return nil
}

// linkAll gives the files of the foreign directory second names in ours.
func (h *Host) linkAll(dir, t string, links []string) error {
	made := map[string]bool{t: true}
	for _, p := range links {
		second := t + strings.TrimPrefix(p, dir)
		for _, parent := range parents(t, second) {
			if made[parent] {
				continue
			}
			if err := h.hosts.Mkdir(parent, hostconfig.DirMode); err != nil {
				return h.fault("adopt", p, err)
			}
			made[parent] = true
		}
		if err := h.hosts.Link(p, second); err != nil {
			return h.fault("adopt", p, err)
		}
	}
	for _, d := range slices.Sorted(maps.Keys(made)) {
		if err := h.hosts.Sync(d); err != nil {
			return h.fault("adopt", dir, err)
		}
	}
	return nil
}

// parents returns the directories between top and p, outermost first, without either.
func parents(top, p string) []string {
	var dirs []string
	for d := path.Dir(p); len(d) > len(top); d = path.Dir(d) {
		dirs = append([]string{d}, dirs...)
	}
	return dirs
}

// unchanged checks that the foreign thing is still what the plan was made for.
func (h *Host) unchanged(c hostconfig.Change) error {
	obs, err := hostconfig.Observe(h.hosts.FS())
	if err != nil {
		return h.fault("read", ".", err)
	}
	now := map[string]string{}
	for p, e := range obs.Entries {
		if strings.HasPrefix(p, c.Path+"/") || p == c.Path && e.Kind != hostconfig.KindDir {
			now[p] = e.Fingerprint()
		}
	}
	if !maps.Equal(now, c.OldFiles) {
		return h.fault("adopt", c.Path, errors.New("somebody changed it meanwhile; it will be looked at again"))
	}
	return nil
}

// setAside moves a foreign host directory that containerd does not look at any more into keptDir.
func (h *Host) setAside(dir string) error {
	if err := h.makePrivate(keptDir); err != nil {
		return err
	}
	err := h.hosts.Rename(dir, keptPath(dir))
	if err == nil {
		err = errors.Join(h.hosts.Sync(keptDir), h.hosts.Sync("."))
	}
	if err != nil {
		return h.fault("set aside", dir, err)
	}
	return nil
}

// restore puts a kept thing back where it was. Where somebody else has put something since, both stay as they are and
// the reason is returned.
func (h *Host) restore(dir string, k keptThing) (left string, err error) {
	info, err := h.hosts.Lstat(dir)
	if err != nil && !absent(err) {
		return "", h.fault("restore", dir, err)
	}
	switch {
	case err != nil:
		err = h.hosts.Rename(keptPath(dir), dir)
	case !info.IsDir() || dir != k.For:
		return "it was put there after hotplate moved the original to " + h.path(keptPath(dir)), nil
	default:
		hash, herr := h.hash(dir + "/" + hostconfig.HostsTOML)
		if herr != nil {
			return "", h.fault("restore", dir, herr)
		}
		if hash != "" && !h.m.ours(dir+"/"+hostconfig.HostsTOML, hash) {
			return "its " + hostconfig.HostsTOML + " was changed; the original is in " + h.path(keptPath(dir)), nil
		}
		err = h.hosts.Exchange(keptPath(dir), dir)
	}
	if err == nil {
		err = errors.Join(h.hosts.Sync("."), h.hosts.Sync(keptDir))
	}
	if err != nil {
		return "", h.fault("restore", dir, err)
	}
	return "", h.discard(dir, k)
}

// discard deletes our own directory after it changed places with the foreign one, which is at dir now. Files that
// somebody put into ours move to the foreign one where their names are free; others stay.
func (h *Host) discard(dir string, k keptThing) error {
	if err := h.discardTree(dir, k); err != nil && !absent(err) {
		return h.fault("remove", keptPath(dir), err)
	}
	if err := h.hosts.Sync(keptDir); err != nil && !absent(err) {
		return h.fault("remove", keptPath(dir), err)
	}
	return nil
}

func (h *Host) discardTree(p string, k keptThing) error {
	info, err := h.hosts.Lstat(keptPath(p))
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return h.discardFile(p, k)
	}
	names, err := h.hosts.List(keptPath(p))
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := h.discardTree(p+"/"+n, k); err != nil {
			return err
		}
	}
	err = h.hosts.Remove(keptPath(p))
	if notEmpty(err) {
		h.cfg.Log.Warn("somebody else's files stay where hotplate moved them", "path", h.path(keptPath(p)))
		return nil
	}
	return err
}

func (h *Host) discardFile(p string, k keptThing) error {
	hash, err := h.hash(keptPath(p))
	if err != nil {
		return err
	}
	there, err := h.hosts.Lstat(p)
	if err != nil && !absent(err) {
		return err
	}
	link := false
	if err == nil && slices.Contains(k.Links, p) {
		second, err := h.hosts.Lstat(keptPath(p))
		if err != nil {
			return err
		}
		link = sameFile(there, second)
	}
	switch {
	case link || h.m.ours(p, hash):
		return h.hosts.Remove(keptPath(p))
	case err == nil:
		return nil // its name is taken
	}
	if err := h.hosts.Rename(keptPath(p), p); err != nil {
		if absent(err) {
			return nil // the original has no such directory
		}
		return err
	}
	return h.hosts.Sync(path.Dir(p))
}

func sameFile(a, b fs.FileInfo) bool {
	sa, ok := a.Sys().(*syscall.Stat_t)
	sb, ok2 := b.Sys().(*syscall.Stat_t)
	return ok && ok2 && sa.Dev == sb.Dev && sa.Ino == sb.Ino
}

// unlink removes the second names that adopt made, where they still are.
func (h *Host) unlink(dir string, k keptThing) error {
	dirs := map[string]bool{dir: true}
	for _, p := range k.Links {
		for _, d := range parents(dir, p) {
			dirs[d] = true
		}
		link, err := h.hosts.Lstat(p)
		if absent(err) {
			continue
		}
		kept, kerr := h.hosts.Lstat(keptPath(p))
		if absent(kerr) {
			continue // without the original this is the last name, and no longer ours to remove
		}
		err = errors.Join(err, kerr)
		if err == nil && sameFile(link, kept) {
			err = h.hosts.Remove(p)
		}
		if err != nil {
			return h.fault("remove", p, err)
		}
	}
	for _, d := range slices.Backward(slices.Sorted(maps.Keys(dirs))) {
		err := h.hosts.Sync(d)
		if err == nil && d != dir {
			err = h.hosts.Remove(d)
		}
		if err != nil && !absent(err) && !notEmpty(err) {
			return h.fault("remove", d, err)
		}
	}
	if err := h.hosts.Sync(dir); err != nil && !absent(err) {
		return h.fault("remove", dir, err)
	}
	return nil
}

// settleKept finds out for every kept thing on which side of the move a crash has left it. Adoptions that did not come
// to the exchange, and restorations that did, are ended here: the foreign thing is in its place.
func (h *Host) settleKept() error {
	for dir, k := range h.m.Kept {
		moved, err := h.moved(dir, k)
		if err != nil {
			return h.fault("read", dir, err)
		}
		if moved {
			continue
		}
		if err := h.discard(dir, k); err != nil {
			return err
		}
		delete(h.m.Kept, dir)
		if err := h.disownAt(dir, k); err != nil {
			return h.fault("read", dir, err)
		}
	}
	return nil
}

// disownAt takes what is not ours at dir out of the manifest: the foreign thing is there.
func (h *Host) disownAt(dir string, k keptThing) error {
	here, err := h.inode(dir)
	if err != nil {
		return err
	}
	for p := range h.m.Files {
		if path.Dir(p) != dir {
			continue
		}
		hash, err := h.hash(p)
		if err != nil {
			return err
		}
		if here == k.Inode || !h.m.ours(p, hash) {
			delete(h.m.Files, p)
		}
	}
	return nil
}

// moved reports whether the foreign thing from dir is in keptDir. Our hosts.toml tells, or else, as the foreign one may
// have the same bytes, the inode number; where neither does (a copied file system has other numbers), it is taken for
// moved, because then nothing is deleted.
func (h *Host) moved(dir string, k keptThing) (bool, error) {
	there, err := h.inode(keptPath(dir))
	if err != nil || there == 0 {
		return false, err
	}
	if dir != k.For {
		return true, nil // set aside by a plain rename: nothing of ours was ever at that name
	}
	here, err := h.inode(dir)
	if err != nil {
		return false, err
	}
	const file = "/" + hostconfig.HostsTOML
	hereHash, err := h.hash(dir + file)
	if err != nil {
		return false, err
	}
	thereHash, err := h.hash(keptPath(dir) + file)
	if err != nil {
		return false, err
	}
	oursHere, oursThere := h.m.ours(dir+file, hereHash), h.m.ours(dir+file, thereHash)
	if oursHere != oursThere {
		return oursHere, nil
	}
	return here != k.Inode, nil
}
