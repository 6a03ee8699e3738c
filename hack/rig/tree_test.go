package rig_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

func TestTreeSeesEveryDifference(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making devices and trusted xattrs needs root")
	}
	old := time.Unix(1_700_000_000, 5)
	build := func(t *testing.T) string {
		dir := t.TempDir()
		must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "d", "f"), []byte("content"), 0o644))
		must(t, os.Link(filepath.Join(dir, "d", "f"), filepath.Join(dir, "hard")))
		must(t, os.Symlink("d/f", filepath.Join(dir, "soft")))
		must(t, unix.Mknod(filepath.Join(dir, "gone"), unix.S_IFCHR, 0))
		must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
		must(t, os.Chtimes(filepath.Join(dir, "d", "f"), old, old))
		for _, name := range []string{".", "d", "soft", "gone", "fifo"} {
			ts := []unix.Timespec{unix.NsecToTimespec(old.UnixNano()), unix.NsecToTimespec(old.UnixNano())}
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, name), ts, unix.AT_SYMLINK_NOFOLLOW))
		}
		return dir
	}
	for name, test := range map[string]struct {
		change func(dir string) error
		want   string
	}{
		"nothing": {func(string) error { return nil }, ""},
		"mode":    {func(dir string) error { return os.Chmod(dir+"/d/f", 0o644|os.ModeSetuid) }, `"d/f": mode is 4644, want 0644`},
		"owner":   {func(dir string) error { return os.Lchown(dir+"/soft", 1, 2) }, `"soft": gid is 2, want 0`},
		"content": {func(dir string) error {
			if err := os.WriteFile(dir+"/hard", []byte("contenT"), 0); err != nil {
				return err
			}
			return os.Chtimes(dir+"/hard", old, old)
		}, `"d/f": content is `},
		"time":   {func(dir string) error { return os.Chtimes(dir+"/d", old, old.Add(1)) }, `"d": mtime is `},
		"device": {func(dir string) error { return replace(dir+"/gone", unix.S_IFCHR, 259) }, `"gone": device is 259, want 0`},
		"type":   {func(dir string) error { return replace(dir+"/fifo", unix.S_IFBLK, 0) }, `"fifo": type is block, want fifo`},
		"target": {func(dir string) error { return relink(dir+"/soft", "d/g") }, `"soft": link target is "d/g", want "d/f"`},
		"xattr": {func(dir string) error {
			return unix.Lsetxattr(dir+"/d", "trusted.overlay.opaque", []byte("y"), 0)
		}, `"d": xattrs is map["trusted.overlay.opaque":"y"], want map[]`},
		"hard link": {func(dir string) error {
			if err := os.Remove(dir + "/hard"); err != nil {
				return err
			}
			return os.WriteFile(dir+"/hard", []byte("content"), 0o644)
		}, `"hard": hard link is "", want "d/f"`},
		"missing":  {func(dir string) error { return os.Remove(dir + "/fifo") }, `"fifo" is missing, a fifo`},
		"too many": {func(dir string) error { return os.WriteFile(dir+"/new", nil, 0o644) }, `"new" is too many, a file`},
	} {
		t.Run(name, func(t *testing.T) {
			want, err := rig.Tree(build(t))
			must(t, err)
			dir := build(t)
			must(t, test.change(dir))
			got, err := rig.Tree(dir)
			must(t, err)
			diff := rig.DiffTrees(want, got)
			if !strings.Contains(diff, test.want) || (test.want == "") != (diff == "") {
				t.Errorf("DiffTrees says\n%swant a line with %s", diff, test.want)
			}
		})
	}
}

func TestDiffTreesIsBounded(t *testing.T) {
	got := map[string]rig.Entry{}
	for i := range 1000 {
		got[fmt.Sprint(i)] = rig.Entry{Type: "file"}
	}
	diff := rig.DiffTrees(nil, got)
	if n := strings.Count(diff, "\n"); n != 31 || !strings.HasSuffix(diff, "and 970 more\n") {
		t.Errorf("%d lines:\n%s", n, diff)
	}
}

func TestMaskTimes(t *testing.T) {
	now := time.Now()
	tree := map[string]rig.Entry{"new": {ModTime: now}, "old": {ModTime: now.Add(-1)}}
	rig.MaskTimes(tree, now)
	if !tree["new"].ModTime.IsZero() || tree["old"].ModTime.IsZero() {
		t.Errorf("got %v", tree)
	}
}

func replace(path string, mode uint32, dev int) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return unix.Mknod(path, mode, dev)
}

func relink(path, target string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.Symlink(target, path)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
