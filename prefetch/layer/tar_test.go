package layer_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// past is long before the test, so that a time which is not from a tar is known by being new.
var past = time.Unix(1_000_000_000, 0)

// entry is one of a tar. The functions below make them, the methods change them.
type entry struct {
	tar.Header
	data []byte
}

func dir(name string, mode int64) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}}
}

func file(name, data string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}, data: []byte(data)}
}

func soft(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

func hard(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}}
}

func node(name string, kind byte, major, minor int64) entry {
	return entry{Header: tar.Header{Typeflag: kind, Name: name, Mode: 0o620, Devmajor: major, Devminor: minor}}
}

func (e entry) mode(m int64) entry     { e.Mode = m; return e }
func (e entry) owner(u, g int) entry   { e.Uid, e.Gid = u, g; return e }
func (e entry) time(t time.Time) entry { e.ModTime = t; return e }
func (e entry) xattr(k, v string) entry {
	records := map[string]string{"SCHILY.xattr." + k: v}
	for k, v := range e.PAXRecords {
		records[k] = v
	}
	e.PAXRecords = records
	e.Format = tar.FormatPAX
	return e
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i, e := range entries {
		if e.ModTime.IsZero() && e.Typeflag != tar.TypeXGlobalHeader {
			e.ModTime = past.Add(time.Duration(i) * time.Second)
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// blob is a layer as a registry has it.
type blob struct {
	media  string
	data   []byte
	diffID digest.Digest // empty for a tar that is the blob
}

func raw(data []byte) blob { return blob{media: ocispec.MediaTypeImageLayer, data: data} }

func gzipped(t testing.TB, data []byte) blob {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return blob{media: ocispec.MediaTypeImageLayerGzip, data: buf.Bytes(), diffID: digest.FromBytes(data)}
}

func zstded(t testing.TB, data []byte, opts ...zstd.EOption) blob {
	t.Helper()
	var buf bytes.Buffer
	w, err := zstd.NewWriter(&buf, append(opts, zstd.WithEncoderConcurrency(1))...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return blob{media: ocispec.MediaTypeImageLayerZstd, data: buf.Bytes(), diffID: digest.FromBytes(data)}
}
