// Command bench compares how soon an image is Ready on a node: pulled by containerd as it comes, by containerd tuned as
// well as it can be, and by hotplate. It needs root, and a machine with nothing else to do.
//
//	make bench                                    everything, three rounds: an hour or two
//	make bench BENCH=quick                        small images, one round: three minutes
//	make bench BENCH_IMAGES=A,C BENCH_LINKS=unlimited BENCH_ROUNDS=5 BENCH_CONTESTANTS=containerd-tuned,hotplate-kept
//
// BENCH_DIR is where images and daemons are (default: hotplate/bench in the user's cache directory), and so the disk that
// is measured. BENCH_CREATION_PULLS is during how many pulls of each contestant containers are created (10 at most).
// BENCH_HOTPLATE is the program to measure (default: bin/hotplate). Results go to hack/bench/results.
//
// # One pull
//
//  1. The last daemon's directory is removed, everything is written out (sync), the page cache is dropped where that is
//     permitted, and the image's blobs in the registry are read into it again: the registry stands for one on another
//     machine, whose disk is not what is measured.
//  2. A new containerd 2.4 starts on an empty directory with the contestant's configuration. That CRI has no image and
//     that there is no blob and no snapshot is checked.
//  3. The counters are read, the peaks reset, and the order is given: CRI's PullImage, as the kubelet does it, or
//     `hotplate pull`. A failed order is given again at once, five times at most, which is kinder than the kubelet's ten
//     seconds.
//  4. PullImage returns or hotplate ends: that is the time of Ready. What CRI and the snapshotter then say is checked, so
//     that a run in which they do not have the image counts as failed.
//  5. The counters are read again: of hotplate between its end and its burial, when the kernel still has them all. What
//     reached the disk is read after another sync, for much of it is written after Ready.
//
// Contestants take turns within each round, and each round begins with another one.
//
// # Links
//
// Blobs come over plain HTTP/1.1, so a connection carries one answer at a time. Unlimited is the registry itself, for a
// proxy would cost all of them some of the cores that they share with the registry; what was sent is then counted in the
// registry's log. The slow link
// is [rig.Link]: TCP, one limit for each connection however many requests it carries, bytes moved by the kernel. The
// flawed one looks at HTTP: [rig.Proxy] with the same limit, where of every twenty answers one comes at 2 MB/s and of
// every hundred one is 429 with Retry-After: 1 or 503, in turn. Which ones is drawn from the round's number, in order of
// arrival, the same for all contestants. The proxies run in this process; their processor time is nobody's account, but
// they do use the same cores.
//
// # Tuned
//
// CRI of containerd 2.4 pulls by the transfer service unless its own settings ask for what that cannot do
// (CheckLocalImagePullConfigs of internal/cri/config/config.go); a max_concurrent_downloads other than 3 among CRI's own
// settings is such a thing, and turns off parallel unpacking. So the settings are those of io.containerd.transfer.v1.local
// (plugins/transfer/plugin.go). That they take effect is shown by TestTunedSettingsTakeEffect. The other way can be
// measured as well: containerd-tuned-local. containerd asks for each chunk without saying where it ends and closes the
// connection when it has 8 MiB (core/remotes/docker/fetcher.go): the bytes that were on their way are among those that it
// is said to have fetched, for the registry did send them.
//
// # Other containers
//
// How long creating an unrelated container takes meanwhile is measured in pulls of their own, after the timed ones: a
// few pods a second of a tiny image that is there already, and the same with no pull.
//
// # What is left behind
//
// BENCH_DIR keeps the registry's storage: 12 GB for the images of a full run, 1 GB for quick ones. Images of another
// version of the generator are removed. Interrupted, everything that was started is ended, and what was measured is in
// interrupted.* of the results. Killed, the kernel ends daemons and registry; the next run removes their files.
package main
