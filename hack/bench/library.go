package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/bench/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

// library is the registry with the images, which it keeps from run to run.
type library struct {
	lock     *os.File
	dir      string
	registry *rig.Registry
	log      *accessLog
}

// openLibrary takes the directory for this process alone, removes what other versions of the generator and killed runs
// left in it, and starts the registry.
func openLibrary(ctx context.Context, root, mode string) (*library, error) {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, fmt.Errorf("create a place for the images: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(root, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the images: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w: another benchmark is running", lock.Name(), err), lock.Close())
	}
	l := &library{lock: lock, dir: filepath.Join(root, "registry-"+generator+"-"+mode)}
	if err := l.start(ctx, root); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *library) start(ctx context.Context, root string) error {
	old, err := filepath.Glob(filepath.Join(root, "registry-*"))
	if err != nil {
		return err
	}
	for _, dir := range old {
		if ours, _ := filepath.Match("registry-"+generator+"-*", filepath.Base(dir)); ours {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove the images of another version: %w", err)
		}
	}
	if err := os.RemoveAll(filepath.Join(l.dir, "registry.log")); err != nil {
		return err
	}
	if l.registry, err = rig.StartRegistry(ctx, rig.RegistryConfig{Dir: l.dir}); err != nil {
		return err
	}
	l.log = &accessLog{path: l.registry.LogPath(), url: l.registry.URL()}
	return nil
}

// Close ends the registry. The images stay.
func (l *library) Close() error {
	var err error
	if l.registry != nil {
		err = l.registry.Close()
	}
	return errors.Join(err, l.lock.Close())
}

// repository is the images' path in the registry.
const repository = "bench/model"

// stored is an image in the registry.
type stored struct {
	spec   imageSpec
	digest string
	// blobs are the files of its blobs on the registry's disk.
	blobs  []string
	layers int
	bytes  int64
}

// ensure generates and pushes the image unless the registry has it. say is told when that takes time.
func (l *library) ensure(ctx context.Context, spec imageSpec, say func(string)) (stored, error) {
	ref, err := name.ParseReference(l.registry.Host()+"/"+repository+":"+spec.tag(), name.Insecure)
	if err != nil {
		return stored{}, err
	}
	if _, err := remote.Head(ref, remote.WithContext(ctx)); err != nil {
		say("generate and push image " + spec.name)
		img, err := rig.BuildImage(1, spec.layers)
		if err != nil {
			return stored{}, err
		}
		if _, err := rig.Push(ctx, ref.Name(), img, rig.PushOptions{Insecure: true}); err != nil {
			return stored{}, err
		}
	}
	img, err := remote.Image(ref, remote.WithContext(ctx))
	if err != nil {
		return stored{}, fmt.Errorf("read image %s from the registry: %w", spec.name, err)
	}
	return l.describe(spec, img)
}

func (l *library) describe(spec imageSpec, img v1.Image) (stored, error) {
	digest, err := img.Digest()
	if err != nil {
		return stored{}, err
	}
	m, err := img.Manifest()
	if err != nil {
		return stored{}, err
	}
	s := stored{spec: spec, digest: digest.String(), layers: len(m.Layers)}
	seen := map[v1.Hash]bool{}
	for _, d := range append(m.Layers, m.Config) {
		if seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		s.bytes += d.Size
		s.blobs = append(s.blobs, filepath.Join(l.dir, "data/docker/registry/v2/blobs", d.Digest.Algorithm, d.Digest.Hex[:2],
			d.Digest.Hex, "data"))
	}
	return s, nil
}

// warm reads the image's blobs into the page cache.
func (s stored) warm(ctx context.Context) error {
	for _, path := range s.blobs {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("warm the registry: %w", err)
		}
		_, err = io.Copy(io.Discard, struct{ io.Reader }{f})
		if err := errors.Join(err, f.Close(), ctx.Err()); err != nil {
			return fmt.Errorf("warm the registry: %w", err)
		}
	}
	return nil
}

func (s stored) report() report.Image {
	return report.Image{Name: s.spec.name, Description: s.spec.description, Digest: s.digest, Layers: s.layers, Bytes: s.bytes}
}
