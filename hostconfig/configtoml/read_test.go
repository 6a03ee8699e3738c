package configtoml_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/configtoml"
)

func paths(c *configtoml.Config) []string {
	var out []string
	for _, f := range c.Files {
		out = append(out, f.Path)
	}
	return out
}

// TestReadsInContainerdsOrder: breadth first, patterns in the order of names, each path once.
func TestReadsInContainerdsOrder(t *testing.T) {
	c := read(t, node(map[string]string{
		"config.toml":       "imports = [\"a.toml\", \"conf.d/*.toml\", \"/etc/containerd/b.toml\", \"./a.toml\"]",
		"a.toml":            "imports = [\"conf.d/../c.toml\"]",
		"b.toml":            "",
		"c.toml":            "imports = [\"config.toml\"]",
		"conf.d/20.toml":    "",
		"conf.d/10.toml":    "imports = [\"sub/x.toml\"]",
		"conf.d/no.conf":    "imports = 5",
		"conf.d/sub/x.toml": "",
	}), "2.4.2")
	want := []string{
		"/etc/containerd/config.toml", "/etc/containerd/a.toml", "/etc/containerd/conf.d/10.toml",
		"/etc/containerd/conf.d/20.toml", "/etc/containerd/b.toml", "/etc/containerd/c.toml",
		"/etc/containerd/conf.d/sub/x.toml",
	}
	if diff := cmp.Diff(want, paths(c)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if got := c.Files[6].ImportedBy; got != "/etc/containerd/conf.d/10.toml" {
		t.Errorf("x.toml is imported by %q", got)
	}
}

// TestSymlinksStayOnTheNode reads a real directory as the node's root, with absolute links, links upwards and a link
// that names what only the machine of this test has.
func TestSymlinksStayOnTheNode(t *testing.T) {
	root := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside.toml")
	write(t, outside, "version = 2\n")
	write(t, filepath.Join(root, "opt/vendor/config.toml"), "version = 2\nimports = [\"conf.d/*.toml\"]\n")
	write(t, filepath.Join(root, "opt/vendor/real/x.toml"),
		"[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/old\"\n")
	link(t, "/opt/vendor/config.toml", filepath.Join(root, "etc/containerd/config.toml"))
	link(t, "../../../../../../opt/vendor/real", filepath.Join(root, "etc/containerd/conf.d"))
	link(t, outside, filepath.Join(root, "opt/vendor/real/z.toml"))

	c := read(t, os.DirFS(root), "2.4.2")
	// containerd joins a relative import with the name by which it knows the importing file, not with where that is.
	want := []string{"/etc/containerd/config.toml", "/etc/containerd/conf.d/x.toml"}
	if diff := cmp.Diff(want, paths(c)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if w := c.Warnings(); len(w) == 0 || w[0].Code != "missing-import" || !strings.Contains(w[0].Message, "z.toml") {
		t.Errorf("got warnings %v, want that z.toml is not there", w)
	}
	if err := os.Remove(filepath.Join(root, "opt/vendor/real/z.toml")); err != nil {
		t.Fatal(err)
	}
	edit, err := read(t, os.DirFS(root), "2.4.2").Plan(hostsDir, configtoml.Options{})
	if err != nil || edit.Path != "/opt/vendor/real/x.toml" {
		t.Errorf("plans %q, %v; want the file itself and not the link to it", edit.Path, err)
	}
}

// TestLinksInACircle end as they do for containerd: the file cannot be read.
func TestLinksInACircle(t *testing.T) {
	root := node(map[string]string{"config.toml": "version = 2\nimports = [\"a.toml\"]\n"})
	root["etc/containerd/a.toml"] = &fstest.MapFile{Data: []byte("b.toml"), Mode: fs.ModeSymlink}
	root["etc/containerd/b.toml"] = &fstest.MapFile{Data: []byte("a.toml"), Mode: fs.ModeSymlink}
	if w := read(t, root, "2.4.2").Warnings(); len(w) == 0 || w[0].Code != "missing-import" {
		t.Errorf("got warnings %v", w)
	}
}

// TestOneFileByTwoNames: an edit of a file shows under both names.
func TestOneFileByTwoNames(t *testing.T) {
	root := node(map[string]string{
		"config.toml": "version = 2\nimports = [\"a.toml\", \"b.toml\"]\n",
		"a.toml":      "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/old\"\n",
	})
	root["etc/containerd/b.toml"] = &fstest.MapFile{Data: []byte("a.toml"), Mode: fs.ModeSymlink}
	edit, err := read(t, root, "2.4.2").Plan(hostsDir, configtoml.Options{})
	if err != nil || edit.Path != "/etc/containerd/a.toml" {
		t.Fatalf("plans %q, %v", edit.Path, err)
	}
	root["etc/containerd/a.toml"].Data = edit.New
	if got := read(t, root, "2.4.2").ConfigPath().Value; got != hostsDir {
		t.Errorf("config_path is %q afterwards", got)
	}
}

// TestNoFileInALinkedDirectory: the new file goes where the
// link leads.
func TestNoFileInALinkedDirectory(t *testing.T) {
	root := fstest.MapFS{
		"etc/containerd": {Data: []byte("/opt/containerd"), Mode: fs.ModeSymlink},
		"opt/containerd": {Mode: fs.ModeDir | 0o755},
	}
	c := read(t, root, "2.4.2")
	edit, err := c.Plan(hostsDir, configtoml.Options{})
	if c.Exists() || err != nil || edit.Path != "/opt/containerd/config.toml" || edit.Old != nil {
		t.Errorf("exists %t, plans %q with old %q, %v", c.Exists(), edit.Path, edit.Old, err)
	}
}

func TestReadIsBounded(t *testing.T) {
	many := map[string]string{"config.toml": "imports = [\"conf.d/*.toml\"]"}
	for i := range 100 {
		many[fmt.Sprintf("conf.d/%d.toml", i)] = ""
	}
	deep := map[string]string{"config.toml": "imports = [\"0.toml\"]"}
	for i := range 20 {
		deep[fmt.Sprintf("%d.toml", i)] = fmt.Sprintf("imports = [\"%d.toml\"]", i+1)
	}
	crowded := map[string]string{"config.toml": "imports = [\"conf.d/*.toml\"]"}
	for i := range 5000 {
		crowded[fmt.Sprintf("conf.d/%d", i)] = ""
	}
	loop := node(map[string]string{"config.toml": "imports = [\"sub/config.toml\"]"})
	loop["etc/containerd/sub"] = &fstest.MapFile{Data: []byte("."), Mode: fs.ModeSymlink}
	for name, root := range map[string]fs.FS{
		"many files":         node(many),
		"deep imports":       node(deep),
		"a crowded folder":   node(crowded),
		"a folder in itself": loop,
		"a large root file":  node(map[string]string{"config.toml": strings.Repeat("#", 1<<20+1)}),
		"a large import": node(map[string]string{
			"config.toml": "imports = [\"a.toml\"]", "a.toml": strings.Repeat("#", 1<<20+1),
		}),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := configtoml.Read(root, rootFile, version(t, "2.4.2"))
			if !errors.Is(err, configtoml.ErrTooLarge) {
				t.Errorf("got %v, want ErrTooLarge", err)
			}
		})
	}
}

func TestReadErrors(t *testing.T) {
	good := node(map[string]string{"config.toml": ""})
	if _, err := configtoml.Read(good, "config.toml", version(t, "2.4.2")); err == nil {
		t.Error("reads a relative path")
	}
	for _, v := range []hostconfig.Version{{}, {Major: 3}} {
		_, err := configtoml.Read(good, rootFile, v)
		var refused *configtoml.RefusedError
		if !errors.As(err, &refused) || refused.Code != "unknown-version" {
			t.Errorf("containerd %s: got %v, want unknown-version", v, err)
		}
	}
	dir := fstest.MapFS{"etc/containerd/config.toml": {Mode: fs.ModeDir | 0o755}}
	if _, err := configtoml.Read(dir, rootFile, version(t, "2.4.2")); err == nil {
		t.Error("reads a directory")
	}
	fifo := fstest.MapFS{"etc/containerd/config.toml": {Mode: fs.ModeNamedPipe | 0o644}}
	if _, err := configtoml.Read(fifo, rootFile, version(t, "2.4.2")); err == nil {
		t.Error("reads a pipe")
	}
}

// TestHashKnowsTheSet: it changes with each byte, with a file more or less, and with nothing else.
func TestHashKnowsTheSet(t *testing.T) {
	base := map[string]string{"config.toml": "imports = [\"conf.d/*.toml\"]", "conf.d/a.toml": "x = 1", "unrelated": "1"}
	hash := func(change func(files map[string]string)) string {
		files := map[string]string{}
		for k, v := range base {
			files[k] = v
		}
		change(files)
		return read(t, node(files), "2.4.2").Hash()
	}
	same := hash(func(map[string]string) {})
	if got := hash(func(f map[string]string) { f["unrelated"] = "2" }); got != same {
		t.Error("a file that is not read changes the hash")
	}
	for name, change := range map[string]func(map[string]string){
		"the root file":        func(f map[string]string) { f["config.toml"] += "\n" },
		"an import":            func(f map[string]string) { f["conf.d/a.toml"] = "x = 2" },
		"another import":       func(f map[string]string) { f["conf.d/b.toml"] = "" },
		"an import less":       func(f map[string]string) { delete(f, "conf.d/a.toml") },
		"no root file":         func(f map[string]string) { delete(f, "config.toml") },
		"an import's new name": func(f map[string]string) { f["conf.d/c.toml"] = f["conf.d/a.toml"]; delete(f, "conf.d/a.toml") },
	} {
		if hash(change) == same {
			t.Errorf("%s: the hash is the same", name)
		}
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

// TestTakes asks for files that are not there.
func TestTakes(t *testing.T) {
	root := node(map[string]string{
		"config.toml":   "imports = [\"a.toml\", \"conf.d/*.toml\", \"all.d/*\", \"/etc/containerd/linked.d/*\"]",
		"a.toml":        "imports = [\"later.toml\"]",
		"all.d/x.toml":  "",
		"later.toml":    "",
		"real.d/x.toml": "",
	})
	root["etc/containerd/linked.d"] = &fstest.MapFile{Data: []byte("real.d"), Mode: fs.ModeSymlink | 0o777}
	c := read(t, root, "2.4.2")
	for file, want := range map[string]string{
		"/etc/containerd/config.toml.tmp":   "",
		"/etc/containerd/conf.d/x.toml.tmp": "",
		"/etc/containerd/conf.d/y.toml":     "/etc/containerd/config.toml",
		"/etc/containerd/all.d/x.toml.tmp":  "/etc/containerd/config.toml",
		"/etc/containerd/real.d/x.toml.tmp": "/etc/containerd/config.toml",
		"/etc/containerd/later.toml":        "/etc/containerd/a.toml",
	} {
		if importer, pattern := c.Takes(file); importer != want || (importer == "") != (pattern == "") {
			t.Errorf("%s is taken by %q of %q, want %q", file, pattern, importer, want)
		}
	}
}
