package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// Directories of our own in hostconfig.SharedDir.
const (
	// tempDir holds what is being written or being deleted. All of it may go whenever no step is under way.
	tempDir = hostconfig.SharedDir + "/tmp"
	// keptDir holds the foreign things that were moved out of the way.
	keptDir = hostconfig.SharedDir + "/kept"
	// privateMode keeps others out of both: kept things may hold keys that a closed directory protected.
	privateMode fs.FileMode = 0o700
)

// makePrivate makes tempDir or keptDir if it is missing.
func (h *Host) makePrivate(dir string) error {
	if err := h.makeIfMissing(hostconfig.SharedDir, hostconfig.DirMode); err != nil {
		return err
	}
	return h.makeIfMissing(dir, privateMode)
}

func (h *Host) makeIfMissing(dir string, mode fs.FileMode) error {
	info, err := h.hosts.Lstat(dir)
	if err == nil && info.IsDir() {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("something that is no directory is in its place: %w", fs.ErrExist)
	}
	if absent(err) {
		err = h.hosts.Mkdir(dir, mode)
	}
	if err == nil {
		err = h.hosts.Sync(path.Dir(dir))
	}
	if err != nil {
		return h.fault("make", dir, err)
	}
	return nil
}

// temp returns a free name in tempDir.
func (h *Host) temp() (string, error) {
	if err := h.makePrivate(tempDir); err != nil {
		return "", err
	}
	h.serial++
	return tempDir + "/" + strconv.Itoa(h.serial), nil
}

// put makes name hold f in one step that survives a power loss when put returns. The directory exists. Whatever
// file or symbolic link was there is replaced.
func (h *Host) put(name string, f hostconfig.File) error {
	t, err := h.temp()
	if err != nil {
		return err
	}
	if err = h.hosts.Create(t, f.Data, f.Mode); err == nil {
		err = h.hosts.Rename(t, name)
	}
	if err == nil {
		err = h.hosts.Sync(path.Dir(name))
	}
	if err != nil {
		return h.fault("write", name, err)
	}
	return nil
}

// build makes a complete, durable directory in tempDir that is meant to become dir, and returns its name.
func (h *Host) build(dir string, files hostconfig.Tree) (string, error) {
	t, err := h.temp()
	if err != nil {
		return "", err
	}
	if err := h.hosts.Mkdir(t, hostconfig.DirMode); err != nil {
		return "", h.fault("make", dir, err)
	}
	for _, p := range files.Paths() {
		if err := h.hosts.Create(t+strings.TrimPrefix(p, dir), files[p].Data, files[p].Mode); err != nil {
			return "", h.fault("write", p, err)
		}
	}
	if err := h.hosts.Sync(t); err != nil {
		return "", h.fault("write", dir, err)
	}
	return t, nil
}

// publish puts a complete directory where there is none: containerd takes an empty one as a reason not to look at
// _default.
func (h *Host) publish(dir string, files hostconfig.Tree) error {
	t, err := h.build(dir, files)
	if err != nil {
		return err
	}
	if err := h.hosts.Rename(t, dir); err != nil {
		return h.fault("publish", dir, err)
	}
	if err := h.hosts.Sync("."); err != nil {
		return h.fault("publish", dir, err)
	}
	return nil
}

// withdraw removes a host directory in one step, for the same reason, and then deletes what ours says is ours. When
// somebody else's file has come into it, the rest goes back to its place and left is true.
func (h *Host) withdraw(dir string, ours func(p, hash string) bool) (left bool, err error) {
	t, err := h.temp()
	if err != nil {
		return false, err
	}
	if err := h.hosts.Rename(dir, t); err != nil {
		return false, h.fault("remove", dir, err)
	}
	if err := h.hosts.Sync("."); err != nil {
		return false, h.fault("remove", dir, err)
	}
	names, err := h.hosts.List(t)
	if err != nil {
		return false, h.fault("remove", dir, err)
	}
	for _, name := range names {
		hash, err := h.hash(t + "/" + name)
		if err == nil && ours(dir+"/"+name, hash) {
			err = h.hosts.Remove(t + "/" + name)
		}
		if err != nil {
			return false, h.fault("remove", dir+"/"+name, err)
		}
	}
	err = h.hosts.Remove(t)
	if notEmpty(err) {
		left = true
		if err = h.hosts.Rename(t, dir); err == nil {
			err = h.hosts.Sync(".")
		}
	}
	if err != nil {
		return left, h.fault("remove", dir, err)
	}
	return left, nil
}

// remove removes one file for good.
func (h *Host) remove(name string) error {
	err := h.hosts.Remove(name)
	if err == nil || absent(err) {
		err = h.hosts.Sync(path.Dir(name))
	}
	if err != nil {
		return h.fault("remove", name, err)
	}
	return nil
}

// cleanTemp removes what steps that did not end have left in tempDir.
func (h *Host) cleanTemp() error {
	if err := h.removeTree(tempDir); err != nil && !absent(err) {
		return h.fault("remove", tempDir, err)
	}
	return nil
}

// removeTree removes name and everything below it, without following links.
func (h *Host) removeTree(name string) error {
	info, err := h.hosts.Lstat(name)
	if err != nil {
		return err
	}
	if info.IsDir() {
		names, err := h.hosts.List(name)
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := h.removeTree(name + "/" + n); err != nil {
				return err
			}
		}
	}
	return h.hosts.Remove(name)
}

// hash returns the SHA-256 of a regular file in hex, "" for nothing, and a word for whatever else there is. It agrees
// with the fingerprint of hostconfig.Entry wherever that is a hash.
func (h *Host) hash(name string) (string, error) {
	info, err := h.hosts.Lstat(name)
	switch {
	case absent(err):
		return "", nil
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "not a file", nil
	}
	data, err := h.hosts.ReadFile(name, hostconfig.MaxFileSize)
	switch {
	case absent(err):
		return "", nil
	case errors.Is(err, errTooLarge):
		return "too large", nil
	case err != nil:
		return "", err
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}
