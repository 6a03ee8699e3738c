package layer_test

import (
	"archive/tar"
	"bytes"
	"testing"
)

// FuzzTar lays out any bytes as the second layer of an image, and compares what comes out, or that nothing does, with
// containerd.
func FuzzTar(f *testing.F) {
	for _, cases := range []map[string]layering{accepted(), refused()} {
		for _, l := range cases {
			for _, entries := range l[:min(len(l), 3)] {
				if data := tarOf(f, entries...); len(data) < 64<<10 {
					f.Add(data)
				}
			}
		}
	}
	needsOverlay(f)
	below := raw(tarOf(f, base()...))
	f.Fuzz(func(t *testing.T, data []byte) {
		if !small(data) {
			t.Skip("it would fill the disk")
		}
		_, err := compare(t, []blob{below, raw(data)})
		t.Log(err)
	})
}

// small tells whether the files of a tar, sparse ones included, take little room.
func small(data []byte) bool {
	const most = 1 << 20
	r := tar.NewReader(bytes.NewReader(data))
	for total := int64(0); total < most; {
		h, err := r.Next()
		if err != nil {
			return true
		}
		total += h.Size
	}
	return false
}
