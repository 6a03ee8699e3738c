// Package apply is the one writer to a hosts directory (certs.d): it makes the directory hold what hostconfig.Render
// wants, repairs what others change, takes over what it may, and puts everything back at uninstall.
//
// # What containerd needs
//
// containerd looks for a registry's directory, reads hosts.toml in it, and then opens the certificates that hosts.toml
// names, at every resolve (core/remotes/docker/config/hosts.go, 2.4.2). A directory without hosts.toml, or a broken
// hosts.toml, sends it to upstream without an error, and an empty directory keeps it from looking at _default; a
// certificate that is missing fails the pull. So a registry has to switch from old to new in one rename, what a
// hosts.toml names has to be there before it and stay for a while after it, and a directory must come and go as a
// whole.
//
// Certificates lie in hostconfig.SharedDir under names made from their content. A host directory therefore holds only
// its hosts.toml, and can come, change and go in one rename, whatever loads are under way.
//
// # The manifest
//
// StateDir/manifest.json says which paths are ours, and for each the hashes of the contents that count as ours. It is
// written, durably, before a change and after it. Before, it is widened: it lists the old and the new content and what
// is about to be moved aside. It is therefore true of the disk at every moment, and what the disk holds tells how far a
// change has come. After, it is narrowed to what is there.
//
// It holds no contents, and there is no journal to roll forward. Every step is atomic for containerd, and every state
// between two steps is a valid one, new for some registries and old for the others. So nothing has to be finished
// before anything else may happen, and the next start may want something else than the one that died: Apply converges
// to whatever is wanted then, the last good config if the new one is broken, and Uninstall converges to nothing. A
// journal would have to hold contents, keys among them; to converge, it is enough to know what is ours.
//
// A file of ours whose hash is not listed was changed by somebody else. As long as the file is wanted, Apply reports
// that as drift and repairs it; when it is to be removed, it is somebody else's, left alone and named.
//
// # Apply
//
//  1. Observe the directory and compare (hostconfig.Observe, hostconfig.Diff). Where nothing differs, nothing is
//     written.
//  2. Widen the manifest. A crash leaves the host as it was, and a manifest that claims more than there is; the next
//     start sees by the hashes that it is not there.
//  3. Write certificates into SharedDir: a file in SharedDir/tmp, fsync, rename, fsync of the directory. A crash leaves
//     a file in tmp, which the next start removes, or certificates that nothing names yet; these are ours by the
//     manifest, and are retired if they are still not wanted.
//  4. Switch each registry: by one rename of hosts.toml, or for a new registry of a complete directory. A crash leaves
//     it old or new. _default comes last, so that no registry uses it on the way.
//  5. Adopt, beside 4: build our directory, with second names (hard links) for the foreign files, put it into
//     SharedDir/kept, and exchange it with the foreign one, in one system call. The foreign directory is then in kept
//     as it was, with owners, modes, times, links and all; it is moved, not copied. A crash before the exchange leaves
//     ours in kept, and the next start removes it; after it, the registry is adopted. The second names go after
//     RetireDelay, because a load that has read the foreign hosts.toml may open what it names. The other spelling of
//     the host's name, which containerd no longer looks at, moves to kept after RetireDelay.
//  6. Put back what was adopted for registries that are no longer wanted, by the same exchange. Files that others put
//     into our directory move into theirs where their names are free. A crash before the exchange leaves it adopted;
//     after it the next start only deletes our directory.
//  7. Remove directories that are no longer wanted: a rename into tmp, then deletion. A crash leaves them in tmp.
//     _default goes first, so that no registry uses it on the way.
//  8. Remove certificates that nothing has named for RetireDelay. A crash leaves some; they are still in the manifest.
//  9. Narrow the manifest. A crash before it leaves it wide; the next start narrows it by what is on disk.
//
// A step that fails does not stop the other registries in steps 3 to 5, but no later step is begun: what was in force
// stays until all that is new is there. Temporary files are removed if possible, otherwise by the next call. After a
// failure nothing in memory is believed: the next call recovers as a start does. What failed may have happened all the
// same, or be in memory only; so recovery first syncs every directory that it is about to believe.
//
// # Uninstall
//
// The same with nothing wanted: hosts.toml files first (steps 6 and 7), certificates after a grace, then SharedDir, the
// hosts directory if Apply made it and it is empty, and the manifest last. A crash leaves less of the same; call it
// again. The state directory and its lock file stay.
//
// # Limits
//
// A load that found a host directory just before it is removed, and opens its hosts.toml just after, goes to upstream,
// even where a _default would apply: containerd looks at the directory and opens the file in two calls, and nothing of
// ours comes between. It is a matter of microseconds, and only where a registry is taken out of the config.
//
// A foreign directory that cannot be moved is not adopted: a mount point, or one from a lower layer of an overlay. The
// error says so. A load through a foreign symbolic link may miss, once, a certificate that its hosts.toml names.
//
// What is foreign or was changed is judged by a look just before a step; who writes in the microseconds between loses
// what they wrote. Kept things lie in the hosts directory, so whoever empties that loses them too.
package apply
