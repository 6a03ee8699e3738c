// Command hotplate-coordinator tells the nodes of a cluster what they should hold, and marks those that do.
//
//  1. It connects to the Kubernetes API, and serves metrics and health.
//  2. It waits for the Lease. The replica that has it reads the config, answers agents and writes on Nodes (package
//     agent/coordinator); when it loses the Lease it stops, and waits again.
//  3. At SIGTERM it gives the Lease back and ends. A crash leaves the Lease to run out, which takes 15 seconds, and the files of
//     the hosts directory that it made to resolve tags, which the next start removes.
package main
