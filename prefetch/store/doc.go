// Package store keeps images in containerd: it is the prefetch.Store of a node. It is the only package of prefetch that
// talks to the daemon, and works with every one from 1.6 on.
//
//  1. Way finds out which way layers get in. The direct one is open if containerd, overlayfs and a shared content store say
//     by introspection where they are, and then show it: a file that we link into the content store is taken for a
//     blob, and files that we move into a snapshot are counted.
//  2. Open makes a content lease for the image, labelled with owner and image, which expires by itself after two weeks.
//     It takes over what leases of earlier runs hold.
//  3. Blob opens an ingest under the name that containerd's own pulls use. Whoever has it open is waited for; what is
//     there of it is continued, up to 1 GiB. The bytes go through the content API, which hashes them. Content with the
//     wrong digest is removed at once, or the kubelet's next pull would continue it.
//     On the direct way, Hold opens the same ingest only so that others wait, and Adopt links the verified file to where
//     containerd keeps the blob. A writer for that blob then finds all of it there, and is committed without a copy
//     (core/metadata/content.go, Writer, 2.4.2). containerd's collection may take the file before; then it is
//     linked again.
//  4. Link sets the labels by which containerd's garbage collector walks from the index to the layers.
//  5. Unpack lets containerd's client apply the layers, one after the other, and looks whether the snapshot is there.
//     On the direct way, AddSnapshot prepares each snapshot on its parent as containerd's own unpack does, lets the caller
//     fill its directory, commits it and looks at its parent, which some lines drop without a word; Unpacked lets
//     the config hold the last one.
//  6. Publish makes the image records. CRI sees them by an event and makes its own, named by the image ID.
//     Keep is what Publish is for an artifact that is no root filesystem: labels on its content instead of records
//     (artifact.go).
//  7. Pin labels that one. Close deletes the leases.
//
// A crash leaves the lease with what it holds: complete blobs, partial ingests, snapshots. The next run for the same
// image takes them over and removes a snapshot that was being filled; Sweep removes those of images that are no longer
// wanted, and after two weeks containerd does. Before step 6 no image record exists; between 6 and 7 an image exists
// that is not pinned yet. A crash within Adopt leaves a file where the blob is that no record knows: right, since it was
// verified and synced before, and adopted by the next pull of anyone, or taken by containerd's next collection. One within
// Way leaves a blob of some bytes and a snapshot of some files, under a lease of a minute that Sweep and the next Way take
// away, and files that Sweep removes.
//
// An error that says that the daemon is away is joined with prefetch.ErrAway. Everything may be
// repeated then. gRPC dials again within a second.
package store
