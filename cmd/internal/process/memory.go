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

// LimitMemory has the garbage collector keep the heap near what is meant to be on it when prefetch may take so many
// bytes: without a limit the heap grows to twice of what is used. The limit is soft; who has set GOMEMLIMIT knows better.
func LimitMemory(prefetch int64) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(prefetch/heapShare + beside)
	}
}
