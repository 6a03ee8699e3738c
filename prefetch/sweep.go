package prefetch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/hotplate-dev/hotplate/prefetch/layer"
	"github.com/hotplate-dev/hotplate/prefetch/staging"
)

// What is in a directory for staging: the partial blobs, and a file for each image that says which of them it wants.
const (
	blobsDir = "blobs"
	wantsDir = "wants"
)

// stagingDirs are the directories for partial blobs that have been opened, by path. There are at most two.
type stagingDirs struct {
	mu   sync.Mutex
	open map[string]*staging.Dir // guarded by mu
}

// stagingDir opens the directory for partial blobs at path.
func (p *Prefetcher) stagingDir(path string) (*staging.Dir, error) {
	p.dirs.mu.Lock()
	defer p.dirs.mu.Unlock()
	if d := p.dirs.open[path]; d != nil {
		if _, err := os.Stat(filepath.Join(path, blobsDir)); !errors.Is(err, fs.ErrNotExist) {
			return d, nil
		} // somebody has removed all that containerd had
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make a directory for partial layers: %w", err)
	}
	d, err := staging.Open(staging.Config{Path: filepath.Join(path, blobsDir), Log: p.cfg.Log})
	if err != nil {
		return nil, err
	}
	if p.dirs.open == nil {
		p.dirs.open = make(map[string]*staging.Dir)
	}
	p.dirs.open[path] = d
	return d, nil
}

// stagingPaths are the directories that have been opened.
func (p *Prefetcher) stagingPaths() []string {
	p.dirs.mu.Lock()
	defer p.dirs.mu.Unlock()
	return slices.Collect(maps.Keys(p.dirs.open))
}

// treeSet are the directories in which layers are being laid out by this process.
type treeSet struct {
	mu   sync.Mutex
	live map[string]bool // guarded by mu
}

func (t *treeSet) add(dir string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.live == nil {
		t.live = make(map[string]bool)
	}
	t.live[dir] = true
}

func (t *treeSet) remove(dir string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.live, dir)
}

func (t *treeSet) has(dir string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live[dir]
}

// noteWants notes which blobs the image wants, so that a sweep leaves what is staged of them.
func (r *run) noteWants(pl plan) error {
	path := r.stagingPath()
	if path == "" {
		return nil
	}
	var all []digest.Digest
	for _, l := range pl.layers {
		all = append(all, l.Digest)
	}
	data, err := json.Marshal(all)
	if err == nil {
		err = os.MkdirAll(filepath.Join(path, wantsDir), 0o700)
	}
	if err == nil {
		// Not durable: without the note a sweep costs what was staged, and nothing else. But another image's sweep must never
		// see half of it.
		part := filepath.Join(path, r.key+".part")
		if err = os.WriteFile(part, data, 0o600); err == nil {
			err = os.Rename(part, filepath.Join(path, wantsDir, r.key))
		}
	}
	if err != nil {
		return fmt.Errorf("note which layers %s wants: %w", r.ref, err)
	}
	return nil
}

// dropWants takes the notes of an image that is there back, and returns the directories that had one.
func (p *Prefetcher) dropWants(key string) (noted []string) {
	for _, path := range p.stagingPaths() {
		if os.Remove(filepath.Join(path, wantsDir, key)) == nil {
			noted = append(noted, path)
		}
	}
	return noted
}

// release removes what a run has left that died, or failed before somebody else pulled the image: nobody comes back to it.
func (p *Prefetcher) release(ctx context.Context, key string) error {
	return errors.Join(p.cfg.Store.Release(ctx, key), p.dropStaged(key))
}

// dropStaged removes what is staged of an image that is there: of a layer whose blob was adopted by a run that died before
// it could remove its own.
func (p *Prefetcher) dropStaged(key string) error {
	var errs []error
	for _, path := range p.dropWants(key) {
		errs = append(errs, p.sweepStaging(path, func(string) bool { return true }))
	}
	return errors.Join(errs...)
}

// Sweep removes what runs that died have left behind for images that are no longer wanted. Call it at the start and
// when the wanted images change. While another process with the same owner works in the direct way, nothing is removed, and
// the error is ErrBusy; in the API way such work is not safe from it.
func (p *Prefetcher) Sweep(ctx context.Context, wanted []Image) error {
	keys := make(map[string]bool, len(wanted))
	for _, img := range wanted {
		keys[img.key()] = true
	}
	keep := func(key string) bool { return keys[key] }
	way, err := p.cfg.Store.Way(ctx)
	if err != nil {
		return err
	}
	sweep := func() error {
		errs := []error{p.cfg.Store.Sweep(ctx, keep)}
		for _, path := range []string{way.Staging, p.cfg.Staging} {
			if path != "" {
				errs = append(errs, p.sweepStaging(path, keep))
			}
		}
		if way.Trees != "" {
			errs = append(errs, p.sweepTrees(way.Trees))
		}
		return errors.Join(errs...)
	}
	if way.Trees == "" {
		return sweep()
	}
	return p.company.alone(ctx, way.Trees, sweep)
}

// sweepStaging removes partial blobs that no wanted image wants.
func (p *Prefetcher) sweepStaging(path string, keep func(key string) bool) error {
	wanted, err := wantedBlobs(filepath.Join(path, wantsDir), keep)
	if err != nil {
		return fmt.Errorf("look for partial layers: %w", err)
	}
	dir, err := p.stagingDir(path)
	if err != nil {
		return err
	}
	return dir.Sweep(func(d digest.Digest) bool { return wanted[d] })
}

// wantedBlobs are those that images want that are kept. The notes of the others are removed.
func wantedBlobs(dir string, keep func(key string) bool) (map[digest.Digest]bool, error) {
	notes, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	wanted := make(map[digest.Digest]bool)
	for _, note := range notes {
		name := filepath.Join(dir, note.Name())
		if !keep(note.Name()) {
			if err := os.Remove(name); err != nil {
				return nil, err
			}
			continue
		}
		var blobs []digest.Digest
		if data, err := os.ReadFile(name); err == nil && json.Unmarshal(data, &blobs) == nil {
			for _, b := range blobs {
				wanted[b] = true
			}
		}
	}
	return wanted, nil
}

// sweepTrees removes layers that no run of this process is laying out: they are of no use to a later one.
func (p *Prefetcher) sweepTrees(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for layers that were not finished: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ProbePrefix) {
			continue // Store.Way may be using it
		}
		if dir := filepath.Join(path, e.Name()); !p.trees.has(dir) {
			errs = append(errs, layer.Remove(dir))
		}
	}
	return errors.Join(errs...)
}
