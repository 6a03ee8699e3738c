package staging

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// lockPoll is how often a blob that somebody else has is tried again.
const lockPoll = 100 * time.Millisecond

// Config says where partial blobs are and how often they are made durable.
type Config struct {
	// Path is the directory, ours alone. Open makes it, with mode 0700, if its parent is there.
	Path string
	// Log hears of what is discarded. Default: nothing is logged.
	Log *slog.Logger
	// CheckpointBytes and CheckpointInterval say after how much, written or hashed, and how long a checkpoint is made:
	// what a power loss costs at most, beside what is under way. Default: 256 MiB and 15 s.
	CheckpointBytes    int64
	CheckpointInterval time.Duration

	disk disk   // nil: the real one
	boot string // empty: what the kernel says
}

// Dir is a directory of partial blobs. It has nothing to close. Its methods are safe for concurrent use, and
// so are several of them, also in several processes, for one directory.
type Dir struct {
	cfg  Config
	disk disk
}

// Open takes a directory into use.
func Open(cfg Config) (*Dir, error) {
	cfg.CheckpointBytes = cmp.Or(cfg.CheckpointBytes, 256<<20)
	cfg.CheckpointInterval = cmp.Or(cfg.CheckpointInterval, 15*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.boot == "" {
		boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return nil, fmt.Errorf("read the boot ID: %w", err)
		}
		cfg.boot = strings.TrimSpace(string(boot))
	}
	if cfg.disk == nil {
		cfg.disk = osDisk{}
	}
	err := cfg.disk.Mkdir(cfg.Path)
	if err == nil {
		err = cfg.disk.SyncDir(filepath.Dir(cfg.Path))
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make the staging directory: %w", err)
	}
	if _, err := cfg.disk.ReadDir(cfg.Path); err != nil {
		return nil, fmt.Errorf("read the staging directory: %w", err)
	}
	return &Dir{cfg: cfg, disk: cfg.disk}, nil
}

// Blob begins a blob or continues one, in chunks of the given size in bytes; one that exists keeps the size that it
// began with. Nobody else can have the blob before it is closed or removed. If somebody has it, waiting is called
// once, and Blob returns when it is free or ctx ends.
func (d *Dir) Blob(ctx context.Context, desc ocispec.Descriptor, chunk int64, waiting func()) (*Blob, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("stage blob %q: %w", desc.Digest, err)
	}
	if _, err := chunks(desc.Size, chunk); err != nil {
		return nil, fmt.Errorf("stage blob %s: %w", desc.Digest, err)
	}
	path := filepath.Join(d.cfg.Path, dirName(desc.Digest))
	unlock, made, err := d.lock(ctx, path, waiting)
	if err != nil {
		return nil, fmt.Errorf("lock staged blob %s: %w", desc.Digest, err)
	}
	b := &Blob{dir: d, disk: d.disk, log: d.cfg.Log, digest: desc.Digest, size: desc.Size, path: path, unlock: unlock}
	if err := b.load(chunk, made); err != nil {
		b.closeFiles()
		b.unlock.Close()
		return nil, fmt.Errorf("open staged blob %s: %w", desc.Digest, err)
	}
	b.start()
	return b, nil
}

// lock locks the blob's directory, and makes it if it must.
func (d *Dir) lock(ctx context.Context, path string, waiting func()) (unlock io.Closer, made bool, err error) {
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for told := false; ; {
		switch err := d.disk.Mkdir(path); {
		case err == nil:
			made = true
		case !errors.Is(err, fs.ErrExist):
			return nil, false, err
		}
		unlock, err := d.disk.Lock(path)
		switch {
		case err == nil:
			return unlock, made, nil
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
		case !errors.Is(err, errLocked):
			return nil, false, err
		case !told && waiting != nil:
			waiting()
			told = true
		}
		made = false
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, false, context.Cause(ctx)
		}
	}
}

// Sweep removes the blobs that keep does not want and nobody has. Names that are not ours are left alone.
func (d *Dir) Sweep(keep func(digest.Digest) bool) error {
	names, err := d.disk.ReadDir(d.cfg.Path)
	if err != nil {
		return fmt.Errorf("read the staging directory: %w", err)
	}
	var errs []error
	for _, name := range names {
		dgst, ok := parseDirName(name)
		if !ok {
			d.cfg.Log.Debug("leaving what is not a staged blob", "path", filepath.Join(d.cfg.Path, name))
			continue
		}
		if keep(dgst) {
			continue
		}
		if err := d.sweep(filepath.Join(d.cfg.Path, name)); err != nil {
			errs = append(errs, fmt.Errorf("remove staged blob %s: %w", dgst, err))
		}
	}
	return errors.Join(errs...)
}

func (d *Dir) sweep(path string) error {
	unlock, err := d.disk.Lock(path)
	if errors.Is(err, errLocked) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(d.remove(path), unlock.Close())
}

// remove removes a blob's directory, which is locked.
func (d *Dir) remove(path string) error {
	names, err := d.disk.ReadDir(path)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := d.disk.Remove(filepath.Join(path, name)); err != nil {
			return err
		}
	}
	return d.disk.Remove(path)
}

// Usage is how many bytes the filesystem gets back if this blob is removed: what is really allocated, without data that has
// another link.
func (d *Dir) Usage(of digest.Digest) (int64, error) {
	path := filepath.Join(d.cfg.Path, dirName(of))
	names, err := d.disk.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("measure what is staged of %s: %w", of, err)
	}
	var total int64
	for _, name := range names {
		st, err := d.disk.Stat(filepath.Join(path, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("measure what is staged of %s: %w", of, err)
		}
		if !st.shared {
			total += st.allocated
		}
	}
	return total, nil
}

func dirName(d digest.Digest) string { return d.Algorithm().String() + "-" + d.Encoded() }

func parseDirName(name string) (digest.Digest, bool) {
	alg, hex, _ := strings.Cut(name, "-")
	d := digest.Digest(alg + ":" + hex)
	return d, d.Validate() == nil
}
