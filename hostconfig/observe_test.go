package hostconfig_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

func TestObserveRecordsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "a.example.com", "sub"), 0o755))
	must(t, os.Mkdir(filepath.Join(dir, "empty.example.com"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "a.example.com", "hosts.toml"), []byte("hello\n"), 0o640))
	must(t, os.WriteFile(filepath.Join(dir, "a.example.com", "zero"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "a.example.com", "big"), make([]byte, hostconfig.MaxFileSize+1), 0o644))
	must(t, os.Symlink("/etc", filepath.Join(dir, "link.example.com")))
	must(t, os.Symlink("../nowhere", filepath.Join(dir, "a.example.com", "ca.pem")))
	must(t, syscall.Mkfifo(filepath.Join(dir, "a.example.com", "fifo"), 0o600))
	root, err := os.OpenRoot(dir)
	must(t, err)
	t.Cleanup(func() { _ = root.Close() })
	for name, fsys := range map[string]fs.FS{"os.DirFS": os.DirFS(dir), "os.Root": root.FS()} {
		got, err := hostconfig.Observe(fsys)
		must(t, err)
		want := map[string]string{
			"a.example.com":            "directory 0755 directory",
			"a.example.com/hosts.toml": "file 0640 5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
			"a.example.com/zero":       "file 0600 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
			"a.example.com/big":        "file 0644 unread file of 1048577 bytes",
			"a.example.com/ca.pem":     "symlink 0777 symlink to ../nowhere",
			"a.example.com/fifo":       "special file 0600 special file",
			"a.example.com/sub":        "directory 0755 directory",
			"empty.example.com":        "directory 0700 directory",
			"link.example.com":         "symlink 0777 symlink to /etc",
		}
		brief := map[string]string{}
		for p, e := range got.Entries {
			brief[p] = fmt.Sprintf("%s %#o %s", e.Kind, e.Mode, e.Fingerprint())
		}
		if diff := cmp.Diff(want, brief); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		dirs := []string{"a.example.com", "empty.example.com", "link.example.com"}
		if diff := cmp.Diff(dirs, got.Dirs()); diff != "" {
			t.Errorf("%s: host directories (-want +got):\n%s", name, diff)
		}
	}
}

func TestObserveOfNothingIsEmpty(t *testing.T) {
	got, err := hostconfig.Observe(os.DirFS(filepath.Join(t.TempDir(), "certs.d")))
	if err != nil || len(got.Entries) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestObserveIsBounded(t *testing.T) {
	many, large, deep := fstest.MapFS{}, fstest.MapFS{}, fstest.MapFS{}
	for i := range hostconfig.MaxEntries + 1 {
		many[fmt.Sprintf("d/%d", i)] = &fstest.MapFile{}
	}
	data := bytes.Repeat([]byte("x"), hostconfig.MaxFileSize)
	for i := range hostconfig.MaxTotalSize/hostconfig.MaxFileSize + 1 {
		large[fmt.Sprintf("d/%d", i)] = &fstest.MapFile{Data: data}
	}
	deep[strings.Repeat("d/", hostconfig.MaxDepth+5)+"f"] = &fstest.MapFile{Data: []byte("x")}
	if _, err := hostconfig.Observe(many); err == nil || !strings.Contains(err.Error(), "more than 20000 entries") {
		t.Errorf("many entries: %v", err)
	}
	if _, err := hostconfig.Observe(large); err == nil || !strings.Contains(err.Error(), "bytes together") {
		t.Errorf("many bytes: %v", err)
	}
	got, err := hostconfig.Observe(deep)
	if err != nil || len(got.Entries) != hostconfig.MaxDepth {
		t.Errorf("deep directories: %d entries, %v", len(got.Entries), err)
	}
}

func TestObserveGoesOnPastWhatItMayNotRead(t *testing.T) {
	got, err := hostconfig.Observe(deniedFS{fstest.MapFS{
		"denied.example.com/hosts.toml": {}, "a.example.com/denied": {},
		"b.example.com/hosts.toml": {Data: []byte("x")},
	}})
	must(t, err)
	if got.Entries["denied.example.com"].Unreadable == "" || got.Entries["a.example.com/denied"].Unreadable == "" {
		t.Errorf("what may not be read is not marked: %+v", got.Entries)
	}
	if got.Entries["b.example.com/hosts.toml"].SHA256 == "" {
		t.Error("what may be read was not")
	}
	// A directory that cannot be looked into is somebody else's.
	p := hostconfig.Diff(got, nil, render(t, mirrorOf("denied.example.com", "https://m.example.com")), nil)
	if len(p.Conflicts) != 1 || !strings.Contains(p.Conflicts[0].Reason, "unreadable directory") {
		t.Errorf("got %+v", p.Conflicts)
	}
}

// deniedFS refuses to open what has "denied" in its name.
type deniedFS struct{ fstest.MapFS }

func (d deniedFS) Open(name string) (fs.File, error) {
	if strings.HasPrefix(filepath.Base(name), "denied") {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return d.MapFS.Open(name)
}

// FuzzObserve makes a hosts directory and a manifest from text, and checks that whatever it is, a plan for it can be
// made, is taken as it says, leaves nothing to do, and does not touch what is foreign.
func FuzzObserve(f *testing.F) {
	const dir, other = "r.example.com_5000_", "r.example.com:5000"
	f.Add(dir + "/hosts.toml\tf\t# x\n" + other + "/hosts.toml\tf\tx\n")
	f.Add(dir + "\tl\t/etc\n.hotplate\tl\t/etc\n")
	f.Add(dir + "/hosts.toml\tm\tours\n" + dir + "/x/y\tf\t\n.hotplate/ca-1.pem\tm\told\ngone/hosts.toml\tg\t\n")
	f.Add(dir + "/hosts.toml/x\tm\ty\n.hotplate/old.pem/x\tm\t\n")
	f.Add(dir + "/0\tm\t0\n")
	f.Add(dir + "/0\tm\t\n" + dir + "/1\tf\t0\n")
	f.Add("a/b\ts\t\na\td\t\n_default\td\t\n")
	desired, err := hostconfig.Render([]hostconfig.Registry{
		mirrorOf(other, "https://m.example.com"), {Host: "b.example.com", Upstream: hostconfig.Allow},
	}, v24)
	must(f, err)
	for p := range desired {
		f.Add(p + "\tm\told\n" + p + "/x\tf\t\n")
	}
	f.Fuzz(func(t *testing.T, script string) {
		for _, adopt := range [][]string{nil, {other}} {
			n := scripted(script)
			if n == nil {
				return
			}
			before := n.observe(t)
			p := n.plan(t, desired, adopt...)
			n.apply(t, p)
			checkConverged(t, n, desired, adopt...)
			after := n.observe(t)
			for path, e := range before.Entries {
				if _, ours := n.owned[path]; ours || e.Kind == hostconfig.KindDir || touched(p, path) {
					continue
				}
				if after.Entries[path].Fingerprint() != e.Fingerprint() {
					t.Fatalf("the foreign %s is gone, and no change says so", path)
				}
			}
		}
	})
}

// touched reports whether a change is about the path, or about a directory above it.
func touched(p hostconfig.Plan, path string) bool {
	for _, c := range p.Changes {
		_, inside := c.OldFiles[path]
		if c.Path == path || inside {
			return true
		}
	}
	return false
}

// scripted makes a node from lines of path, kind and content: f is a foreign file, m one in the manifest, g one that is
// only in the manifest, l a symlink, d a directory and s a socket. It returns nil for what no file system can hold.
func scripted(script string) *node {
	n := newNode()
	for i, line := range strings.Split(script, "\n") {
		name, rest, ok := strings.Cut(line, "\t")
		kind, data, ok2 := strings.Cut(rest, "\t")
		if !ok || !ok2 || !fs.ValidPath(name) || name == "." || i > 50 ||
			strings.Count(name, "/") >= hostconfig.MaxDepth {
			continue
		}
		file := &fstest.MapFile{Data: []byte(data), Mode: 0o644}
		owned := hostconfig.OwnedFile{SHA256: []string{hostconfig.File{Data: []byte(data)}.SHA256()}, Mode: 0o644}
		switch kind {
		case "f":
		case "m":
			n.owned[name] = owned
		case "g":
			n.owned[name] = owned
			continue
		case "l":
			file.Mode |= fs.ModeSymlink
		case "d":
			file = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
		case "s":
			file.Mode |= fs.ModeSocket
		default:
			continue
		}
		n.disk[name] = file
	}
	for name := range n.disk {
		for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
			if f := n.disk[dir]; f != nil && !f.Mode.IsDir() {
				return nil
			}
		}
	}
	for name := range n.owned {
		// The manifest only ever has files one directory deep.
		if strings.Count(name, "/") != 1 {
			return nil
		}
	}
	return n
}
