package layer

import (
	"archive/tar"
	"strings"
	"testing"
)

func TestRecordsThatNobodyReadsAreDropped(t *testing.T) {
	h := &tar.Header{Typeflag: tar.TypeDir, Name: "a", PAXRecords: map[string]string{
		"HOTPLATE.test": strings.Repeat("x", 1<<20), "SCHILY.xattr.user.a": "1",
	}}
	w := watcher{root: t.TempDir()}
	if ok, err := w.see(h); !ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	if len(h.PAXRecords) != 1 || h.PAXRecords["SCHILY.xattr.user.a"] != "1" {
		t.Errorf("%d records are left", len(h.PAXRecords))
	}
	if w.named > 1000 {
		t.Errorf("%d bytes were counted", w.named)
	}
}

// TestNamesHaveALimit sees directories whose attributes would fill the memory: a small layer may have any number of them.
func TestNamesHaveALimit(t *testing.T) {
	w := watcher{root: t.TempDir()}
	value := strings.Repeat("x", 1<<20)
	for n := 0; ; n++ {
		h := &tar.Header{Typeflag: tar.TypeDir, Name: "a", PAXRecords: map[string]string{"SCHILY.xattr.user.a": value}}
		ok, err := w.see(h)
		if err != nil {
			if ok || n < 200 || !strings.Contains(err.Error(), "512 MiB") {
				t.Errorf("the %d. was refused: %v, %v", n, ok, err)
			}
			return
		}
		if n > 600 {
			t.Fatal("nothing was refused")
		}
	}
}
