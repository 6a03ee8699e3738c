package hostconfig

import (
	"io/fs"
)

// Op is a kind of Change.
type Op string

// The operations, in the order in which a plan has them.
const (
	// PublishFile writes a PEM file into SharedDir: Path, Mode, Data. Old is what the path holds now. It may be
	// anything but a directory; a rename replaces it.
	PublishFile Op = "publish file"
	// PublishDir makes a host directory that is not there: Path with Files, in one rename.
	PublishDir Op = "publish directory"
	// ReplaceFile writes a file in a host directory of ours, in one rename: Path, Mode, Data. Old is what the
	// path holds now; "" when it is missing. The directory exists.
	ReplaceFile Op = "replace file"
	// AdoptDir puts a directory with Files in the place of a foreign thing at Path, whose entries have the
	// fingerprints OldFiles, and keeps that thing for uninstall. It may be a directory, a symlink or a file. There
	// must be no moment without either: without a directory, containerd goes to upstream.
	AdoptDir Op = "adopt directory"
	// SetAside moves the foreign thing at Path (the other spelling of a host) out of the hosts directory and
	// keeps it for uninstall. OldFiles are its entries.
	SetAside Op = "set aside"
	// RemoveDir removes a host directory of ours and the files OldFiles in it. It holds nothing else; a thing that
	// came since must be left, and its directory too. The fingerprint of a file that is gone already is "", and the
	// directory may be gone as well: then they only have to leave the manifest.
	RemoveDir Op = "remove directory"
	// RemoveFile removes one file of ours and leaves the directory, which holds other people's files. Old is "" when
	// there is nothing to remove and the path only has to leave the manifest; the directory may then be a symlink.
	RemoveFile Op = "remove file"
	// RetireFile removes a PEM file that nothing names any more, after a delay: a pull that has already read the
	// old hosts.toml may still open it. Old is "" when it is gone already and only has to leave the manifest, and
	// the fingerprint of a directory when somebody put one there, which is left.
	RetireFile Op = "retire file"
)

// Change is one atomic, idempotent step. It says everything that is needed to take it. A file whose Old is already the
// hash of Data and whose mode is right need not be written, only recorded as ours.
type Change struct {
	Op Op
	// Host is the registry host; empty for what is shared.
	Host string
	// Path is the file or directory, slash-separated, in the hosts directory.
	Path string
	// Mode is the mode of the file to write, or DirMode.
	Mode fs.FileMode
	// Data is the content of the file to write.
	Data []byte
	// Files are the files of the directory to make, by their path in the hosts directory.
	Files Tree
	// Old is the fingerprint of what Path holds before the step, "" for nothing.
	Old string
	// OldFiles are the fingerprints of what the directory Path holds before the step, by path in the hosts
	// directory. For a Path that is no directory it has one element, Path itself.
	OldFiles map[string]string
}

// Conflict is a thing in the hosts directory that somebody else put where hotplate has to write.
type Conflict struct {
	// Host is the registry host; empty when it concerns all.
	Host string
	// Path is the foreign thing, in the hosts directory.
	Path string
	// Reason says what is wrong.
	Reason string
	// Action says what a person should do.
	Action string
	// Blocking is set when the plan has no changes for Host. Otherwise hotplate's own directory is in place and
	// is kept right.
	Blocking bool
}

// Drift is a thing of ours that is not as we left it. The plan repairs all but strays.
type Drift struct {
	Kind DriftKind
	Host string
	// Path is the file, in the hosts directory.
	Path string
	// Mode is the mode of what is there now.
	Mode fs.FileMode
	// Fingerprint is that of what is there now.
	Fingerprint string
	// Comment is the first comment line of what is there now, without its mark; it often names the program that
	// wrote it.
	Comment string
}

// DriftKind says how a thing differs.
type DriftKind string

// The kinds of drift.
const (
	// Changed means that a file of ours holds something else, or is something else.
	Changed DriftKind = "changed"
	// Missing means that a file of ours is gone.
	Missing DriftKind = "missing"
	// WrongMode means that a file of ours has another mode.
	WrongMode DriftKind = "wrong mode"
	// Stray means that there is a foreign file in a directory of ours. It is left alone.
	Stray DriftKind = "stray"
)

// OwnedFile is what the manifest says of one file that hotplate wrote.
type OwnedFile struct {
	// SHA256 are the hashes, in hex, of contents that count as ours: one, or two while a write is under way.
	SHA256 []string
	Mode   fs.FileMode
}

// Owned is the manifest: the files that hotplate wrote, by path in the hosts directory.
type Owned map[string]OwnedFile

// Plan is what has to be done. Each part is in a fixed order, so equal inputs give equal plans.
type Plan struct {
	Changes   []Change
	Conflicts []Conflict
	Drift     []Drift
}

// Empty reports whether there is nothing to change.
func (p Plan) Empty() bool { return len(p.Changes) == 0 }
