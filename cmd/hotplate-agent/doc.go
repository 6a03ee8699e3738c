// Command hotplate-agent keeps one node as its config wants it.
//
//  1. It takes the lock of the state directory and undoes or settles what a crash has left (hostconfig/apply).
//  2. It opens its parts: the daemon, the store, the config source. The node's systemd is asked for when a restart of
//     containerd is looked at first; without it the agent works as well, and restarts nothing.
//     In a cluster the config comes from the API (agent/kube), and the agent talks with the coordinator (agent/link).
//  3. It runs package agent, and serves status, metrics and health, until SIGTERM. With --once it makes one try and
//     prints the status.
//  4. Where the coordinator releases the node, it does what uninstall does, and rests until it is wanted again.
//
// uninstall takes everything back instead. A crash leaves what the packages' docs say; the next start goes on from there.
package main
