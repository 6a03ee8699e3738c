package apply

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestWriteFileReplacesAFileAndWhatACrashLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	for _, f := range []string{path, TempFile(path)} {
		if err := os.WriteFile(f, []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteFile(path, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil || string(data) != "new" {
		t.Errorf("read %q, %v; want new", data, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left in the directory: %v, %v; want the file alone", entries, err)
	}
}

func TestWriteFileKeepsTheOldContentWhenItFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	if err := os.WriteFile(path, []byte("old"), fs.FileMode(0o600)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(TempFile(path)+"/in-the-way", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("new"), 0o600); err == nil {
		t.Error("no error with a directory in the way of the temporary file")
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "old" {
		t.Errorf("read %q, %v; want old", data, err)
	}
}
