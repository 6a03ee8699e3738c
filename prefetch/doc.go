// Package prefetch brings images to the node before a pod asks for them, and says when they are ready.
//
// An Image is what is wanted. A Prefetcher makes it so in these steps:
//
//  1. Resolve: the reference is normalised as CRI does; the registry hosts of certs.d are asked, in order, which digest
//     it means. From here on only that digest counts. If none of them says, it is the digest that containerd has under
//     that name, provided that nothing of it is missing.
//  2. Look: if containerd has it already, under all its names, steps 3 to 8 are left out. If it has its snapshots, steps 5
//     and 6 are.
//  3. Choose the way, and open a session with the store: until it ends, nothing is collected.
//  4. Plan: index, manifest for the platform, config. They are small, and verified before they are written.
//  5. See whether there is room for what is missing of the layers, as they come and unpacked, and a reserve. What does not fit
//     beside other images under way is refused with the numbers; when somebody else fills the disk meanwhile, the work ends at
//     the reserve, whether it fetches or unpacks.
//  6. Bring the layers, several at once, each in chunks, several at once, used in order: see below.
//  7. See that the last snapshot has the name that the config demands, and let the config hold it.
//  8. Publish the image records: the repository's digest name, the tag, the aliases. Last, so that no record ever names
//     an image that is not whole.
//     An artifact, which is no root filesystem, has no layers in this sense: steps 6 to 8 fetch its blobs and let the store
//     keep them under these names, without records, so that CRI does not take it for an image.
//  9. Wait until CRI shows the image under every name; pin it, where that is asked for and the daemon knows pins, and
//     wait until CRI shows that too. Then it is ready.
//
// # Two ways
//
// The direct way makes one pass over the bytes (layout.go, direct.go). Chunks are written into a staging file as they come,
// if layers are kept, and go in order to two readers at once, without being copied: one hashes the blob, the other
// inflates it, hashes the tar and lays it out in a directory on the snapshotter's filesystem. When both digests are
// right, the staging file is made durable and becomes the blob by a hard link; when the layer below is committed, the
// entries are renamed into a snapshot on top of it, which is committed. Layers do not wait for each other otherwise.
//
// Where that way is closed, Way.Reason says why, and the same stream goes through the store's writer (content.go); the
// store unpacks all layers in the end. So does an image with a layer that only the store may know how to unpack.
//
// # Memory
//
// A quarter of the memory is for laying out layers: one begins when what it may take has a place. The rest is for
// chunks. One is asked for only when its bytes have a place, and the place is free again when the last reader has
// used them, so a slow disk slows the network down and fills nothing. The budget cannot run dry: the chunks of a layer
// take their places in the order in which they are used, so of the chunks that hold places, the one that any layer uses
// next is always among them, and it needs nothing more but the network or the disk. The number of requests is bounded
// too; a request is begun after its chunk has a place, and ends without needing another place. A layer whose reader is
// behind takes no more than a few places (window.go). The metadata of step 4 is outside the budget, at most 8 MiB a
// piece.
//
// # Faults
//
// Package fetch knows what a reply means and repeats what may be repeated. Here, a host that fails is followed by the
// next one from the byte that was reached. If the digest is wrong in the end, the layer is forgotten and asked for anew,
// from the same host if others had a part in it, else from the next; each host gets one chance alone. If all fail, the
// error tells of each what it said. A daemon that goes away is waited for, five minutes, while the layers go on coming.
//
// # What a crash leaves
//
// Under the session's content lease: complete blobs, snapshots, and in the API way a partial ingest. In the staging
// directory, where layers are kept: the chunks that have come, with the state of their hash (package staging), and a note
// which blobs the image wants. In the directory for trees: layers that were being laid out. The next Ensure of the
// same image takes over blobs, snapshots and chunks, and lays out anew. Sweep removes trees, and what is no longer wanted of
// the rest; leases go by themselves after two weeks. No image record before step 8; between 8 and 9 an image that is not
// pinned yet, which the next Ensure pins. A failure or a cancelled context leaves the same, without the trees. Blobs are durable,
// what is unpacked is not: after a power loss the files of snapshots that were just committed may be empty.
//
// # Where things are
//
// Package fetch asks registries and knows nothing of images; staging keeps chunks on the disk; layer makes a tree of a blob;
// store is containerd; this package drives them. Package prefetchtest has a registry and a store for tests, and the suites
// that both stores pass.
package prefetch
