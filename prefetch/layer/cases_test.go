package layer_test

import (
	"archive/tar"
	"fmt"
	"strings"
	"testing"
	"time"
)

// acl is a POSIX ACL as the kernel stores it: user::rwx, user:1000:rwx, group::r-x, mask::rwx, other::r-x.
const acl = "\x02\x00\x00\x00" +
	"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x07\x00\xe8\x03\x00\x00" + "\x04\x00\x05\x00\xff\xff\xff\xff" +
	"\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x05\x00\xff\xff\xff\xff"

// A layering is a list of layers, each a list of entries.
type layering [][]entry

// base is what odd directories look like: sticky, setgid, closed, with xattrs, with an old time.
func base() []entry {
	return []entry{
		dir("tmp", 0o1777),
		dir("priv", 0o700).owner(1000, 1001).xattr("user.note", "below").xattr("user.other", "below"),
		dir("priv/deep", 0o750).owner(5, 6),
		file("priv/deep/f", "one"),
		dir("team", 0o2775).owner(0, 50),
		dir("old", 0o711).time(time.Unix(5, 0)),
		file("old/f", "old"),
		file("file", "a file"),
		dir("dir", 0o755), file("dir/x", "x"), file("dir/y", "y"), dir("dir/sub", 0o700), file("dir/sub/z", "z"),
		soft("link", "dir"),
		file("bin/su", "su").mode(0o4755),
	}
}

func accepted() map[string]layering {
	many := layering{base()}
	for i := range 127 {
		many = append(many, []entry{file(fmt.Sprintf("priv/n%d/f", i%5), fmt.Sprint(i))})
	}
	wide := layering{base(), {}}
	for i := range 1100 { // more than are read from a directory at once
		wide[1] = append(wide[1], file(fmt.Sprintf("n%d/f", i), ""))
	}
	return map[string]layering{
		"wide":                        wide,
		"nothing":                     {{}, {}},
		"unlisted parents":            {base(), {file("tmp/f", ""), file("priv/f", ""), file("priv/deep/g", ""), file("team/f", "")}},
		"unlisted with nothing below": {base(), {file("new/f", ""), file("new/er/f", ""), file("priv/new/f", "")}},
		"unlisted below setgid":       {base(), {file("team/new/er/f", ""), dir("team/dir", 0o755), file("team/dir/in/f", "")}},
		"unlisted, listed later": {base(), {file("priv/f", ""), dir("priv", 0o711).owner(7, 7).xattr("user.note", "here"),
			file("priv/g", "")}},
		"unlisted, listed, nested":      {base(), {file("team/f", ""), dir("team", 0o755), file("team/new/f", "")}},
		"unlisted, in one listed later": {base(), {file("team/new/f", ""), dir("team", 0o755).owner(1, 1)}},
		"unlisted, gone, again": {base(), {file("priv/deep/f", ""), file("priv", "now a file"), file("priv/../x", ""),
			soft("priv", "dir"), dir("priv", 0o700), file("priv/deep/f", "")}},
		"unlisted in layer two layers below": {base(), {file("other", "")}, {file("priv/deep/f", "")}},
		"unlisted opaque alone keeps time":   {base(), {file("old/.wh..wh..opq", "")}},
		"unlisted opaque and entry":          {base(), {file("old/.wh..wh..opq", ""), file("old/g", "")}},
		"unlisted opaque of nothing":         {base(), {file("nowhere/.wh..wh..opq", "")}},
		"whiteout in unlisted":               {base(), {file("priv/deep/.wh.f", ""), file("dir/.wh.x", "").owner(3, 4)}},
		"whiteout of directory and re-add":   {base(), {file(".wh.dir", "")}, {dir("dir", 0o755), file("dir/new", "")}},
		"whiteout, unlisted re-add":          {base(), {file(".wh.dir", "")}, {file("dir/new", "")}},
		"below is a file":                    {base(), {file("file/f", "")}, {file("file/g", "")}},
		"below is a symlink":                 {base(), {file("link/f", "")}, {file("link/f2", "")}},
		"parent replaced in same layer":      {base(), {dir("a", 0o755), file("a/f", ""), file("a", "file")}},
		"type changes": {base(), {file("dir", "now file"), dir("file", 0o700), soft("tmp", "priv"), node("old", tar.TypeFifo, 0, 0)},
			{dir("dir", 0o755), file("file", "again"), dir("tmp", 0o1777), hard("old", "file")}},
		"opaque":              {base(), {dir("dir", 0o755), file("dir/.wh..wh..opq", ""), file("dir/x", "new")}},
		"opaque after":        {base(), {dir("dir", 0o755), file("dir/x", "new"), file("dir/.wh..wh..opq", "")}},
		"opaque root":         {base(), {file(".wh..wh..opq", ""), file("x", "")}},
		"the root is ignored": {{dir(".", 0o700).owner(9, 9).xattr("user.root", "x"), file("./f", "")}, {dir(".", 0o711), dir("/", 0o711)}},
		"strange names": {base(), {file("a/../b", ""), file("/abs", ""), file("../../up", ""), file("./x/./y//z", ""), dir("..", 0o700),
			file("dir/..", "ignored")}},
		"through own symlink":       {base(), {soft("l", "priv/deep"), file("l/new", ""), soft("out", "/../../etc"), file("out/f", "")}},
		"dangling symlink parent":   {base(), {soft("l", "no/where"), file("l/f", ""), soft("dir", "no"), file("dir/where/g", "")}},
		"hard links":                {base(), {file("h/one", "x"), hard("g/two", "h/one"), hard("three", "g/two"), soft("s", "three"), hard("t", "s")}},
		"hard link replaced":        {base(), {file("h", "x"), hard("i", "h"), file("h", "y")}},
		"xattrs":                    {{file("f", "x").xattr("user.a", "1").xattr("security.capability", capability), dir("d", 0o755).xattr("user.b", "2"), soft("l", "f").xattr("user.c", "3"), file("t", "").xattr("trusted.overlay.opaque", "y")}},
		"access ACL below":          {append(base(), dir("acl", 0o775).xattr("system.posix_acl_access", acl)), {file("acl/f", "")}, {file("acl/g", ""), dir("acl", 0o750)}},
		"default ACL below":         {append(base(), dir("acl", 0o775).xattr("system.posix_acl_default", acl)), {file("acl/f", ""), file("acl/sub/g", "")}},
		"devices and fifos":         {{node("null", tar.TypeChar, 1, 3), node("sda", tar.TypeBlock, 8, 0).owner(0, 6), node("fifo", tar.TypeFifo, 0, 0)}, {node("null", tar.TypeFifo, 0, 0), file("d/.wh.x", ""), node("like-whiteout", tar.TypeChar, 0, 0)}},
		"setuid and sticky":         {base(), {file("su", "").mode(0o6755).owner(1, 2), dir("s", 0o1777), dir("g", 0o2755), file("g/f", "")}},
		"times of directories":      {base(), {dir("a", 0o755).time(time.Unix(77, 0)), dir("a/b", 0o755).time(time.Unix(78, 0)), file("a/b/c", ""), file("a/d", "")}},
		"times out of range":        {base(), {file("early", "").time(time.Unix(-5, 0)), file("late", "").time(time.Unix(1<<33, 0))}},
		"mode 0":                    {base(), {dir("zero", 0), file("zero/f", "").mode(0)}, {file("zero/g", "")}},
		"base with whiteouts":       {{dir("d", 0o755), file("d/a", ""), file("d/b", ""), file("d/.wh.a", ""), file("e/.wh..wh..opq", ""), file("e/x", "")}, {file("d/c", "")}},
		"base, opaque after":        {{file("d/a", ""), file("d/.wh..wh..opq", ""), file("d/b", "")}},
		"global header":             {base(), {entry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}}, file("f", "")}},
		"long names":                {base(), {file(strings.Repeat("d/", 100)+"f", ""), file("priv/"+strings.Repeat("n", 255), "")}},
		"many layers":               many,
		"same file twice, unsorted": {base(), {file("priv/deep/f", "1"), file("tmp/x", ""), file("priv/deep/f", "22"), dir("priv/deep", 0o700), dir("priv", 0o711)}},
	}
}

// capability is CAP_NET_BIND_SERVICE, permitted and effective, revision 2.
const capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func refused() map[string]layering {
	return map[string]layering{
		"hard link to below":                {base(), {hard("h", "file")}},
		"hard link to nothing":              {{hard("h", "nothing")}},
		"whiteout of own file":              {base(), {file("f", ""), file(".wh.f", "")}},
		"two whiteouts":                     {base(), {file("dir/.wh.x", ""), file("dir/.wh.x", "")}},
		"below a directory removed below":   {base(), {file(".wh.dir", "")}, {file("dir/sub/f", "")}},
		"parent is a file":                  {base(), {file("p", ""), file("p/f", "")}},
		"parent is a whiteout":              {base(), {file(".wh.dir", ""), file("dir/f", "")}},
		"name too long":                     {base(), {file(strings.Repeat("n", 256), "")}},
		"symlink loop":                      {base(), {soft("a", "b"), soft("b", "a"), file("a/f", "")}},
		"whiteout of dot":                   {base(), {file("dir/.wh..", "")}},
		"whiteout of dotdot":                {base(), {file("dir/.wh...", "")}},
		"device number too large":           {base(), {node("dev", tar.TypeChar, 1<<40, 0)}},
		"unknown type":                      {base(), {node("x", 'Z', 0, 0)}},
		"empty link target":                 {base(), {soft("x", "")}},
		"symlink loop in a lower directory": {{soft("a", "b"), soft("b", "a")}, {dir("a", 0o755)}, {file("a/f/g", "")}, {hard("x", "none")}},
	}
}

func blobs(t testing.TB, l layering) []blob {
	t.Helper()
	var layers []blob
	for n, entries := range l {
		data := tarOf(t, entries...)
		// All kinds are treated alike, and the way to the tar differs.
		layers = append(layers, []blob{gzipped(t, data), raw(data), zstded(t, data)}[n%3])
	}
	return layers
}

func TestSameAsContainerd(t *testing.T) {
	needsOverlay(t)
	for name, l := range accepted() {
		t.Run(name, func(t *testing.T) {
			if _, err := compare(t, blobs(t, l)); err != nil {
				t.Errorf("neither takes it: %v", err)
			}
		})
	}
}
