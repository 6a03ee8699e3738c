package restart

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hostconfig/apply"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

// minFree is how many bytes must be free where the configuration and our state are.
const minFree = 16 << 20

// checkDisk sees that a rollback will not fail for want of room, and that the backup survives a reboot if the configuration
// does.
func (r *Restarter) checkDisk(t target, s *survey) {
	config, ok := r.checkRoom(t.edit.Path, s)
	state, okState := r.checkRoom(r.state(journalFile), s)
	if ok && okState && volatile(state) && !volatile(config) {
		s.add("disk", Refuse, fmt.Sprintf("%s is in memory, so that a reboot in the middle would lose the backup and not the new "+
			"configuration: put the state directory on a disk", r.cfg.StateDir))
	}
}

// checkRoom looks at the file system of one file.
func (r *Restarter) checkRoom(node string, s *survey) (st unix.Statfs_t, ok bool) {
	if err := unix.Statfs(parent(r.here(node)), &st); err != nil {
		s.add("disk", Refuse, fmt.Sprintf("the free space of %s is not known: %v", node, err))
		return st, false
	}
	switch free := st.Bavail * uint64(st.Bsize); {
	case st.Flags&unix.ST_RDONLY != 0:
		s.add("disk", Refuse, fmt.Sprintf("%s cannot be written: its file system is read-only here", node))
	case free < minFree || st.Files > 0 && st.Ffree < 64:
		s.add("disk", Refuse, fmt.Sprintf("the file system of %s has %d bytes and %d inodes free, and a restart needs %d bytes: "+
			"make room", node, free, st.Ffree, minFree))
	}
	return st, true
}

func volatile(st unix.Statfs_t) bool {
	kind := int64(st.Type) //nolint:unconvert // it is another type on other machines
	return kind == unix.TMPFS_MAGIC || kind == unix.RAMFS_MAGIC
}

// checkFile refuses a configuration that would not be the same file when it is written anew by us, or by cp on the node:
// both make another file, and rename it.
func (r *Restarter) checkFile(t target, s *survey) {
	file, node := r.here(t.edit.Path), t.edit.Path
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, file, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st)
	switch {
	case t.edit.Old == nil && err != nil:
		return // nothing is there
	case t.edit.Old == nil:
		s.add("file", Refuse, node+" is there and cannot be read: if it is a link, what it leads to has to be mounted, too")
		return
	case err != nil:
		s.add("file", Refuse, fmt.Sprintf("look at %s: %v", node, err))
		return
	}
	bad := func(is bool, format string, args ...any) {
		if is {
			s.add("file", Refuse, node+" "+fmt.Sprintf(format, args...))
		}
	}
	bad(int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid(), "belongs to uid %d and gid %d, and would belong to %d and %d "+
		"then: give it to root", st.Uid, st.Gid, os.Geteuid(), os.Getegid())
	bad(st.Nlink > 1, "has %d names (hard links), of which the others would keep the old content: make it a file of its own", st.Nlink)
	bad(st.Attributes&(unix.STATX_ATTR_IMMUTABLE|unix.STATX_ATTR_APPEND) != 0, "is immutable: somebody wants it to stay as it is "+
		"(chattr -ia lets it go)")
	bad(st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, "is a mount of its own and cannot be replaced: mount its directory")
	if names := attributes(file); len(names) > 0 {
		s.add("file", Refuse, fmt.Sprintf("%s has extended attributes that would be lost: %s", node, few(names)))
	}
}

// checkImports sees that containerd does not take for a part of its configuration what stands beside the file for a moment, or
// for longer after a crash.
func checkImports(t target, s *survey) {
	for _, temp := range beside(t.edit.Path) {
		if importer, pattern := t.config.Takes(temp); importer != "" {
			s.add("imports", Refuse, fmt.Sprintf("%s imports %s, which would take %s too, which stands there while %s is written: "+
				"import *.toml only", importer, pattern, temp, t.edit.Path))
			return
		}
	}
}

// beside are the files that may stand beside a configuration for a while.
func beside(config string) []string {
	ready := systemd.RestoreTemp(config)
	return []string{apply.TempFile(config), ready, apply.TempFile(ready), systemd.Kept(config)}
}

// attributes are the extended attributes of a file that a new one in its place does not get by itself.
func attributes(file string) (names []string) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(file, buf)
	if err != nil {
		return nil // the file system has none
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		// The label of a new file and what btrfs notes come from its directory.
		if name != "" && name != "security.selinux" && !strings.HasPrefix(name, "btrfs.") {
			names = append(names, name)
		}
	}
	return names
}

// checkBinary sees that what would start is what runs. A package that was replaced under a running daemon leads forward only.
func (r *Restarter) checkBinary(ctx context.Context, a *Assessment, s *survey) error {
	t := a.target
	result, err := r.cfg.Systemd.RunOnHost(ctx, systemd.Command{Name: "version", Argv: []string{t.binary, "--version"}})
	if err != nil && !errors.Is(err, systemd.ErrNotExecutable) {
		return err
	}
	// containerd github.com/containerd/containerd/v2 2.4.2 REVISION
	if fields := strings.Fields(string(result.Stdout)); len(fields) < 3 || fields[2] != t.info.Version {
		s.add("binary", Refuse, fmt.Sprintf("%s is not the containerd %s that runs any more, and nothing would lead back to that: "+
			"restart %s by hand first", t.binary, t.info.Version, t.unit.Name))
	}
	return nil
}

// checkRescue sees that the node can take everything back by itself.
func (r *Restarter) checkRescue(ctx context.Context, a *Assessment, s *survey) error {
	switch {
	case r.cfg.NoTimer && r.cfg.WithoutRescue:
		s.add("rescue", Note, "without systemd the rollback depends on hotplate alone: if it is killed in the middle, the new "+
			"configuration stays until it runs again")
		return nil
	case r.cfg.NoTimer:
		s.add("rescue", Refuse, "without systemd the rollback would depend on hotplate alone; allow it with restart.withoutRescue, "+
			"or hotplate restart --without-rescue")
		return nil
	}
	j := newJournal(a.target.unit.Name, a.target.edit, a.target.info)
	j.Dependants = a.down
	rescue := r.rescue(j)
	_, err := r.bootUnit(j).Render()
	if err = errors.Join(rescue.Validate(), err); err != nil {
		s.add("rescue", Refuse, "systemd could not put the old configuration back: "+err.Error())
		return nil //nolint:nilerr // it is a verdict
	}
	tried := make(map[string]bool)
	for _, step := range append(rescue.Steps, systemd.RestoreFile(r.state(BootUnit), bootFile)...) {
		program := step.Argv[0]
		if step.IgnoreFailure || tried[program] {
			continue
		}
		tried[program] = true
		_, err := r.cfg.Systemd.RunOnHost(ctx, systemd.Command{Name: "try", Argv: []string{program, "--version"}})
		switch {
		case errors.Is(err, systemd.ErrNotExecutable):
			s.add("rescue", Refuse, fmt.Sprintf("the node has no %s, which would put the old configuration back", program))
		case err != nil:
			return err
		}
	}
	return nil
}

// parent is the nearest directory above a file that exists.
func parent(file string) string {
	for dir := path.Dir(file); ; dir = path.Dir(dir) {
		if _, err := os.Stat(dir); err == nil || dir == path.Dir(dir) {
			return dir
		}
	}
}
