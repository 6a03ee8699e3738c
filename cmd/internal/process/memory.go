package process

import (
	"os"
	"runtime/debug"
)

// beside is what a program takes beside the memory that images may take: the runtime, connections, what is logged.
const beside = 24 << 20

// LimitMemory has the garbage collector keep the program's heap near the memory that prefetch may take, in bytes: without
// a limit the heap grows to twice of what is used. The limit is soft; who has set GOMEMLIMIT knows better.
func LimitMemory(prefetch int64) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(prefetch + beside)
	}
}
