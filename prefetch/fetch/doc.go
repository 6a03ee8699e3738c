// Package fetch asks registries as containerd would: which manifest a name means, and byte ranges of blobs.
//
// It knows nothing of images, stores or the rest of hotplate, so that whoever wants to resolve a name exactly as the
// nodes do can use it alone.
//
//  1. A Client is made once; a Repository is looked up for every image, so that changed hosts and certificates are
//     seen. Hosts reads them from a hosts directory with containerd's own parser.
//  2. Resolve asks the hosts in turn, with containerd's resolver.
//  3. Get fetches what is small, verified. Large blobs are fetched chunk by chunk from one Source at a time, by the
//     caller, who knows what to do when the digest is wrong in the end.
//
// What happens on the way is in decorators of one idea each. Around a chunk, from the outside: retrying (the only place
// that repeats what failed), limited (how many at once, and who is next; a slot is held until the body is closed, and by
// nobody who only waits), rescuing (a slow chunk goes on over another connection), ranged or whole (one request). Around
// every HTTP exchange, also those of containerd's resolver: the gate (hosts that sent Retry-After), paced (MaxBandwidth),
// clocked (how long a chunk waits for the network), the watchdog (no progress for 30 s), bounded (what containerd reads to
// its end: tokens, and manifests whose digest or length is not told), containerd's transport, tuned (HTTP/1.1, so that
// every chunk has a connection of its own). Around containerd's authorizer: authorizer (one token request at a time, whose
// failure is that of all who wait for it).
//
// Rules that need no configuration:
//
//	how many at once      what brings more throughput, at most MaxParallel over all hosts: see climb
//	when a chunk is slow  a quarter of its peers' median speed, after the time they take and 250 ms: see attempt.due
//	rescues               3 for a chunk, and one for every four chunks that ended, of which 8 are saved: see peers
//
// Time in which nobody reads, or in which we hold a request back ourselves, counts as slowness nowhere.
//
// What a reply means:
//
//	206, exactly the range       the chunk
//	any other success, 416       ErrRangeIgnored: ask for the blob in one stream
//	another total size           an error of this host
//	401                          new token, once more; then an error of this host
//	429, 503 with Retry-After    nobody asks this host until then, at most 2 min; then once more. Where there is
//	                             another host, that one is asked at once if it is more than 3 s, also if it was the
//	                             target of a redirect that said so
//	5xx, 408, 429, cut, silent   once more, from the next byte, with growing waits, at most 8 times without progress
//	anything else                an error of this host
//
// An error of a host means that the next one is asked. If all fail, the error tells what each of them said. A redirect is
// followed without what was meant for the registry: credentials and the headers of hosts.toml. A 401 behind it is answered
// only at the registry's own scheme, host and port.
//
// A crash leaves nothing: the package keeps nothing outside memory.
package fetch
