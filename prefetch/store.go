package prefetch

import (
	"context"
	"errors"
	"io"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Store is where images end up: containerd, or a memory store in tests. All methods are safe for concurrent use.
type Store interface {
	// State tells what the store has of an image. It asks no registry and changes nothing.
	State(ctx context.Context, q Query) (State, error)
	// Open begins or continues the work on one image. Until Close nothing that the session wrote or found is
	// collected; key is the same for every run for the same image.
	Open(ctx context.Context, key string) (Session, error)
	// Way tells how layers get in now. It changes at most when the daemon restarts.
	Way(ctx context.Context) (Way, error)
	// Space tells how much room there is now.
	Space(ctx context.Context) (Space, error)
	// Pin protects the image with this ID (the config's digest; the manifest's for an artifact) from the kubelet's garbage collection and marks the
	// pin as ours, with the bytes that it keeps. A pin that someone else set is left as it is.
	Pin(ctx context.Context, imageID digest.Digest, size int64) error
	// Size is what an image or artifact that is there takes on the disk in bytes, shared layers included. Layers whose blobs
	// were discarded count unpacked only.
	Size(ctx context.Context, st State) (int64, error)
	// Unpin removes the pin if it is ours; anything else, also an image that is gone, is left alone.
	Unpin(ctx context.Context, imageID digest.Digest) error
	// Pins are the images that carry a pin of ours.
	Pins(ctx context.Context) ([]Pin, error)
	// Remove removes the image with this ID under all its names, unless a container uses it or someone else has
	// pinned it; then it says so with an ErrInUse. An image that is gone is success.
	Remove(ctx context.Context, imageID digest.Digest) error
	// Watch calls changed, from one goroutine, after an image record was changed or removed, and returns when ctx ends
	// (nil) or the store can no longer tell.
	Watch(ctx context.Context, changed func()) error
	// Sweep removes what runs that died left behind, except for the keys that keep wants. Where the way is Direct it also
	// repairs blobs whose files were damaged.
	Sweep(ctx context.Context, keep func(key string) bool) error
	// Release removes what earlier sessions of the key have left, whatever they hold. None of them is open.
	Release(ctx context.Context, key string) error
}

// WayName names a way by which layers get into a store.
type WayName string

// The ways. Direct: hotplate lays out the layers itself, and the store adopts files and directories by link and rename.
// API: the bytes of a layer go through the store's content writer in order, and the store unpacks.
const (
	Direct WayName = "Direct"
	API    WayName = "API"
)

// Way is how layers get into the store, found out by looking at it.
type Way struct {
	Name WayName
	// Reason says why the direct way is closed; empty if it is open.
	Reason string
	// Staging is an existing directory for partial blobs, on the content store's filesystem. Trees is one on the
	// snapshotter's, in which layers are laid out. Both are ours alone. Where the way is closed, they are where leftovers
	// of the time may be when it was open, and empty if there is no such directory: only Name says whether it is open.
	Staging, Trees string
	// Discards tells whether the daemon is set to discard the blobs of unpacked layers. DiscardsKnown is false where
	// the daemon does not say.
	Discards, DiscardsKnown bool
}

// ProbePrefix is how the names of what a store makes in Way.Trees for its own use begin. It removes that itself.
const ProbePrefix = "probe-"

// Volume is a filesystem.
type Volume struct {
	// Path is a directory on it; empty if it cannot be looked at from here.
	Path string
	// Device tells filesystems apart.
	Device uint64
	// Size and Free are in bytes. Free is without what is kept for root: so does the kubelet count (imagefs.available).
	Size, Free int64
	// Inodes and FreeInodes are 0 where the filesystem does not count them.
	Inodes, FreeInodes int64
}

// Space is the room where layers go: compressed blobs and unpacked snapshots. They may be the same filesystem.
type Space struct {
	Content, Snapshots Volume
}

// DirectSession is what a Session can do beside when the store's way is Direct. Hold may be called by several goroutines
// at once, AddSnapshot by one at a time.
type DirectSession interface {
	Session
	// Hold keeps others, such as the kubelet's pull, from fetching the blob until it is released or adopted. It returns
	// ErrPresent if the blob is complete. If someone else is writing it, it calls waiting once and returns when
	// they have finished or given up. A daemon that restarts forgets the hold; Adopt works all the same.
	Hold(ctx context.Context, desc ocispec.Descriptor, waiting func()) (Hold, error)
	// OpenBlob opens a complete blob, straight from the disk where that is possible.
	OpenBlob(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
	// AddSnapshot makes the snapshot of a layer with this diff ID on top of the snapshot parent, which is empty for the
	// first one; its name is their chain ID. fill puts the layer's entries into upper; lowers are the directories of the
	// parents, nearest first. It is not called if the snapshot is there already. If someone else makes the same
	// snapshot meanwhile, that is success. A short absence of the daemon after fill is waited for. Afterwards name and
	// parent are looked at. On failure nothing half-made stays, nor what fill moved into upper; with ErrAway it goes when
	// the next session of the same key is opened.
	AddSnapshot(ctx context.Context, layer LayerSnapshot, fill func(upper string, lowers []string) error) error
	// Unpacked lets the config hold the last snapshot, so that it is not collected.
	Unpacked(ctx context.Context, config ocispec.Descriptor, chain digest.Digest) error
}

// LayerSnapshot names the snapshot of one layer.
type LayerSnapshot struct {
	// Chain is the snapshot's name, the chain ID of Parent and DiffID. Parent is empty for the first layer.
	Chain, Parent, DiffID digest.Digest
	// Annotations are those of the layer's descriptor. Some become labels of the snapshot.
	Annotations map[string]string
}

// Hold is a blob that nobody else fetches meanwhile. It is used by one goroutine.
type Hold interface {
	// Adopt makes the file at path, which is on Way.Staging's filesystem, the content of the blob, by a hard link. The
	// caller has verified its digest and made it durable. The file at path stays, read-only and with the blob as its
	// other name; nobody may write to it any more. diffID is recorded with it, unless it is empty. The hold is
	// released, also on failure; after ErrAway the caller takes a new one.
	Adopt(ctx context.Context, path string, diffID digest.Digest) error
	// Release lets go without the blob. After Adopt it does nothing.
	Release()
}

// Session is the work on one image. Blob may be called by several goroutines at once; the rest is called in order.
type Session interface {
	// Has tells whether the blob is complete in the store, and protects it until Close.
	Has(ctx context.Context, desc ocispec.Descriptor) (bool, error)
	// HasSnapshot tells whether the snapshot with this chain ID is there, committed, and protects it until Close.
	HasSnapshot(ctx context.Context, chain digest.Digest) (bool, error)
	// Read returns a blob that Has reported, at most max bytes of it.
	Read(ctx context.Context, desc ocispec.Descriptor, max int64) ([]byte, error)
	// Blob opens the blob for writing. It returns ErrPresent if the blob is complete. If someone else is writing the
	// same blob, it calls waiting once and returns when they have finished or given up.
	Blob(ctx context.Context, desc ocispec.Descriptor, waiting func()) (BlobWriter, error)
	// Link records, after parent is complete, that it refers to children (so that they are not collected) and
	// from which repository it came.
	Link(ctx context.Context, ref string, parent ocispec.Descriptor, children []ocispec.Descriptor) error
	// Unpack makes the snapshots of the image, lets its config hold the last, and returns the chain ID of that. All blobs
	// are complete, but if State.Snapshot is true, those of the layers need not be there.
	Unpack(ctx context.Context, ref string, target ocispec.Descriptor, p platforms.MatchComparer) (digest.Digest, error)
	// Publish makes the names point at target, in order. Names that point elsewhere are moved.
	Publish(ctx context.Context, names []string, target ocispec.Descriptor) error
	// Keep is Publish for an artifact, whose blobs are complete and linked: it protects what target names from collection
	// under these names, without CRI taking it for an image. manifest is the one for the platform. A later Keep of the same
	// key replaces it, and a Sweep that does not keep the key ends it, unless the artifact is pinned.
	Keep(ctx context.Context, names []string, target ocispec.Descriptor, manifest digest.Digest) error
	// Close ends the session. With keep, what is unfinished stays for the next session of the same key, for a time
	// that the store bounds; without, it may be collected.
	Close(ctx context.Context, keep bool) error
}

// BlobWriter takes the bytes of one blob in order. It is used by one goroutine.
type BlobWriter interface {
	// Write appends p. It returns when the store has taken the bytes.
	Write(p []byte) (int, error)
	// Offset is how many bytes the store has.
	Offset() int64
	// Reset forgets the bytes written so far; the next Write starts at 0.
	Reset() error
	// Commit completes the blob. An error that is ErrDigest says that the bytes were not the blob's: they have been
	// discarded, and the writer is closed.
	Commit(ctx context.Context) error
	// Close ends the writing; what was written stays for a later Blob. It may be called after Commit.
	Close() error
}

// ErrPresent is returned by Session.Blob for a blob that is complete.
var ErrPresent = errors.New("blob is complete")

// ErrAway is joined to an error of a Store whose daemon does not answer. The call may be repeated when it is back.
var ErrAway = errors.New("containerd does not answer")

// ErrInUse is returned by Store.Remove for an image that somebody needs.
var ErrInUse = errors.New("image is in use")

// ErrDigest is returned by BlobWriter.Commit when the bytes do not have the blob's digest or size.
var ErrDigest = errors.New("content does not match its digest")

// Query asks for the state of an image.
type Query struct {
	// Names are normalised image names.
	Names []string
	// Target is the digest that the names should point at; empty: what the first name points at.
	Target   digest.Digest
	Platform platforms.MatchComparer
}

// State is what the store has of an image.
type State struct {
	// Target is the digest asked for, or what the first name points at; empty if neither is there.
	Target digest.Digest
	// Names maps each name that has a record to the digest it points at.
	Names map[string]digest.Digest
	// Visible maps each name that CRI answers for to the image ID it answers with.
	Visible map[string]digest.Digest
	// Artifact is the type of an artifact that is no root filesystem, its artifactType or the media type of its config;
	// empty for an image. Whole tells whether all its blobs are there. Names are those under which it is kept; it is
	// never Visible and has neither Config nor snapshots.
	Artifact string
	Whole    bool
	// Manifest and Config are the blobs chosen for the platform; empty if they are not in the store.
	Manifest, Config digest.Digest
	// ChainID is the name of the last snapshot; Snapshot tells whether it exists, and Unpacked, whether moreover the
	// config holds it. One that only another image with the same layers holds goes when that image does.
	ChainID            digest.Digest
	Snapshot, Unpacked bool
	// Pinned is what CRI says of the image ID. PinSupported is false where the daemon knows no pins.
	Pinned, PinSupported bool
	// Runtime names the daemon and its version, for messages.
	Runtime string
}

// Pin is a pin of ours.
type Pin struct {
	// ImageID is the digest of the image's config; for an artifact, of its manifest.
	ImageID digest.Digest
	// Target is the manifest or index that the image's record points at.
	Target digest.Digest
	// Size is what the image takes on the disk in bytes, shared layers included; 0 where it is not known.
	Size int64
}
