package build

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// rootsPath is where the CA roots are in the image: Go, and most else, looks here first. Programs are in the root directory, so that
// a directory of the node's, such as /usr/bin, can be mounted without hiding them.
const rootsPath = "etc/ssl/certs/ca-certificates.crt"

// content is one file of the image, which is all that a layer has beside the directories above it.
type content struct {
	name string // without a slash before it
	mode int64
	data []byte
}

// layer makes the layer of one file. file is where its tar is kept as long as the layer is used.
func layer(c content, mtime time.Time, file string) (v1.Layer, error) {
	if err := writeTar(c, mtime, file); err != nil {
		return nil, fmt.Errorf("write the layer of %s: %w", c.name, err)
	}
	l, err := tarball.LayerFromFile(file, tarball.WithMediaType(types.OCILayer),
		tarball.WithCompressionLevel(gzip.DefaultCompression), tarball.WithCompressedCaching)
	if err != nil {
		return nil, fmt.Errorf("compress the layer of %s: %w", c.name, err)
	}
	return l, nil
}

// writeTar depends on nothing but its arguments: everything belongs to root, has one time, and has no name of an owner.
func writeTar(c content, mtime time.Time, file string) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	header := func(kind byte, name string, mode, size int64) error {
		return w.WriteHeader(&tar.Header{
			Format: tar.FormatUSTAR, Typeflag: kind, Name: name, Mode: mode, Size: size, ModTime: mtime,
		})
	}
	for i := range c.name {
		if c.name[i] == '/' {
			if err := header(tar.TypeDir, c.name[:i+1], 0o755, 0); err != nil {
				return err
			}
		}
	}
	if err := header(tar.TypeReg, c.name, c.mode, int64(len(c.data))); err != nil {
		return err
	}
	if _, err := w.Write(c.data); err != nil {
		return err
	}
	return w.Close()
}
