// Package layer turns the bytes of one layer blob, in order, into a directory tree whose digest is verified, and moves
// that into a snapshot.
//
// Layers of an image are laid out at the same time, before their parents are there, and come out exactly as when
// containerd unpacks them one after the other:
//
//  1. [Apply] makes a directory of its own on the snapshotter's filesystem.
//  2. Three goroutines work at once on pooled blocks that package tee hands on: one inflates, one hashes the tar, one lays
//     it out with containerd's own archive.Apply and whiteouts for overlayfs. What containerd guesses from the media
//     type and what from the bytes is guessed likewise. A tar that is not compressed, and is the blob itself, is laid
//     out straight from the reader.
//  3. A directory that the tar needs but does not list gets its mode, owner and xattrs from the layer below (containerd
//     v2.4.2, pkg/archive/tar.go, mkparent), and that is not there yet. It is made before containerd would make it, and
//     carries an xattr of our own until it is. So any number of them take no memory.
//  4. The reader is read to its end, trailing bytes too, and the digest of the tar is compared.
//  5. [Tree.Move], once the parent is committed and the snapshot is prepared on it, looks below for what the directories
//     of step 3 lack, takes the mark away, and renames the top-level entries into the snapshot.
//
// The first layer of an image has nothing below: containerd applies it to a bind mount, where a whiteout removes what the
// same layer made before. Spec.Base does the same, and step 3 has nothing to do.
//
// Two things cannot be made up for later: a directory below with a default ACL hands it to every new file in it; and an
// unlisted directory that something else replaces, in the same layer, is gone. Then Move says [ErrNeedsLowers], with
// nothing moved, and the layer has to be laid out again with Spec.Lowers. Both are rare.
//
// # What is refused
//
// What containerd refuses, with a [FormatError]: for example a hard link to a file that only a lower layer has, an unlisted
// directory that a layer below has removed and one further below had, a whiteout for a file of the same layer. Beyond
// that only zstd frames with a window above MaxWindow, and layers with more names than MaxNames.
//
// # Memory
//
// See [Memory]. containerd's archive.Apply moreover keeps each path of a layer, and each directory's header, until the
// end: about 250 bytes for an entry. That is not counted, but a layer with more of it than [MaxNames] is refused.
//
// # What a crash leaves
//
// During Apply, a half-filled Spec.Dir: remove it with [Remove] and begin anew. During Move, a half-filled upper directory
// and the rest in Spec.Dir: the snapshot is not committed, so whoever prepared it removes it, and Spec.Dir too. Nothing
// is made durable here, as containerd's own unpacking does not either.
package layer
