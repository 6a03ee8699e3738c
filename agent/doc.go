// Package agent keeps one node as its config wants it: containerd finds its images where it should, and the images are
// on the disk before a pod asks.
//
// What it does, each in a goroutine of its own:
//
//  1. readConfig hands over every change of the config and of the files that it names. A faulty one is rejected whole
//     and told as the condition ConfigValid; what was in force stays so.
//  2. reconcile makes passes: it asks containerd who it is, renders the hosts directory for that version, lets
//     hostconfig/apply bring the directory to it, and lets hostconfig/probe prove that the daemon obeys. A pass follows
//     every new config, every foreign change in the directory, and a timer. What somebody else keeps changing is left
//     alone for a while (flaps).
//  3. watchMirrors looks at every mirror with the CAs that the config names now. Until a mirror verifies against those,
//     the ones that last did stay trusted beside them (trust).
//  4. restarts acts where the daemon does not obey and everything is written, as the config's `restart` lets it: never; or
//     in a window; or now, unless the node is busy (tried again after a minute, then less often) or it is not safe (looked
//     at again every ten minutes, and when the config or the daemon is another one). Package hostconfig/restart does it.
//     What an earlier agent has begun is ended first, whatever the config says. Meanwhile passes write the hosts directory
//     as ever, but say nothing bad of a daemon that is away (need), and do not probe it.
//     Images wait at the start until it is known whether this is to be done. Where it is found out later, those under way go
//     on if they are not in the way, else they may end within a minute, and are interrupted then, at most every hour.
//     In a cluster it asks the coordinator for the leave first, when nothing else stands in the way, and pauses nothing until it
//     has it.
//  5. agent/images makes the wanted images ready through package prefetch, in the order of their priority, keeps them so,
//     and lets go of those that left the config. A change of where an image comes from begins its pull anew.
//  6. In a cluster report talks with the coordinator (agent/link): it says what the node is, and orders takes what the node
//     should hold, with which leave. That counts when it follows from the config that is in force here; until the two agree the
//     node keeps the images that it has. Where there was never a word, images wait, and nothing is let go.
//
// The state is one report.NodeReport. It is logged as it changes, and served on the status socket and as metrics.
//
// A crash leaves what hostconfig/apply, hostconfig/restart and prefetch leave, which they mend at the next start, and three files
// in the state directory, each replaced in one rename: last-good-config.yaml, used when the config is faulty at the next start;
// proven-cas.json, so that an old CA stays trusted through a restart in the middle of its replacement; and last-directive.json,
// what the coordinator said last, which counts until it answers. Ending the agent changes nothing on the node.
package agent
