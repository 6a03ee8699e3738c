package supervised

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"
)

const (
	// maxConfig bounds what is read of one file of a configuration, in bytes.
	maxConfig = 4 << 20
	// maxFiles is how many files a configuration may import.
	maxFiles = 256
)

// imports follows the imports of a candidate. In the place of the original it would be read once; beside it, an import that
// takes the original has that read too, which then prevails; and one that takes the candidate would have a crash leave it
// to the daemon. The rules are those of resolveImports of cmd/containerd/server/config/config.go, 2.4.2.
type imports struct {
	taken    []string // paths that no import may name
	original string   // the file that no import may lead to
	seen     map[string]bool
}

// check looks at the imports of a file, and at theirs.
func (i *imports) check(path string, data []byte) error {
	patterns, err := parseImports(path, data)
	if err != nil {
		return err
	}
	for _, pattern := range patterns {
		for _, taken := range i.taken {
			if takes(pattern, taken) {
				return fmt.Errorf("%s imports %s, which takes containerd's main configuration file too", path, pattern)
			}
		}
		for _, name := range glob(pattern) {
			if err := i.follow(path, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// follow checks a file that another one imports.
func (i *imports) follow(by, name string) error {
	if real, err := filepath.EvalSymlinks(name); err == nil && real == i.original {
		return fmt.Errorf("%s imports containerd's main configuration file as %s", by, name)
	}
	if i.seen[name] {
		return nil
	}
	i.seen[name] = true
	if len(i.seen) > maxFiles {
		return fmt.Errorf("it imports more than %d files", maxFiles)
	}
	data, err := readFile(name)
	if err != nil {
		return err
	}
	return i.check(name, data)
}

// parseImports are the paths and patterns that a file imports, made absolute.
func parseImports(path string, data []byte) ([]string, error) {
	var doc struct {
		Imports []string `toml:"imports"`
	}
	if err := toml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("what %s imports is not known: it is not TOML", path) // whose error may show passwords
	}
	for i, p := range doc.Imports {
		if p = filepath.Clean(p); !filepath.IsAbs(p) {
			p = filepath.Join(filepath.Dir(path), p)
		}
		doc.Imports[i] = p
	}
	return doc.Imports, nil
}

// takes tells whether a path or pattern takes a path. A pattern that containerd does not understand it refuses itself.
func takes(pattern, path string) bool {
	if !strings.Contains(pattern, "*") {
		return pattern == path
	}
	ok, err := filepath.Match(pattern, path)
	return ok && err == nil
}

// glob are the files of a path or pattern.
func glob(pattern string) []string {
	if !strings.Contains(pattern, "*") {
		return []string{pattern}
	}
	names, err := filepath.Glob(pattern)
	if err != nil {
		return nil
	}
	return names
}

// readFile reads a regular file.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe would keep us waiting
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxConfig {
		return nil, fmt.Errorf("%s is no file, or has more than %d bytes", path, maxConfig)
	}
	return io.ReadAll(io.LimitReader(f, maxConfig))
}
