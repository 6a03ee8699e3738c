package apply

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

const (
	manifestName    = "manifest.json"
	manifestTemp    = manifestName + ".tmp"
	manifestVersion = 1
	maxManifest     = 16 << 20
)

// manifest says what in the hosts directory is hotplate's. It is written before every step that changes the host, and
// is then true of the disk at every moment of the step; after the step it is narrowed to what is there.
type manifest struct {
	Version  int    `json:"version"`
	HostsDir string `json:"hostsDir"`
	// Made are the directories that were made so that HostsDir exists, outermost first, by absolute path.
	Made []string `json:"made,omitempty"`
	// Files are the files of ours, by path in the hosts directory.
	Files map[string]ownedFile `json:"files,omitempty"`
	// Kept are the foreign things that were moved out of the way, by the path they came from. They lie in keptDir
	// under that path.
	Kept map[string]keptThing `json:"kept,omitempty"`
	// Aside says when foreign directories may be set aside that containerd has just stopped looking at.
	Aside map[string]time.Time `json:"aside,omitempty"`
	// Temporary are the host directories of PublishTemporary: hashes of their files by path.
	Temporary map[string]map[string]string `json:"temporary,omitempty"`
}

// ownedFile is one file that hotplate wrote, or is about to write.
type ownedFile struct {
	// SHA256 are the contents that are ours, in hex: one, or all that may be there during a step.
	SHA256 []string    `json:"sha256"`
	Mode   fs.FileMode `json:"mode"`
	// Pending is set while a step on this path has begun and was not seen to end.
	Pending bool `json:"pending,omitempty"`
	// New is set during the first step on a path. What is there counts as ours only if its hash is listed.
	New bool `json:"new,omitempty"`
	// Retire is when a file that is no longer wanted may go; zero for a file that is wanted.
	Retire time.Time `json:"retire,omitzero"`
}

// keptThing is a file, directory or symbolic link of somebody else.
type keptThing struct {
	// Inode is its inode number. It tells on which side of the move the thing is.
	Inode uint64 `json:"inode"`
	// For is the host directory of ours that it made way for, and is put back with.
	For string `json:"for"`
	// Links are second names of its files, in our directory at its place, for loads that had read the foreign
	// hosts.toml. They go at LinksUntil.
	Links      []string  `json:"links,omitempty"`
	LinksUntil time.Time `json:"linksUntil,omitzero"`
}

func newManifest(hostsDir string) *manifest {
	return &manifest{
		Version: manifestVersion, HostsDir: hostsDir, Files: map[string]ownedFile{}, Kept: map[string]keptThing{},
		Temporary: map[string]map[string]string{},
	}
}

// empty reports whether the manifest claims nothing below the hosts directory.
func (m *manifest) empty() bool {
	return len(m.Files) == 0 && len(m.Kept) == 0 && len(m.Temporary) == 0
}

// owned is the manifest as hostconfig.Diff wants it.
func (m *manifest) owned() hostconfig.Owned {
	owned := hostconfig.Owned{}
	for p, f := range m.Files {
		owned[p] = hostconfig.OwnedFile{SHA256: f.SHA256, Mode: f.Mode}
	}
	return owned
}

// claim says that path is about to hold f.
func (m *manifest) claim(p string, f hostconfig.File) {
	o, had := m.Files[p]
	hash := f.SHA256()
	if !slices.Contains(o.SHA256, hash) {
		o.SHA256 = append(slices.Clone(o.SHA256), hash)
	}
	m.Files[p] = ownedFile{SHA256: o.SHA256, Mode: f.Mode, Pending: true, New: !had || o.New}
}

// settled says that path holds f and nothing else may be there.
func (m *manifest) settled(p string, f hostconfig.File) {
	m.Files[p] = ownedFile{SHA256: []string{f.SHA256()}, Mode: f.Mode}
}

// begin says that a step is about to take path away.
func (m *manifest) begin(p string) {
	if o, ok := m.Files[p]; ok {
		o.Pending = true
		m.Files[p] = o
	}
}

// ours reports whether fingerprint is that of a content that hotplate wrote to path.
func (m *manifest) ours(p, fingerprint string) bool {
	return slices.Contains(m.Files[p].SHA256, fingerprint)
}

// hostDirs are the directories that the manifest's files and kept things are in, sorted.
func (m *manifest) hostDirs() []string {
	dirs := map[string]bool{}
	for p := range m.Files {
		dirs[path.Dir(p)] = true
	}
	for p := range m.Kept {
		dirs[p] = true
	}
	return slices.Sorted(maps.Keys(dirs))
}

func (m *manifest) encode() ([]byte, error) {
	data, err := json.MarshalIndent(m, "", "  ")
	return append(data, '\n'), err
}

// load reads the manifest and makes it durable: a process that died may have left it in the page cache only.
func (h *Host) load() error {
	h.saved = nil
	if err := h.state.Remove(manifestTemp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return h.stateFault("remove", manifestTemp, err)
	}
	data, err := h.state.ReadFile(manifestName, maxManifest)
	m := newManifest(h.cfg.HostsDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		data = nil
	case err != nil:
		return h.stateFault("read", manifestName, err)
	default:
		if err := m.decode(data); err != nil {
			return fmt.Errorf("read %q: %w: restore the file; or move it away, and hotplate takes what is in %q for "+
				"somebody else's", h.statePath(manifestName), err, h.cfg.HostsDir)
		}
	}
	if m.HostsDir != h.cfg.HostsDir {
		if !m.empty() {
			return fmt.Errorf("state directory %q belongs to hosts directory %q, not to %q: uninstall from the first, "+
				"or use another state directory", h.cfg.StateDir, m.HostsDir, h.cfg.HostsDir)
		}
		m = newManifest(h.cfg.HostsDir)
	}
	if err := h.state.Sync("."); err != nil {
		return h.stateFault("sync", ".", err)
	}
	h.m, h.saved = m, data
	return nil
}

func (m *manifest) decode(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(m); err != nil {
		return err
	}
	if m.Version != manifestVersion {
		return fmt.Errorf("it has version %d, this hotplate knows %d", m.Version, manifestVersion)
	}
	if m.Files == nil || m.Kept == nil || m.Temporary == nil {
		return errors.New("it has null for a map")
	}
	for p := range m.Files {
		if !validFile(p) {
			return fmt.Errorf("it names the file %q, which cannot be one of hotplate's", p)
		}
	}
	for p, k := range m.Kept {
		if !validDir(p) || !validDir(k.For) {
			return fmt.Errorf("it names the host directory %q, which cannot be one", p)
		}
	}
	for dir, files := range m.Temporary {
		if !validDir(dir) {
			return fmt.Errorf("it names the host directory %q, which cannot be one", dir)
		}
		for p := range files {
			if !validFile(p) || path.Dir(p) != dir {
				return fmt.Errorf("it names the file %q, which cannot be one of hotplate's", p)
			}
		}
	}
	return nil
}

// save writes the manifest durably. The host may be changed only after it returned nil.
func (h *Host) save() error {
	data, err := h.m.encode()
	if err != nil {
		return err
	}
	if bytes.Equal(data, h.saved) {
		return nil
	}
	h.saved = nil // until the end it is not known what a power loss would leave
	if err := h.state.Create(manifestTemp, data, 0o600); err != nil {
		_ = h.state.Remove(manifestTemp) // it holds space, perhaps the last; load removes it too
		return h.stateFault("write", manifestTemp, err)
	}
	if err := h.state.Rename(manifestTemp, manifestName); err != nil {
		_ = h.state.Remove(manifestTemp)
		return h.stateFault("write", manifestName, err)
	}
	if err := h.state.Sync("."); err != nil {
		return h.stateFault("write", manifestName, err)
	}
	h.saved = data
	return nil
}
