package process

import (
	"os"
	"runtime/debug"
)

const (
	// heapShare is the part of prefetch's memory that is on Go's heap, which is what laying out layers takes. The
	// rest is mapped chunks, of which the runtime knows nothing (prefetch/doc.go, Memory).
	heapShare = 4
	// beside is what a program has on its heap beside that, in bytes: connections, metadata, what is logged.
	beside = 24 << 20
)

// heapGrowth is by how much more than what is used a tight heap may grow, in percent; 100 is Go's default.
const heapGrowth = 50

// TightHeap has the garbage collector keep the heap closer to what is used, for half as much again of its work: for a program
// whose use of memory grows with the cluster, so that no limit can be named. Who has set GOGC knows better.
func TightHeap() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth)
	}
}

// LimitMemory has the garbage collector keep the heap near what is meant to be on it when prefetch may take so many
// bytes: without a limit the heap grows to twice of what is used. The limit is soft; who has set GOMEMLIMIT knows better.
func LimitMemory(prefetch int64) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(prefetch/heapShare + beside)
	}
}
