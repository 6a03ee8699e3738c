package main

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hotplate-dev/hotplate/hostconfig/apply"
)

// writeFiles writes files below dir, each in one rename.
func writeFiles(dir string, files map[string][]byte) error {
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := apply.WriteFile(path, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// readTree describes every entry below dir: mode, and the content's hash.
func readTree(dir string) (map[string]string, error) {
	tree := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		desc := info.Mode().String()
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			desc += fmt.Sprintf(" %d bytes %x %s", len(data), sha256.Sum256(data), info.ModTime())
		}
		rel, err := filepath.Rel(dir, path)
		tree[rel] = desc
		return err
	})
	return tree, err
}

func printFile(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	fmt.Printf("%s:\n%s", path, indent(string(data)))
	return nil
}
