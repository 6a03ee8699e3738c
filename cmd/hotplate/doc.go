// Command hotplate is what a person uses on a node: pull images as the agent does, check configs, see what containerd
// will do, and ask the agent how it is. One file holds one command.
//
// Only pull changes anything: a crash in it leaves what package prefetch says, which the next pull goes on from.
package main
