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
//  4. agent/images makes the wanted images ready through package prefetch, in the order of their priority, keeps them so,
//     and lets go of those that left the config. A change of where an image comes from begins its pull anew.
//
// The state is one report.NodeReport. It is logged as it changes, and served on the status socket and as metrics.
//
// A crash leaves what hostconfig/apply and prefetch leave, which they mend at the next start, and two files in the state
// directory, each replaced in one rename: last-good-config.yaml, used when the config is faulty at the next start, and
// proven-cas.json, so that an old CA stays trusted through a restart in the middle of its replacement. Ending the agent
// changes nothing on the node.
package agent
