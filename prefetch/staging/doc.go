// Package staging keeps partial layer blobs on the disk, each with the chunks that it has and the state of its hash, so
// that neither kill -9 nor a power loss costs more than what was under way.
//
// A blob goes through these steps:
//
//  1. Blob makes or takes over the directory of the digest and locks it. What the state files there say is believed as
//     far as the rules below allow; what cannot be believed is discarded with a line in the log.
//  2. WriteChunk writes the bytes of a chunk, then its mark. Chunks come in any order and several at once. The kernel is
//     told to begin writing at once, so that the last fsync finds little to do.
//  3. Progress takes over the state of the hash that follows in order.
//  4. Now and then, one goroutine of the blob makes a checkpoint: fsync of the bytes, then a new state file.
//  5. Sync makes a whole blob durable and read-only. From here on it may be linked into the content store.
//  6. Remove forgets the blob; other links to its bytes stay. Or Reset, if the digest was wrong: everything begins anew.
//     Or Close, which makes a checkpoint and keeps everything for the next run.
//
// # On the disk
//
//	<path>/sha256-<hex>/        one directory for each blob; its flock is the blob's lock
//	<path>/sha256-<hex>/data    the bytes, of full size from the beginning, sparse
//	<path>/sha256-<hex>/marks   a header of 1 KiB with the boot ID, then one byte for each chunk: 1 if it is written
//	<path>/sha256-<hex>/state   the last checkpoint: a bitmap of the chunks, and the hash's state up to an offset
//	<path>/sha256-<hex>/*.tmp   one of the two before it gets its name
//
// Nothing is allocated ahead: Usage and the filesystem's free space tell what has been fetched, and a full disk is an error
// of WriteChunk.
//
// State and header are one line with format and checksum, and JSON that repeats digest, size and chunk size.
//
// # What a crash leaves
//
// After the process dies, the kernel still has what it wrote: the marks are believed, and they lack at most the chunks
// whose WriteChunk had not returned. After a power loss the kernel has nothing: the marks carry another boot ID and
// are not believed. The state is always believed, for it got its name after its bytes were on the disk, and is off the disk
// before bytes that it speaks of are given up. Either way the hash continues at the last checkpoint.
//
// If an fsync of the bytes fails, the kernel drops what it could not write and will not say so again. Then the marks are
// removed, the blob returns the error from everything, and the next Blob begins at the last checkpoint.
//
// A data file with a second link may already be containerd's and is never written to: it is whole, or it is replaced.
//
// What is believed wrongly: marks on a filesystem that was torn away from its disk with unwritten bytes and mounted again
// without a reboot; and marks after an fsync that failed, if the process is killed before it can remove them. And what a
// checkpoint covers, on a disk that lost it although it said that it was there: the bytes before the hash's offset are not
// hashed again. Where they are unpacked from a compressed layer that shows, in a plain one it does not.
package staging
