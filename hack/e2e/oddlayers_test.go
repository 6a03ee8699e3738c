//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/hotplate-dev/hotplate/hack/rig"
)

// oddLayer is a small layer in memory.
type oddLayer struct {
	media      types.MediaType
	tar, blob  []byte
	diff, dgst v1.Hash
}

// Digest implements v1.Layer.
func (l *oddLayer) Digest() (v1.Hash, error) { return l.dgst, nil }

// DiffID implements v1.Layer.
func (l *oddLayer) DiffID() (v1.Hash, error) { return l.diff, nil }

// Compressed implements v1.Layer.
func (l *oddLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.blob)), nil
}

// Uncompressed implements v1.Layer.
func (l *oddLayer) Uncompressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.tar)), nil
}

// Size implements v1.Layer.
func (l *oddLayer) Size() (int64, error) { return int64(len(l.blob)), nil }

// MediaType implements v1.Layer.
func (l *oddLayer) MediaType() (types.MediaType, error) { return l.media, nil }

// tarEntry is one entry of an odd layer; content only for files.
type tarEntry struct {
	tar.Header
	content string
}

// pack makes a layer of the media type, which says how it is compressed.
func pack(t *testing.T, media types.MediaType, entries []tarEntry) *oddLayer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := e.Header
		h.Size, h.Format = int64(len(e.content)), tar.FormatPAX
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1_600_000_000, 123_456_789)
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return layerOf(t, media, buf.Bytes())
}

// layerOf makes a layer of a tar archive.
func layerOf(t *testing.T, media types.MediaType, archive []byte) *oddLayer {
	t.Helper()
	var packed bytes.Buffer
	var z io.WriteCloser
	switch media {
	case types.OCILayer:
		z = gzip.NewWriter(&packed)
	case types.OCILayerZStd:
		var err error
		if z, err = zstd.NewWriter(&packed); err != nil {
			t.Fatal(err)
		}
	}
	l := &oddLayer{media: media, tar: archive, blob: archive}
	if z != nil {
		if _, err := z.Write(l.tar); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		l.blob = packed.Bytes()
	}
	l.diff, l.dgst = hashOf(l.tar), hashOf(l.blob)
	return l
}

// sparse is a layer whose only file is stored without its holes, which no writer of Go makes: data, a hole of a megabyte,
// data, and a hole at its end.
func sparse(t *testing.T) *oddLayer {
	t.Helper()
	const hole = 1 << 20
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{0, hole} {
		if _, err := f.WriteAt([]byte("data"), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(2 * hole); err != nil {
		t.Fatal(err)
	}
	archive, err := exec.CommandContext(t.Context(), "tar", "--create", "--format=posix", "--sparse", "--sparse-version=1.0",
		"--mtime=@1600000000", "--owner=0", "--group=0", "--directory="+dir, "sparse").Output()
	if err != nil {
		t.Fatal(err)
	}
	if len(archive) >= hole {
		t.Fatalf("the archive has %d bytes: tar has stored the holes", len(archive))
	}
	return layerOf(t, types.OCILayer, archive)
}

func hashOf(data []byte) v1.Hash {
	h, _, err := v1.SHA256(bytes.NewReader(data))
	if err != nil {
		panic(err) // reading from memory does not fail
	}
	return h
}

func dirEntry(name string, mode int64) tarEntry {
	return tarEntry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}}
}

func fileEntry(name string, mode int64, content string) tarEntry {
	return tarEntry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, content: content}
}

func linkEntry(typ byte, name, to string) tarEntry {
	return tarEntry{Header: tar.Header{Typeflag: typ, Name: name, Linkname: to, Mode: 0o777}}
}

// oddBelow has what the layers above it take away, change or leave unlisted.
func oddBelow() []tarEntry {
	private := dirEntry("odd/private/", 0o700)
	private.Uid, private.Gid = 1000, 1001
	private.PAXRecords = map[string]string{"SCHILY.xattr.user.note": "kept"}
	owned := fileEntry("odd/owned", 0o6750, "set-uid and set-gid")
	owned.Uid, owned.Gid = 65534, 4_000_000
	capable := fileEntry("odd/capable", 0o755, "may bind low ports")
	capable.PAXRecords = map[string]string{
		// cap_net_bind_service+ep, as in capability.h, VFS_CAP_REVISION_2.
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	}
	return []tarEntry{
		dirEntry("odd/", 0o755), private, dirEntry("odd/sticky/", 0o1777), dirEntry("odd/hidden/", 0o755),
		fileEntry("odd/hidden/a", 0o600, "a"), fileEntry("odd/hidden/b", 0o600, "b"),
		dirEntry("odd/gone/", 0o755), fileEntry("odd/gone/deep", 0o644, "deep"), fileEntry("odd/deleted", 0o644, "deleted"),
		owned, capable, fileEntry("odd/first", 0o644, "two names"), linkEntry(tar.TypeLink, "odd/second", "odd/first"),
		fileEntry("odd/becomes-dir", 0o644, "a file"), dirEntry("odd/becomes-link/", 0o755),
		fileEntry("odd/becomes-link/inside", 0o644, "inside"), fileEntry("odd/empty", 0o444, ""),
		{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "odd/fifo", Mode: 0o620}},
		{Header: tar.Header{Typeflag: tar.TypeChar, Name: "odd/null", Mode: 0o666, Devmajor: 1, Devminor: 3}},
		linkEntry(tar.TypeSymlink, "odd/link", "../etc/os-release"), linkEntry(tar.TypeSymlink, "odd/dangling", "nowhere"),
		fileEntry("odd/Größe ü 名", 0o644, "not ASCII"), fileEntry("odd/zeroes", 0o644, string(make([]byte, 256<<10))),
	}
}

// oddAbove changes what oddBelow made. Directories that it does not list must keep what they have.
func oddAbove() []tarEntry {
	return []tarEntry{
		fileEntry("odd/.wh.deleted", 0, ""), fileEntry("odd/.wh.gone", 0, ""),
		fileEntry("odd/hidden/.wh..wh..opq", 0, ""), fileEntry("odd/hidden/c", 0o640, "c"),
		fileEntry("odd/private/new", 0o600, "below a directory that is not listed"),
		fileEntry("odd/sticky/new", 0o600, "likewise"),
		dirEntry("odd/becomes-dir/", 0o750), fileEntry("odd/becomes-dir/inside", 0o644, "inside"),
		linkEntry(tar.TypeSymlink, "odd/becomes-link", "first"),
		fileEntry("odd/third", 0o644, "three names"), linkEntry(tar.TypeLink, "odd/hidden/fourth", "odd/third"),
	}
}

// oddAgain brings back what was taken away.
func oddAgain() []tarEntry {
	return []tarEntry{
		fileEntry("odd/deleted", 0o600, "again"), dirEntry("odd/gone/", 0o700), fileEntry("odd/gone/shallow", 0o644, "new"),
		fileEntry("odd/.wh.link", 0, ""),
	}
}

// odd puts layers that are hard to get right on an image of the given kind: whiteouts, opaque directories, hard
// links, owners, extended attributes, devices, changes of type, directories that are not listed, an empty layer, twice, and
// a sparse file; gzip, zstd and raw.
func odd(t *testing.T, spec rig.ModelSpec) v1.Image {
	t.Helper()
	empty := pack(t, types.OCILayer, nil)
	return onTop(t, build(t, spec), pack(t, types.OCILayer, oddBelow()), empty,
		pack(t, types.OCIUncompressedLayer, oddAbove()), empty, pack(t, types.OCILayerZStd, oddAgain()), sparse(t))
}

// onTop adds layers to an image.
func onTop(t *testing.T, img v1.Image, layers ...*oddLayer) v1.Image {
	t.Helper()
	for _, l := range layers {
		var err error
		if img, err = mutate.Append(img, mutate.Addendum{Layer: l, MediaType: l.media}); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// lastLayer is a layer for the end of an image, with content that no other has.
func lastLayer(t *testing.T) *oddLayer {
	t.Helper()
	name := newName().tag
	return pack(t, types.OCILayer, []tarEntry{fileEntry("last-"+name, 0o644, name+string(bytes.Repeat([]byte{7}, 64<<10)))})
}
