package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Volume is a small filesystem of its own, for tests of disks that fill up: ext4 in a file on a loop device. Overlayfs
// works on it. It needs root, loop devices, mkfs.ext4 and mount.
type Volume struct {
	path, image string
}

// NewVolume makes a filesystem of size bytes below dir, which is created, and mounts it there. It has no blocks that
// are reserved for root, so that what is free is free for everybody.
func NewVolume(ctx context.Context, dir string, size int64) (*Volume, error) {
	v := &Volume{path: filepath.Join(dir, "mnt"), image: filepath.Join(dir, "ext4.img")}
	if err := os.MkdirAll(v.path, 0o755); err != nil {
		return nil, fmt.Errorf("create the volume's directory: %w", err)
	}
	f, err := os.Create(v.image)
	if err != nil {
		return nil, fmt.Errorf("create the volume: %w", err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return nil, fmt.Errorf("create the volume: %w", err)
	}
	for _, args := range [][]string{
		{"mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", v.image},
		{"mount", "-o", "loop", v.image, v.path},
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", args[0], err, out)
		}
	}
	return v, nil
}

// Path is where it is mounted.
func (v *Volume) Path() string { return v.path }

// Free is how many bytes can still be written.
func (v *Volume) Free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(v.path, &st); err != nil {
		return 0, fmt.Errorf("look at the volume: %w", err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// Fill takes the free space but for leave bytes, as something else on the node would, until the returned function gives
// it back. Whoever writes meanwhile may get the last of it first; that is no error.
func (v *Volume) Fill(leave int64) (release func() error, err error) {
	f, err := os.CreateTemp(v.path, "filler-")
	if err != nil {
		return nil, fmt.Errorf("fill the volume: %w", err)
	}
	defer f.Close()
	release = func() error { return os.Remove(f.Name()) }
	const least = 4 << 10
	var size int64
	for {
		free, err := v.Free()
		if err != nil {
			return nil, errors.Join(err, release())
		}
		step := free - leave
		for ; step >= least; step /= 2 {
			if err = unix.Fallocate(int(f.Fd()), 0, size, step); err == nil {
				break
			}
			if !errors.Is(err, unix.ENOSPC) {
				return nil, errors.Join(fmt.Errorf("fill the volume: %w", err), release())
			}
		}
		if step < least {
			return release, nil
		}
		size += step
	}
}

// Close takes the mount away and removes the file. Nothing may have a file open on it.
func (v *Volume) Close() error {
	if err := unix.Unmount(v.path, 0); err != nil {
		return fmt.Errorf("unmount %q: %w", v.path, err)
	}
	return os.Remove(v.image)
}
