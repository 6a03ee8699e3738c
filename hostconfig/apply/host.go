package apply

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// Config says what a Host works on.
type Config struct {
	// HostsDir is containerd's hosts directory. It is made with mode 0755 if it is missing. It may be a symbolic link
	// to a directory; nothing below it is followed. Required.
	HostsDir string
	// StateDir is hotplate's own directory, made with mode 0700 if it is missing. One process uses it at a time.
	// Required.
	StateDir string
	// RetireDelay is how long a file stays after nothing names it any more, for loads that have read the old
	// hosts.toml and open the files it names a moment later. 0 means one minute.
	RetireDelay time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log is required.
	Log *slog.Logger
}

// ErrClosed means that the Host was closed.
var ErrClosed = errors.New("host configuration is closed")

// Host is the one writer to a hosts directory. Its methods are safe for concurrent use; they run one after the other.
type Host struct {
	cfg  Config
	open opener

	mu      sync.Mutex // held by every exported method; it guards everything below
	lock    *os.File   // nil when closed
	state   disk       // StateDir
	hosts   disk       // HostsDir
	m       *manifest
	saved   []byte          // the manifest as it is durably on disk; nil when that is not known
	settled bool            // the manifest says exactly what is on disk; false after a failure
	live    map[string]bool // temporary host directories of this process
	serial  int             // numbers the names in tempDir
}

// Open takes the state directory's lock, and undoes or settles what a crash has left. The error is ErrLocked when
// another process, such as a running agent beside an uninstall, holds it. Close the Host when done.
func Open(ctx context.Context, cfg Config) (*Host, error) { return open(ctx, cfg, openDisk) }

func open(ctx context.Context, cfg Config, opener opener) (_ *Host, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if cfg.HostsDir == "" || cfg.StateDir == "" || cfg.Log == nil {
		return nil, errors.New("apply: HostsDir, StateDir and Log are required")
	}
	if cfg.RetireDelay == 0 {
		cfg.RetireDelay = time.Minute
	}
	if cfg.RetireDelay < 0 {
		return nil, errors.New("apply: RetireDelay is negative")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	for _, dir := range []*string{&cfg.HostsDir, &cfg.StateDir} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return nil, err
		}
	}
	h := &Host{cfg: cfg, open: opener, live: map[string]bool{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fault("make", cfg.StateDir, err)
	}
	if h.lock, err = lock(cfg.StateDir); err != nil {
		return nil, err
	}
	if h.state, err = h.open(cfg.StateDir); err != nil {
		return nil, fault("open", cfg.StateDir, err)
	}
	if err := h.begin(); err != nil {
		return nil, err
	}
	return h, nil
}

// Close lets go of the state directory. The host is left as it is.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	if h.hosts != nil {
		errs = append(errs, h.hosts.Close())
	}
	if h.state != nil {
		errs = append(errs, h.state.Close())
	}
	if h.lock != nil {
		errs = append(errs, h.lock.Close())
	}
	h.hosts, h.state, h.lock = nil, nil, nil
	return errors.Join(errs...)
}

// begin makes sure that h.hosts is the hosts directory of now and that the manifest says what is in it.
func (h *Host) begin() error {
	if h.lock == nil {
		return ErrClosed
	}
	if h.settled && h.hosts != nil && h.hosts.Is(h.cfg.HostsDir) {
		return nil
	}
	h.settled = false
	if err := h.recover(); err != nil {
		return err
	}
	h.settled = true
	return nil
}

// recover brings manifest and disk into agreement after a crash or a failure, in this process or an earlier one:
//
//  1. what the page cache has is made durable, so that the disk can be believed;
//  2. temporary files and the host directories of probes are removed;
//  3. adoptions and restorations that did not reach their one switching rename are undone;
//  4. the manifest is narrowed to what is there.
//
// It leaves every host directory as it finds it, old or new; Apply or Uninstall then goes on.
func (h *Host) recover() error {
	if err := h.load(); err != nil {
		return err
	}
	if err := h.openHosts(); err != nil {
		return err
	}
	if err := h.syncAll(); err != nil {
		return err
	}
	if err := h.cleanTemp(); err != nil {
		return err
	}
	if err := h.dropTemporaries(); err != nil {
		return err
	}
	if err := h.settleKept(); err != nil {
		return err
	}
	if err := h.settleFiles(); err != nil {
		return err
	}
	if err := h.tidy(); err != nil {
		return err
	}
	return h.save()
}

// openHosts opens the hosts directory, and makes it first if it is missing.
func (h *Host) openHosts() error {
	if h.hosts != nil {
		_ = h.hosts.Close() // nothing was written through it that is not synced
		h.hosts = nil
	}
	var missing []string
	for dir := h.cfg.HostsDir; ; dir = filepath.Dir(dir) {
		_, err := os.Stat(dir)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return fault("open", dir, err)
		}
		missing = append([]string{dir}, missing...)
	}
	for _, dir := range missing {
		if !slices.Contains(h.m.Made, dir) {
			h.m.Made = append(h.m.Made, dir)
		}
	}
	if len(missing) > 0 {
		if err := h.save(); err != nil {
			return err
		}
	}
	for _, dir := range missing {
		if err := h.makeDir(dir); err != nil {
			return fault("make", dir, err)
		}
	}
	hosts, err := h.open(h.cfg.HostsDir)
	if err != nil {
		return fault("open", h.cfg.HostsDir, err)
	}
	h.hosts = hosts
	return nil
}

// makeDir makes one directory outside the hosts directory.
func (h *Host) makeDir(dir string) error {
	parent, err := h.open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := parent.Mkdir(filepath.Base(dir), hostconfig.DirMode); err != nil {
		return err
	}
	return parent.Sync(".")
}

// syncAll makes durable what a process that died may have left in the page cache.
func (h *Host) syncAll() error {
	dirs := append([]string{".", hostconfig.SharedDir, keptDir}, h.m.hostDirs()...)
	for _, dir := range dirs {
		info, err := h.hosts.Lstat(dir)
		if absent(err) || err == nil && !info.IsDir() {
			continue
		}
		if err == nil {
			err = h.hosts.Sync(dir)
		}
		if err != nil {
			return h.fault("sync", dir, err)
		}
	}
	return nil
}

// settleFiles narrows the manifest to the contents that are on disk.
func (h *Host) settleFiles() error {
	for p, f := range h.m.Files {
		if !f.Pending {
			continue
		}
		hash, err := h.hash(p)
		if err != nil {
			return h.fault("read", p, err)
		}
		switch {
		case slices.Contains(f.SHA256, hash):
			f.SHA256 = []string{hash}
		case hash == "" || f.New:
			// Not written yet, or removed already; or somebody else's who came first.
			delete(h.m.Files, p)
			continue
		}
		f.Pending, f.New = false, false
		h.m.Files[p] = f
	}
	return nil
}
