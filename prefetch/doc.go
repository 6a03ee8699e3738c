// Package prefetch brings images to the node before a pod asks for them, and says when they are ready.
//
// An Image is what is wanted. A Prefetcher makes it so in these steps:
//
//  1. Resolve: the reference is normalised as CRI does; the registry hosts of certs.d are asked, in order, which digest
//     it means. From here on only that digest counts. If none of them says, it is the digest that containerd has under
//     that name, provided that nothing of it is missing.
//  2. Look: if containerd has it already, under all its names, steps 3 to 7 are left out. If it has its snapshots, step
//     5 is. Step 6 is not: the snapshots may be those of another image with the same layers, and go with it.
//  3. Open a session with the store: until it ends, nothing is collected.
//  4. Plan: index, manifest for the platform, config. They are small, and verified before they are written.
//  5. Fetch the layers, several at once, each in chunks, several at once, written in order.
//  6. Unpack, see that the last snapshot has the name that the config demands, and let the config hold it.
//  7. Publish the image records: the repository's digest name, the tag, the aliases. Last, so that no record ever names
//     an image that is not whole.
//  8. Wait until CRI shows the image under every name; pin it, where that is asked for and the daemon knows pins, and
//     wait until CRI shows that too. Then it is ready.
//
// # Memory
//
// Chunks of all layers of all images share one budget of bytes. A chunk is asked for only when its bytes have a place,
// and the place is free again when the store has taken them, so a slow store slows the network down and fills nothing.
// The budget cannot run dry: the chunks of a layer take their places in the order in which they are written, so of the
// chunks that hold places, the one that any layer writes next is always among them, and it needs nothing more but the
// network. The number of requests is bounded too; a request is begun after its chunk has a place, and ends without
// needing another place. The metadata of step 4 is outside the budget, at most 8 MiB a piece.
//
// # Faults
//
// Package fetch knows what a reply means and repeats what may be repeated. Here, a host that fails is followed by the
// next one from the byte that was reached. If the digest is wrong in the end, the layer is forgotten and asked for anew,
// from the same host if others had a part in it, else from the next; each host gets one chance alone. If all fail, the
// error tells of each what it said.
//
// # What a crash leaves
//
// A partial layer, complete blobs and snapshots, all under the session's content lease. The next Ensure of the same image
// takes them over; Sweep lets go of those that are no longer wanted; after two days they go by themselves. No image
// record before step 7; between 7 and 8 an image that is not pinned yet, which the next Ensure pins. A failure or a
// cancelled context leaves the same.
//
// # Where things are
//
// Package fetch asks registries and knows nothing of images; this package drives it. Package store is containerd.
// Package prefetchtest has a registry and a store for tests, and the suites that both stores pass. How bytes get into the
// store is behind Session: another way in is another implementation of it.
package prefetch
