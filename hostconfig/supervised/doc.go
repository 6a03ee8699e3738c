// Package supervised keeps a containerd that no systemd keeps, but something that starts it again when it ends: runit, s6,
// OpenRC's supervise-daemon, an init with respawn, a loop in a shell. Its [Manager] answers what package restart asks of
// systemd.
//
// # Which process it is
//
// The daemon is whoever listens on containerd's socket; the kernel names it (SO_PEERPIDFD, or before Linux 6.5 SO_PEERCRED
// and a pidfd, see peer.go). A process is held by a pidfd from then on, and what /proc says of its number is believed only
// while the pidfd says that it lives, so that another process with the same number is never taken for it. No capability is
// needed; uid 0 and the daemon's PID namespace are.
//
// # Restart
//
//  1. Tell the daemon to end, with SIGTERM.
//  2. Wait until a process listens on the socket that was started after the call. One that was started before it may have
//     read what was in the configuration then: it is told to end as well. So is one that hangs before it listens, if it has
//     the command line and the parent of the last daemon.
//
// Nothing is killed: what does not end is an error that says so. Who has not started the daemon again is an error too.
//
// # The check of a configuration
//
// A program runs here, not on the node, and so only if its file is the one that the daemon sees at that path. Nothing is
// mounted: a configuration that is to be shown in the place of containerd's own is put beside it for that moment, under a
// name that no import takes. Where the two would not mean the same, the error is [ErrCannotCheck].
//
// # What there is not
//
// There are no timers: [Manager.Arm] is always an error. Nobody but hotplate puts an old configuration back.
//
// # What a crash leaves
//
// Perhaps the file .hotplate-candidate beside containerd's configuration, for root alone, which the next check takes away. A
// daemon that was told to end ends, and is started again by whoever does that.
package supervised
