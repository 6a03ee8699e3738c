package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// mountSmall mounts a file system of pages 4 KiB pages at dir.
func mountSmall(t *testing.T, dir string, pages int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dk,mode=755", 4*pages))
	if errors.Is(err, unix.EPERM) {
		t.Skip("mounting a small file system needs root (CAP_SYS_ADMIN); run this test as root")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
}

// fill leaves free pages of 4 KiB on the file system of dir, and returns what frees the rest.
func fill(t *testing.T, dir string, free int) (undo func()) {
	t.Helper()
	name := filepath.Join(dir, "ballast")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, 4096)
	size := int64(0)
	for {
		if _, err = f.Write(page); err != nil {
			break
		}
		size += int64(len(page))
	}
	if err := errors.Join(f.Truncate(max(0, size-int64(free*len(page)))), f.Close()); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDiskFullKeepsWhatWasInForce(t *testing.T) {
	for name, small := range map[string]func(r *rig) string{
		"the hosts directory's disk": func(r *rig) string { return r.hosts },
		"the state directory's disk": func(r *rig) string { return r.dir },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			dir := small(r)
			mountSmall(t, dir, 64)
			h := r.start()
			defer r.close(h)
			old := render(t, mirror("docker.io", "https://old.example.com", "one"))
			now := pair(t, "two")
			r.apply(h, old)
			views := func() [2]string { return [2]string{view(r.hosts, "docker.io"), view(r.hosts, "b.example.com")} }
			before := views()
			failed, free := 0, 0
			for ; ; free++ {
				undo := fill(t, dir, free)
				_, err := h.Apply(context.Background(), now, Options{})
				after := views()
				undo()
				if err == nil {
					break
				}
				failed++
				if !errors.Is(err, syscall.ENOSPC) || !says(err, dir, "make room") {
					t.Errorf("%d free pages: %v", free, err)
				}
				if after[0] != before[0] && !strings.Contains(after[0], "two.example.com") ||
					strings.Contains(after[0]+after[1], "error") {
					t.Errorf("%d free pages: containerd sees %v", free, after)
				}
				if r.exists(tempDir) {
					t.Errorf("%d free pages: temporary files are left", free)
				}
				r.apply(h, old)
				r.clock.advance(time.Minute)
				r.apply(h, old)
			}
			if failed == 0 {
				t.Error("nothing failed on a full disk")
			}
			t.Logf("%d attempts failed", failed)
			r.clock.advance(time.Minute)
			r.apply(h, now)
			r.wantTree(now)
			r.uninstall(h)
			if left := names(snapshot(t, r.hosts)); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestReadOnlyDirectoryIsAClearError(t *testing.T) {
	r := newRig(t)
	mountSmall(t, r.hosts, 64)
	h := r.start()
	defer r.close(h)
	old := render(t, mirror("docker.io", "https://old.example.com", "one"))
	r.apply(h, old)
	remount := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("", r.hosts, "", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(unix.MS_RDONLY)
	now := render(t, mirror("docker.io", "https://new.example.com", "two"))
	_, err := h.Apply(context.Background(), now, Options{})
	if !errors.Is(err, syscall.EROFS) || !says(err, r.hosts, "mount it writable") {
		t.Errorf("error is %v", err)
	}
	r.wantTree(old)
	remount(0)
	r.apply(h, now)
	if !strings.Contains(view(r.hosts, "docker.io"), "new.example.com") {
		t.Errorf("containerd sees %s", view(r.hosts, "docker.io"))
	}
}

func TestErrorsNameThePathAndTheNextStep(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		says string
	}{
		"no permission":        {syscall.EACCES, "run as its owner or as root"},
		"immutable":            {syscall.EPERM, "lsattr"},
		"another mount":        {syscall.EXDEV, "by hand"},
		"a quota":              {syscall.EDQUOT, "make room"},
		"a failing disk":       {syscall.EIO, "kernel's log"},
		"something unheard of": {syscall.ENOTTY, "inappropriate ioctl"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			m := newMachine(t, r.top)
			r.open = m.open
			h := r.start()
			defer r.close(h)
			tree := render(t, mirror("docker.io", "https://one.example.com", "one"))
			for at := 3; at < 8; at++ {
				m.ops, m.at, m.mishap = 0, at, mishap{err: tt.err}
				_, err := h.Apply(context.Background(), tree, Options{})
				m.heal()
				if !errors.Is(err, tt.err) || !says(err, tt.says, r.top) {
					t.Errorf("operation %d: %v", at, err)
				}
				r.apply(h, nil)
			}
		})
	}
}

func TestWhatCannotBeMovedIsNotAdopted(t *testing.T) {
	for name, errno := range map[string]error{
		"a mount point":                       syscall.EBUSY,
		"a lower layer":                       syscall.EXDEV,
		"a file system that cannot exchange":  syscall.EINVAL,
		"a kernel that cannot exchange names": syscall.ENOSYS,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.write("docker.io/hosts.toml", "server = \"https://theirs.example.com\"\n")
			r.write("docker.io/ca.crt", "theirs")
			before := snapshot(t, r.hosts)
			m := newMachine(t, r.top)
			r.open = func(dir string) (disk, error) {
				d, err := m.open(dir)
				return &cannotExchange{disk: d, err: errno}, err
			}
			h := r.start()
			defer r.close(h)
			tree := pair(t, "one")
			for range 2 {
				_, err := h.Apply(context.Background(), tree, Options{Adopt: map[string]bool{"docker.io": true}})
				if !errors.Is(err, errno) || !says(err, filepath.Join(r.hosts, "docker.io")) {
					t.Errorf("error is %v", err)
				}
				if !r.exists("b.example.com/hosts.toml") {
					t.Error("it has kept another registry from being written")
				}
				if got := r.read("docker.io/hosts.toml"); !strings.Contains(got, "theirs") {
					t.Errorf("docker.io/hosts.toml holds %q", got)
				}
			}
			r.uninstall(h)
			m.flush()
			wantSame(t, "hosts directory after uninstall", before, snapshot(t, r.hosts))
		})
	}
}

type cannotExchange struct {
	disk
	err error
}

func (d *cannotExchange) Exchange(a, b string) error {
	return &os.LinkError{Op: "exchange", Old: a, New: b, Err: d.err}
}

// TestRealDiskKeepsItsPromises runs once on whatever file system the temporary directory is on, as the others run in
// memory.
func TestRealDiskKeepsItsPromises(t *testing.T) {
	top := t.TempDir()
	r := &rig{
		t: t, top: top, hosts: filepath.Join(top, "certs.d"), dir: filepath.Join(top, "state"),
		clock: newClock(), open: openDisk,
	}
	oddTree(t, r)
	original := snapshot(t, r.hosts)
	h := r.start()
	defer r.close(h)
	adopt := []string{"docker.io", "localhost:5000"}
	for range 2 {
		for _, c := range []string{"one", "two"} {
			var regs []hostconfig.Registry
			for _, host := range adopt {
				regs = append(regs, mirror(host, "https://m.example.com", c))
			}
			r.apply(h, render(t, regs...), adopt...)
			r.clock.advance(time.Minute)
		}
	}
	info, err := os.Lstat(filepath.Join(r.dir, manifestName))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("manifest: %v, %v; want mode 0600", info, err)
	}
	if info, err = os.Lstat(r.dir); err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("state directory: %v, %v; want mode 0700", info, err)
	}
	r.uninstall(h)
	wantSame(t, "hosts directory after uninstall", original, snapshot(t, r.hosts))
}
