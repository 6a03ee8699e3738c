package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	// niceness leaves a tenth of a contended core to us (kernel/sched/core.c, sched_prio_to_weight).
	niceness = 10
	tasksDir = "/proc/self/task"
	// maxRounds bounds how often threads are listed: each round but the last has found one that was made meanwhile.
	maxRounds = 100

	// The kernel's include/uapi/linux/ioprio.h.
	ioWhoProcess      = 1
	ioClassShift      = 13
	ioClassBestEffort = 2
	ioClassIdle       = 3
	// ioLowest is the last of the best-effort class. The idle class could wait for ever on a busy disk.
	ioLowest = ioClassBestEffort<<ioClassShift | 7
)

// LowerPriority gives the process a lower priority for CPU and disk than others have, and takes no priority from one that is
// lower already. It needs no privilege, but to undo it does.
//
// Linux has priorities of threads, not of processes: setpriority and ioprio_set for process 0 mean the calling thread. So
// every thread is set, until a round finds none that has to be. Threads that are made later have the priority of
// their makers, which have all been set by then.
func LowerPriority() error {
	for range maxRounds {
		changed, err := lowerThreads()
		if err != nil || !changed {
			return err
		}
	}
	return errors.New("lower priority: threads are made faster than they can be set")
}

// lowerThreads reports whether there was a thread that had to be set.
func lowerThreads() (changed bool, err error) {
	tasks, err := os.ReadDir(tasksDir)
	if err != nil {
		return false, fmt.Errorf("lower priority: %w", err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			return false, fmt.Errorf("lower priority: %w", err)
		}
		for _, lower := range []func(int) (bool, error){lowerCPU, lowerDisk} {
			c, err := lower(tid)
			if err != nil && !errors.Is(err, unix.ESRCH) { // a thread may end at any time
				return false, err
			}
			changed = changed || c
		}
	}
	return changed, nil
}

func lowerCPU(tid int) (changed bool, err error) {
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
	if err != nil {
		return false, fmt.Errorf("read CPU priority: %w", err)
	}
	if nice := 20 - raw; nice >= niceness { // the system call returns 20 - nice, so that it is never negative
		return false, nil
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, tid, niceness); err != nil {
		return false, fmt.Errorf("lower CPU priority: %w", err)
	}
	return true, nil
}

func lowerDisk(tid int) (changed bool, err error) {
	now, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioWhoProcess, uintptr(tid), 0)
	if errno != 0 {
		return false, fmt.Errorf("read disk priority: %w", errno)
	}
	if now == ioLowest || now>>ioClassShift == ioClassIdle {
		return false, nil
	}
	if _, _, errno = unix.Syscall(unix.SYS_IOPRIO_SET, ioWhoProcess, uintptr(tid), ioLowest); errno != 0 {
		return false, fmt.Errorf("lower disk priority: %w", errno)
	}
	return true, nil
}
