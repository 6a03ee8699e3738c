// Package prefetchtest has what tests of prefetching need: images made on the spot, a registry that misbehaves by script,
// a store in memory that polices what is done to it, and suites that run on the memory store and on a real containerd
// alike.
package prefetchtest
