package certs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// maxFiles bounds how many files of a directory are read.
const maxFiles = 1000

// ReadBundleFile reads the bundle in a file. Errors name the file and the block.
func ReadBundleFile(path string) (Bundle, error) {
	data, err := readFile(path)
	if err != nil {
		return Bundle{}, fmt.Errorf("read bundle: %w", err)
	}
	b, err := ParseBundle(data)
	if err != nil {
		return Bundle{}, fmt.Errorf("read bundle %q: %w", path, err)
	}
	return b, nil
}

// ReadBundleDir merges the bundles in the *.pem, *.crt and *.cer files of a directory. Files are regular ones or
// symlinks to them, as kubelet makes them for a mounted ConfigMap; names that begin with a dot, such as its ..data, are
// left out. All faults are reported, with file and block.
func ReadBundleDir(dir string) (Bundle, error) {
	names, err := bundleNames(dir)
	if err != nil {
		return Bundle{}, fmt.Errorf("read bundle directory %q: %w", dir, err)
	}
	var (
		bundles []Bundle
		faults  []error
	)
	for _, name := range names {
		b, err := ReadBundleFile(filepath.Join(dir, name))
		if err != nil {
			faults = append(faults, err)
			continue
		}
		bundles = append(bundles, b)
	}
	if err := errors.Join(faults...); err != nil {
		return Bundle{}, err
	}
	merged := Merge(bundles...)
	switch {
	case merged.IsZero():
		return Bundle{}, fmt.Errorf("read bundle directory %q: it holds no *.pem, *.crt or *.cer file", dir)
	case merged.Len() > MaxCertificates:
		return Bundle{}, fmt.Errorf("read bundle directory %q: it holds more than %d certificates", dir,
			MaxCertificates)
	}
	return merged, nil
}

// bundleNames returns the names of the files in dir to read, sorted.
func bundleNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	all, err := d.Readdirnames(maxFiles + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(all) > maxFiles {
		return nil, fmt.Errorf("it holds more than %d files", maxFiles)
	}
	var names []string
	for _, name := range all {
		ext := filepath.Ext(name)
		if strings.HasPrefix(name, ".") || ext != ".pem" && ext != ".crt" && ext != ".cer" {
			continue
		}
		// Stat follows kubelet's symlinks. A directory of that name is not a file to read.
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.IsDir() {
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// ReadKeyPair reads a certificate chain and its key from two files. Errors name them.
func ReadKeyPair(certPath, keyPath string) (KeyPair, error) {
	cert, certErr := readFile(certPath)
	key, keyErr := readFile(keyPath)
	if err := errors.Join(certErr, keyErr); err != nil {
		return KeyPair{}, fmt.Errorf("read key pair: %w", err)
	}
	k, err := ParseKeyPair(cert, key)
	if err != nil {
		return KeyPair{}, fmt.Errorf("read key pair %q and %q: %w", certPath, keyPath, err)
	}
	return k, nil
}

// readFile reads a regular file of bounded size. It opens without blocking, so a FIFO in a file's place does not hang.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%q has more than %d bytes", path, MaxSize)
	}
	return data, nil
}
