package restart

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hostconfig/configtoml"
)

// TestCheckFile has files that would not be the same if they were written anew.
func TestCheckFile(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, file string) error
		says   string
	}{
		"plain":         {func(*testing.T, string) error { return nil }, ""},
		"not there":     {func(_ *testing.T, file string) error { return os.Remove(file) }, "look at "},
		"another owner": {func(_ *testing.T, file string) error { return os.Chown(file, 1234, -1) }, "belongs to uid 1234"},
		"another group": {func(_ *testing.T, file string) error { return os.Chown(file, -1, 1234) }, "and gid 1234"},
		"a hard link":   {func(_ *testing.T, file string) error { return os.Link(file, file+".2") }, "has 2 names"},
		"an attribute":  {func(_ *testing.T, file string) error { return unix.Setxattr(file, "user.test", []byte("x"), 0) }, "user.test"},
		"an access list": {func(_ *testing.T, file string) error {
			// The owner and everybody rw, uid 1234 r; see linux/posix_acl_xattr.h.
			acl := "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xd2\x04\x00\x00" +
				"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x06\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"
			return unix.Setxattr(file, "system.posix_acl_access", []byte(acl), 0)
		}, "system.posix_acl_access"},
		"immutable":      {immutable, "is immutable"},
		"a mount itself": {mounted, "is a mount of its own"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			file := root + "/config.toml"
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			s := &survey{}
			changed := make(chan error)
			go func() { // in a thread of its own, whose mounts end with it
				runtime.LockOSThread()
				err := c.change(t, file)
				r := &Restarter{cfg: Config{Root: root}}
				r.checkFile(target{edit: configtoml.Edit{Path: "/config.toml", Old: []byte{}}}, s)
				changed <- err
			}()
			err := <-changed
			if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOTTY) {
				t.Skipf("not possible here: %v", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			want := Refuse
			if c.says == "" {
				want = Pass
			}
			if s.worst() != want || !strings.Contains(s.reasons(Refuse), c.says) {
				t.Errorf("%v; want %s, %q", s.checks, want, c.says)
			}
		})
	}
}

// immutableFlag is FS_IMMUTABLE_FL of linux/fs.h.
const immutableFlag = 0x10

func immutable(t *testing.T, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	t.Cleanup(func() {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0)
		f.Close()
	})
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, immutableFlag)
}

func mounted(_ *testing.T, file string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount(file, file, "", unix.MS_BIND, "")
}

func TestVolatile(t *testing.T) {
	for kind, want := range map[int64]bool{unix.TMPFS_MAGIC: true, unix.RAMFS_MAGIC: true, unix.EXT4_SUPER_MAGIC: false, unix.OVERLAYFS_SUPER_MAGIC: false} {
		if got := volatile(unix.Statfs_t{Type: kind}); got != want {
			t.Errorf("%x: %v", kind, got)
		}
	}
}

func TestReadsOnlyFiles(t *testing.T) {
	dir := t.TempDir()
	pipe, big := dir+"/pipe", dir+"/big"
	if err := errors.Join(unix.Mkfifo(pipe, 0o600), os.WriteFile(big, nil, 0o600), os.Truncate(big, maxState+1)); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{pipe: "not a regular file", dir: "not a regular file", big: "more than"} {
		if _, err := (osFiles{}).Read(path); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := os.Truncate(big, maxState); err != nil {
		t.Fatal(err)
	}
	if data, err := (osFiles{}).Read(big); err != nil || len(data) != maxState {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if err := (osFiles{}).Remove(dir + "/nothing"); err != nil {
		t.Error(err)
	}
}
