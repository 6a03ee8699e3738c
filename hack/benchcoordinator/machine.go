package main

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/bench/proc"
)

// machine finds out where it runs, and what.
func machine(ctx context.Context, coordinator string) (Machine, error) {
	m := Machine{CPU: proc.CPUModel(), Cores: runtime.NumCPU(), Go: runtime.Version()}
	var sys unix.Sysinfo_t
	var uts unix.Utsname
	if err := unix.Sysinfo(&sys); err != nil {
		return m, fmt.Errorf("ask for the memory: %w", err)
	}
	if err := unix.Uname(&uts); err != nil {
		return m, fmt.Errorf("ask for the kernel: %w", err)
	}
	m.MemoryBytes, m.Load = int64(sys.Totalram)*int64(sys.Unit), float64(sys.Loads[0])/(1<<16)
	m.Kernel = unix.ByteSliceToString(uts.Release[:])
	out, err := exec.CommandContext(ctx, coordinator, "--version").Output()
	if err != nil {
		return m, fmt.Errorf("run %s (make build makes it): %w", coordinator, err)
	}
	words := strings.Fields(string(out))
	m.Hotplate = words[len(words)-1]
	return m, nil
}

// commit is that of the repository, "-dirty" behind it where files differ.
func commit(ctx context.Context, root string) string {
	out, err := exec.CommandContext(ctx, "git", "-C", root, "describe", "--always", "--dirty", "--exclude", "*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
