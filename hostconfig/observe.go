package hostconfig

import (
	"io/fs"
)

// Bounds of what Observe reads.
const (
	// MaxFileSize is the size in bytes of the largest file whose content is read.
	MaxFileSize = 1 << 20
	// MaxEntries is the number of files and directories that a hosts directory may hold.
	MaxEntries = 20_000
	// MaxTotalSize bounds the content of all files together, in bytes.
	MaxTotalSize = 64 << 20
	// MaxDepth is how many directories deep Observe looks; containerd itself looks one deep.
	MaxDepth = 8
)

// Kind says what an entry of the hosts directory is.
type Kind string

// The kinds of entries.
const (
	KindFile Kind = "file"
	KindDir  Kind = "directory"
	// KindSymlink is never followed.
	KindSymlink Kind = "symlink"
	// KindOther is a device, a socket or a pipe; it is never opened.
	KindOther Kind = "special file"
)

// Entry is one thing found in the hosts directory.
type Entry struct {
	Kind Kind
	// Mode has the permission bits, and setuid, setgid and sticky.
	Mode fs.FileMode
	// Size is the file's size in bytes.
	Size int64
	// SHA256 is the hash of Data in hex; empty for what was not read.
	SHA256 string
	// Data is the file's content; nil for what was not read.
	Data []byte
	// TooLarge is set for a file of more than MaxFileSize bytes, which is not read.
	TooLarge bool
	// Unreadable says why a file or directory could not be read.
	Unreadable string
	// Target is where a symlink points; empty where that could not be read.
	Target string
}

// Fingerprint tells entries apart by what they are and hold, not by their mode: the SHA-256 in hex of a file that was
// read, otherwise a word and what is known. An absent entry has the fingerprint "".
func (e Entry) Fingerprint() string { return e.SHA256 }

// Observed is what a hosts directory holds: entries by their slash-separated path in it.
type Observed struct {
	Entries map[string]Entry
}
