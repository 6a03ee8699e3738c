package store

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A file of the wrong size in containerd's content store, as a crash can leave it, poisons its digest for good: where
// there is a record, every pull takes it for complete, and where there is none, every pull fetches it anew and leaves the
// bad file. So we look at the size wherever the files can be seen. Bytes that are wrong at the right size cannot come
// from us, who link only what was verified and synced, and are not looked for.

// repair removes the blob's record and file if the file is damaged.
func (s *Store) repair(ctx context.Context, at *layout, desc ocispec.Descriptor) error {
	damaged, err := s.damaged(ctx, at, desc)
	if err != nil || !damaged {
		return err
	}
	s.cfg.Log.Warn("a blob in containerd's content store is damaged, removing it", "digest", desc.Digest)
	return s.discard(ctx, at, desc.Digest)
}

// damaged tells whether the blob's file has another size than its record says, or if no namespace has a record, than
// desc says. A manifest may well be wrong about the size of a blob that is in use. Without a layout nothing can be seen.
func (s *Store) damaged(ctx context.Context, at *layout, desc ocispec.Descriptor) (bool, error) {
	if at == nil {
		return false, nil
	}
	path, err := at.blob(desc.Digest)
	if err != nil {
		return false, err
	}
	file, err := os.Lstat(path)
	missing := errors.Is(err, os.ErrNotExist)
	if err != nil && !missing {
		return false, fmt.Errorf("look at the file of %s: %w", desc.Digest, err)
	}
	info, err := s.content().Info(ctx, desc.Digest)
	switch {
	case err == nil && (missing || file.Size() != info.Size):
		// Somebody may have committed it between the two looks.
		again, err := os.Lstat(path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return true, nil
		case err != nil:
			return false, fmt.Errorf("look at the file of %s again: %w", desc.Digest, err)
		}
		return again.Size() != info.Size, nil
	case err == nil:
		return false, nil
	case !errdefs.IsNotFound(err):
		return false, fmt.Errorf("look for %s: %w", desc.Digest, err)
	case missing || file.Size() == desc.Size:
		return false, nil
	}
	elsewhere, err := s.elsewhere(ctx, desc.Digest)
	return err == nil && !elsewhere, err
}

// elsewhere tells whether some namespace has a record of the blob. They share the files.
func (s *Store) elsewhere(ctx context.Context, d digest.Digest) (bool, error) {
	all, err := s.client.NamespaceService().List(ctx)
	if err != nil {
		return false, fmt.Errorf("list containerd's namespaces: %w", err)
	}
	for _, ns := range all {
		_, err := s.content().Info(namespaces.WithNamespace(ctx, ns), d)
		if err == nil {
			return true, nil
		}
		if !errdefs.IsNotFound(err) {
			return false, fmt.Errorf("look for %s in namespace %s: %w", d, ns, err)
		}
	}
	return false, nil
}

// discard removes a damaged blob. The file goes too: containerd would keep it until its next collection, and with it
// what is fetched meanwhile would be damaged again (plugins/content/local/writer.go, Commit, 2.4.2).
func (s *Store) discard(ctx context.Context, at *layout, d digest.Digest) error {
	path, err := at.blob(d)
	if err != nil {
		return err
	}
	if err := s.content().Delete(ctx, d); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove the record of %s, whose file is damaged: %w", d, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove damaged blob: %w", err)
	}
	return nil
}

// repairAll looks at every blob that has a record.
func (s *Store) repairAll(ctx context.Context) error {
	at := s.at.Load()
	if at == nil {
		return nil
	}
	var bad []ocispec.Descriptor
	err := s.content().Walk(ctx, func(info content.Info) error {
		damaged, err := at.sizeDiffers(info)
		if damaged {
			bad = append(bad, ocispec.Descriptor{Digest: info.Digest, Size: info.Size})
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("look for damaged blobs: %w", err)
	}
	var errs []error
	for _, desc := range bad {
		errs = append(errs, s.repair(ctx, at, desc)) // looks again
	}
	return errors.Join(errs...)
}

func (l *layout) sizeDiffers(info content.Info) (bool, error) {
	path, err := l.blob(info.Digest)
	if err != nil {
		return false, err
	}
	file, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	return err == nil && file.Size() != info.Size, err
}
