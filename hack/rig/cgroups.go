package rig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupPrefix begins the names of the cgroups that newCgroup makes; the id of the process that made it follows.
const cgroupPrefix = "rig-"

// cgroup is one cgroup with the same name at the top of every hierarchy: one directory with cgroup v2, about ten with
// v1.
type cgroup []string

// newCgroup makes a cgroup that no other process is in. It first removes those that were left by processes that died.
func newCgroup() (cgroup, error) {
	hierarchies, err := cgroupHierarchies()
	if err != nil {
		return nil, fmt.Errorf("find the cgroup hierarchies: %w", err)
	}
	for _, h := range hierarchies {
		removeStaleCgroups(h)
	}
	first, err := os.MkdirTemp(hierarchies[0], fmt.Sprintf("%s%d-", cgroupPrefix, os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("make a cgroup: %w", err)
	}
	c := cgroup{first}
	for _, h := range hierarchies[1:] {
		dir := filepath.Join(h, filepath.Base(first))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, errors.Join(fmt.Errorf("make a cgroup: %w", err), c.remove())
		}
		c = append(c, dir)
	}
	for _, dir := range c {
		if err := openCpuset(dir); err != nil {
			return nil, errors.Join(fmt.Errorf("give the cgroup processors and memory: %w", err), c.remove())
		}
	}
	return c, nil
}

// cgroupHierarchies lists where they are mounted.
func cgroupHierarchies() ([]string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var dirs []string
	for line := range strings.Lines(string(info)) {
		// The mount point is the fifth field, the type the first one after a dash (proc(5)).
		before, after, _ := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if len(fields) >= 5 && (strings.HasPrefix(after, "cgroup ") || strings.HasPrefix(after, "cgroup2 ")) {
			dirs = append(dirs, unescapeMount(fields[4]))
		}
	}
	if len(dirs) == 0 {
		return nil, errors.New("no cgroup filesystem is mounted")
	}
	return dirs, nil
}

// openCpuset lets processes into a new cgroup of v1's cpuset, which at first has no processors and no memory nodes.
func openCpuset(dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		parent, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another hierarchy, or v2, which inherits them
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), parent, 0o644); err != nil {
			return err
		}
	}
	err := os.WriteFile(filepath.Join(dir, "cgroup.clone_children"), []byte("1"), 0o644)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// remove takes the cgroup and all below it away. Its processes must have ended; the kernel lets go of them a moment
// later.
func (c cgroup) remove() error {
	var errs []error
	deadline := time.Now().Add(grace)
	for _, dir := range c {
		err := removeCgroupTree(dir)
		for errors.Is(err, unix.EBUSY) && time.Now().Before(deadline) {
			time.Sleep(poll)
			err = removeCgroupTree(dir)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// removeCgroupTree removes directories alone: the files in them are the kernel's.
func removeCgroupTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroupTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the cgroup %s: %w", dir, err)
	}
	return nil
}

// removeStaleCgroups removes what processes of this package left that were killed. One that is in use stays: the kernel
// removes no cgroup that has a process.
func removeStaleCgroups(hierarchy string) {
	left, err := filepath.Glob(filepath.Join(hierarchy, cgroupPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range left {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), cgroupPrefix), "-")
		pid, err := strconv.Atoi(owner)
		if err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			_ = removeCgroupTree(dir)
		}
	}
}
