// Package store keeps images in containerd: it is the prefetch.Store of a node. It is the only package of prefetch that
// talks to the daemon, and works with every one from 1.6 on.
//
//  1. Open makes a content lease for the image, labelled with owner and image, which expires by itself after two days.
//     It takes over what leases of earlier runs hold.
//  2. Blob opens an ingest under the name that containerd's own pulls use. Whoever has it open is waited for; what is
//     there of it is continued, up to 1 GiB.
//  3. The bytes go through the content API, which hashes them. Content with the wrong digest is removed at once, or the
//     kubelet's next pull would continue it.
//  4. Link sets the labels by which containerd's garbage collector walks from the index to the layers.
//  5. Unpack lets containerd's client apply the layers, one after the other, and looks whether the snapshot is there.
//  6. Publish makes the image records. CRI sees them by an event and makes its own, named by the image ID.
//  7. Pin labels that one. Close deletes the leases.
//
// A crash leaves the lease with what it holds: complete blobs, partial ingests, snapshots. The next run for the same
// image takes them over, Sweep removes those of images that are no longer wanted, and after two days containerd does.
// Before step 6 no image record exists; between 6 and 7 an image exists that is not pinned yet.
package store
