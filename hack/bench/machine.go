package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/bench/proc"
	"github.com/hotplate-dev/hotplate/hack/bench/report"
)

// machine finds out where it runs and how fast the disk of dir is.
func machine(ctx context.Context, dir, hotplate string) (report.Machine, error) {
	m := report.Machine{CPU: proc.CPUModel(), Cores: runtime.NumCPU(), Go: runtime.Version(), Filesystem: filesystem(dir)}
	var sys unix.Sysinfo_t
	if err := unix.Sysinfo(&sys); err != nil {
		return m, fmt.Errorf("ask for the memory: %w", err)
	}
	m.MemoryBytes = int64(sys.Totalram) * int64(sys.Unit)
	m.Load = float64(sys.Loads[0]) / (1 << 16)
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return m, fmt.Errorf("ask for the kernel: %w", err)
	}
	m.Kernel = unix.ByteSliceToString(uts.Release[:])
	m.Hotplate = "not measured"
	if out, err := exec.CommandContext(ctx, hotplate, "--version").Output(); err == nil {
		words := strings.Fields(string(out))
		m.Hotplate = words[len(words)-1]
	}
	var err error
	m.DiskWriteRate, err = diskWriteRate(ctx, filepath.Join(dir, "disk-test"))
	return m, err
}

// filesystem names the ones that nodes have.
func filesystem(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "unknown filesystem"
	}
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay",
	}
	if name, ok := names[int64(st.Type)]; ok { //nolint:unconvert // its type differs between architectures
		return name
	}
	return "filesystem 0x" + strconv.FormatInt(int64(st.Type), 16) //nolint:unconvert // as above
}

// diskWriteRate writes 1 GiB in order with one fsync at the end, in bytes per second.
func diskWriteRate(ctx context.Context, path string) (rate float64, err error) {
	const size = 1 << 30
	unix.Sync()
	f, err := os.Create(path)
	if err != nil {
		return 0, fmt.Errorf("measure the disk: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 31)
	}
	start := time.Now()
	for range size / len(block) {
		if _, err := f.Write(block); err != nil {
			return 0, fmt.Errorf("measure the disk: %w", err)
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("measure the disk: %w", err)
	}
	return size / time.Since(start).Seconds(), nil
}
