// Package proc reads what Linux says of processes, block devices and the processor.
package proc

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ticksPerSecond is USER_HZ, which is 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// Counters are of one process at one moment. They never go down, but for PeakRSS at ResetPeak.
type Counters struct {
	// CPUSeconds is user and system time of the process and of those children that it has waited for.
	CPUSeconds float64
	// Written is write_bytes less cancelled_write_bytes: file pages made dirty and not thrown away before they were written.
	Written int64
	// PeakRSS is VmHWM in bytes, 0 for a process that has ended.
	PeakRSS int64
}

// FS is the proc filesystem, "/proc" of os.DirFS but for tests.
type FS struct{ Root fs.FS }

// Host is this machine's.
func Host() FS { return FS{Root: os.DirFS("/proc")} }

// Process reads the counters of a process, which may be one that has ended and that nobody has waited for yet.
func (f FS) Process(pid int) (Counters, error) {
	var c Counters
	read := func(name string) ([]byte, error) { return fs.ReadFile(f.Root, path.Join(strconv.Itoa(pid), name)) }
	stat, err := read("stat")
	if err == nil {
		c.CPUSeconds, err = cpuSeconds(stat)
	}
	if err != nil {
		return c, fmt.Errorf("read the times of process %d: %w", pid, err)
	}
	io, err := read("io")
	if err != nil {
		return c, fmt.Errorf("read the bytes of process %d: %w", pid, err)
	}
	c.Written = field(io, "write_bytes:") - field(io, "cancelled_write_bytes:")
	status, err := read("status")
	if err != nil {
		return c, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	c.PeakRSS = field(status, "VmHWM:") << 10
	return c, nil
}

// cpuSeconds adds fields 14 to 17 of /proc/PID/stat (proc(5)). The second is the program's name, in parentheses, which
// may hold anything.
func cpuSeconds(stat []byte) (float64, error) {
	rest := stat[bytes.LastIndexByte(stat, ')')+1:]
	fields := strings.Fields(string(rest))
	const first = 14 - 3 // the name was the second, and they count from 1
	if len(fields) < first+4 {
		return 0, fmt.Errorf("%d fields are too few", len(fields))
	}
	ticks := 0
	for _, s := range fields[first : first+4] {
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return float64(ticks) / ticksPerSecond, nil
}

// field returns the number after the name at the start of a line, or 0.
func field(text []byte, name string) int64 {
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok {
			continue
		}
		if words := strings.Fields(rest); len(words) > 0 {
			n, _ := strconv.ParseInt(words[0], 10, 64) // the kernel writes numbers
			return n
		}
	}
	return 0
}

// Sub is what was used since before. The peak stays.
func (c Counters) Sub(before Counters) Counters {
	return Counters{CPUSeconds: c.CPUSeconds - before.CPUSeconds, Written: c.Written - before.Written, PeakRSS: c.PeakRSS}
}

// ResetPeak makes PeakRSS begin again from what the process has now. It needs to be its owner or root.
func ResetPeak(pid int) error {
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		return fmt.Errorf("reset the peak of process %d: %w", pid, err)
	}
	return nil
}

// DropCaches empties the page cache of what has been written.
func DropCaches() error { return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0) }

// Device is the block device of a file.
type Device struct{ major, minor uint32 }

// DeviceOf finds it by the file's device number. Files of overlay, tmpfs and btrfs have none that counts.
func DeviceOf(path string) (Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Device{}, fmt.Errorf("find the block device of %q: %w", path, err)
	}
	return Device{unix.Major(st.Dev), unix.Minor(st.Dev)}, nil
}

// DiskCounters are of one block device at one moment. They never go down.
type DiskCounters struct {
	// Written is how many bytes it was sent since it is there, or -1 if it is no block device that counts.
	Written int64
	// Busy is for how long it had something to do.
	Busy time.Duration
}

// Disk reads the counters of a device.
func (f FS) Disk(d Device) (c DiskCounters, err error) {
	text, err := fs.ReadFile(f.Root, "diskstats")
	if err != nil {
		return c, fmt.Errorf("read what the disk has done: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		// major minor name, then eleven counters and more: the seventh is sectors written, the tenth milliseconds (iostats.rst).
		fields := strings.Fields(line)
		if len(fields) < 13 || fields[0] != strconv.Itoa(int(d.major)) || fields[1] != strconv.Itoa(int(d.minor)) {
			continue
		}
		sectors, err := strconv.ParseInt(fields[9], 10, 64)
		if err != nil {
			return c, fmt.Errorf("read what %s has written: %w", fields[2], err)
		}
		busy, err := strconv.ParseInt(fields[12], 10, 64)
		if err != nil {
			return c, fmt.Errorf("read how long %s was busy: %w", fields[2], err)
		}
		return DiskCounters{sectors << 9, time.Duration(busy) * time.Millisecond}, nil
	}
	return DiskCounters{Written: -1}, nil
}

// CPUSeconds is how long all processors together have done anything since the start.
func (f FS) CPUSeconds() (float64, error) {
	text, err := fs.ReadFile(f.Root, "stat")
	if err != nil {
		return 0, fmt.Errorf("read what the processors have done: %w", err)
	}
	// cpu user nice system idle iowait irq softirq steal, then guests, which are in user and nice (proc_stat(5)).
	first, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(first)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("read what the processors have done: %q is not their sum", first)
	}
	ticks := 0
	for _, i := range []int{1, 2, 3, 6, 7, 8} {
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			return 0, fmt.Errorf("read what the processors have done: %w", err)
		}
		ticks += n
	}
	return float64(ticks) / ticksPerSecond, nil
}

// AwaitEnd returns when the child has ended, and leaves it to be waited for: until then its counters can be read.
func AwaitEnd(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return fmt.Errorf("wait for process %d: %w", pid, err)
		}
	}
}

// CPUModel is the processor's name, for people.
func CPUModel() string {
	info, _ := os.ReadFile("/proc/cpuinfo") // without it the model is unknown
	for line := range strings.Lines(string(info)) {
		if rest, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(rest, "\t :"))
		}
	}
	return "unknown processor (" + runtime.GOARCH + ")"
}
