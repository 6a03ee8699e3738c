package hostconfig

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"maps"
	"slices"
	"strings"
)

// Names and modes in the hosts directory.
const (
	// SharedDir holds the PEM files of all host directories. Image references cannot name a host that begins with
	// a dot, so containerd never takes it for a host's directory.
	SharedDir = ".hotplate"
	// HostsTOML is the file in a host directory that containerd reads.
	HostsTOML = "hosts.toml"
	// DirMode is the mode of every directory that hotplate makes.
	DirMode fs.FileMode = 0o755

	publicMode  fs.FileMode = 0o644
	privateMode fs.FileMode = 0o600
)

// File is the content and the permission bits of one file.
type File struct {
	Mode fs.FileMode
	Data []byte
}

// SHA256 returns the hash of the content in hex.
func (f File) SHA256() string { return hashHex(f.Data) }

func hashHex(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Tree is what a hosts directory should hold: files by their slash-separated path in it. Directories are implied and
// have DirMode.
type Tree map[string]File

// Paths returns the paths in byte order.
func (t Tree) Paths() []string { return slices.Sorted(maps.Keys(t)) }

// HostDirs returns the names of the host directories in byte order.
func (t Tree) HostDirs() []string {
	dirs := map[string]bool{}
	for p := range t {
		if dir, _, ok := strings.Cut(p, "/"); ok && dir != SharedDir {
			dirs[dir] = true
		}
	}
	return slices.Sorted(maps.Keys(dirs))
}
