// Package generated is what programs that write files of the repository have in common.
package generated

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// File is a file that a program writes. Path is relative to the root of the repository, where such programs run.
type File struct {
	Path string
	Data []byte
}

// Write writes the file, and its directory if that is missing. A crash leaves it cut off; the next run writes it whole.
func (f File) Write() error {
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(f.Path, f.Data, 0o644)
}

// Verify returns an error that shows the first line in which the file is out of date, and names the command that writes it.
func (f File) Verify(command string) error {
	got, err := os.ReadFile(f.Path)
	if err != nil {
		return fmt.Errorf("run `%s` and commit what it writes: %w", command, err)
	}
	return f.compare(got, command)
}

func (f File) compare(got []byte, command string) error {
	if bytes.Equal(got, f.Data) {
		return nil
	}
	gotLines, wantLines := bytes.Split(got, []byte("\n")), bytes.Split(f.Data, []byte("\n"))
	n := 0
	for n < min(len(gotLines), len(wantLines)) && bytes.Equal(gotLines[n], wantLines[n]) {
		n++
	}
	line := func(lines [][]byte) []byte {
		if n < len(lines) {
			return lines[n]
		}
		return []byte("(end of file)")
	}
	return fmt.Errorf("%s is out of date from line %d on; run `%s` and commit it\n-%s\n+%s", f.Path, n+1, command, line(gotLines),
		line(wantLines))
}
