package staging

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	ext4Shutdown = 0x8004587d // EXT4_IOC_SHUTDOWN, include/uapi/linux/ext4.h
	noLogFlush   = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH: stop here, as without power
)

// TestPowerLossOnExt4 writes to a real filesystem and takes its power away, which ext4 does on request. Afterwards the journal
// is replayed as after a real one.
func TestPowerLossOnExt4(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	for _, tool := range []string{"mkfs.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	image, mnt := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	must(t, os.Mkdir(mnt, 0o700))
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 64<<20))
	run := func(name string, args ...string) error {
		out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, out)
		}
		return nil
	}
	must(t, run("mkfs.ext4", "-q", "-F", image))
	if err := run("mount", "-o", "loop", image, mnt); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(mnt, unix.MNT_DETACH)) })
	durable := map[int]bool{}
	for round := range 25 {
		outage(t, filepath.Join(mnt, "staging"), fmt.Sprint("boot ", round), durable)
		must(t, powerOff(mnt))
		must(t, run("umount", mnt))
		must(t, run("mount", "-o", "loop", image, mnt))
	}
}

// outage continues a blob and leaves it as it is when the power goes. In durable are the chunks that must be there, then
// those that must be there the next time.
func outage(t *testing.T, path, boot string, durable map[int]bool) {
	t.Helper()
	data, desc := content(9, 100<<14)
	// The kernel is not told to write early, so that more is lost.
	b := take(t, open(t, Config{Path: path, boot: boot, disk: lateDisk{osDisk{}}}), desc, 1<<14)
	has(t, b, data)
	for i := range durable {
		if !b.Has(i) {
			t.Errorf("%s: chunk %d must be fetched again", boot, i)
		}
	}
	h, off := b.Hashed()
	for n, i := range rand.Perm(b.Chunks())[:rand.IntN(30)] {
		if !b.Has(i) {
			write(t, b, data, i)
		}
		for off < b.Size() && b.Has(int(off/b.ChunkSize())) {
			h.Write(part(b, data, int(off/b.ChunkSize())))
			off += b.Length(int(off / b.ChunkSize()))
			must(t, b.Progress(h, off))
		}
		if n%10 != 9 {
			continue
		}
		must(t, b.save())
		for i := range b.Chunks() {
			if b.Has(i) {
				durable[i] = true
			}
		}
	}
	switch {
	case b.Missing() == 0:
		must(t, b.Reset())
		clear(durable)
	case rand.IntN(2) == 0: // the marks may reach the disk before the bytes
		must(t, b.marks.Sync())
	}
	b.abandon()
}

func powerOff(mnt string) error {
	f, err := os.Open(mnt)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetPointerInt(int(f.Fd()), ext4Shutdown, noLogFlush)
}
