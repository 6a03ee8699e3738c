package apply

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

// Options say what Apply may and may not do. The keys are host directories (docker.io, localhost_5000_); the registry
// host itself (localhost:5000) does as well.
type Options struct {
	// Adopt permits taking over what somebody else put at a host directory. It is kept, and put back when the
	// registry is no longer wanted, or at uninstall.
	Adopt map[string]bool
	// Skip leaves host directories as they are, wanted or not. Their drift and conflicts are still reported.
	Skip map[string]bool
}

// Receipt says what was done and what was not. It is filled in beside an error too, as far as things went.
type Receipt struct {
	// Changed are the paths in the hosts directory that were written, removed, taken over or put back, in that order.
	Changed []string
	// Conflicts are the things of somebody else that are in the way.
	Conflicts []hostconfig.Conflict
	// Drift is what was not as hotplate had left it. All of it but strays is repaired, unless skipped.
	Drift []hostconfig.Drift
	// Left are the things that hotplate gave up because somebody else has changed them. It will not touch them again.
	Left []Left
	// NextRetire is when Apply should be called again to remove what may still be in use now; zero for never.
	NextRetire time.Time
}

// Left is something that stays in the hosts directory although nobody asked hotplate for it.
type Left struct {
	// Path is its absolute path.
	Path string
	// Reason says why it stays.
	Reason string
}

// Apply makes the hosts directory hold desired, and nothing of hotplate's besides. It writes only what differs. An
// error leaves each registry as it was or as it should be, never between; call Apply again to go on.
func (h *Host) Apply(ctx context.Context, desired hostconfig.Tree, opts Options) (Receipt, error) {
	if err := checkTree(desired); err != nil {
		return Receipt{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.converge(ctx, desired, opts, h.cfg.RetireDelay, false)
}

// converge does what Apply says. What is no longer named goes after delay, or with force now.
func (h *Host) converge(
	ctx context.Context, desired hostconfig.Tree, opts Options, delay time.Duration, force bool,
) (_ Receipt, err error) {
	if err := h.begin(); err != nil {
		return Receipt{}, err
	}
	tx := &transaction{
		h: h, desired: desired, adopt: hosts(opts.Adopt), skip: hosts(opts.Skip),
		now: h.cfg.Now().UTC().Round(0), delay: delay, force: force,
	}
	defer func() {
		h.settled = err == nil
	}()
	if err := tx.plan(); err != nil {
		return tx.receipt, err
	}
	if err := h.save(); err != nil {
		return tx.receipt, err
	}
	if err := tx.run(ctx); err != nil {
		_ = h.cleanTemp() // it may hold the space that was missing; recover does it again
		return tx.receipt, err
	}
	for _, s := range tx.steps {
		s.done()
	}
	if err := h.tidy(); err != nil {
		return tx.receipt, err
	}
	tx.receipt.NextRetire = h.m.nextRetire()
	return tx.receipt, h.save()
}

// transaction is one run of converge.
type transaction struct {
	h           *Host
	desired     hostconfig.Tree
	adopt, skip map[string]bool // by registry host
	now         time.Time
	delay       time.Duration
	force       bool

	observed hostconfig.Observed
	steps    []step
	receipt  Receipt
}

// step is one change of the host that is atomic for containerd.
type step struct {
	path  string
	phase phase
	run   func() error // nil when there is nothing to do on disk
	done  func()       // narrows the manifest when all steps have run
}

// phase orders the steps: what is named before what names it, new before old. _default is the last to come and the
// first to go: a registry that has its own directory before or after must not use _default on the way.
type phase int

const (
	writeShared phase = iota
	writeDirs
	writeDefault
	putBack
	removeDefault
	removeDirs
	retire
)

func (tx *transaction) add(s step) {
	if s.done == nil {
		s.done = func() {}
	}
	if dir, _, _ := strings.Cut(s.path, "/"); dir == hostconfig.DefaultHost {
		switch s.phase {
		case writeDirs:
			s.phase = writeDefault
		case removeDirs:
			s.phase = removeDefault
		}
	}
	tx.steps = append(tx.steps, s)
}

func (tx *transaction) leave(p, reason string) {
	l := Left{Path: tx.h.path(p), Reason: reason}
	tx.receipt.Left = append(tx.receipt.Left, l)
	tx.h.cfg.Log.Warn("left alone", "path", l.Path, "reason", l.Reason)
}

// run takes the steps. A failure does not keep other registries from getting their new directory, but nothing is taken
// away after it.
func (tx *transaction) run(ctx context.Context) error {
	slices.SortStableFunc(tx.steps, func(a, b step) int { return cmp.Compare(a.phase, b.phase) })
	var errs []error
	for i, s := range tx.steps {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if len(errs) > 0 && (s.phase != tx.steps[i-1].phase || s.phase > writeDirs) {
			break
		}
		if s.run == nil {
			continue
		}
		if err := s.run(); err != nil {
			errs = append(errs, err)
			continue
		}
		tx.receipt.Changed = append(tx.receipt.Changed, s.path)
		tx.h.cfg.Log.Debug("hosts directory changed", "what", s.phase.String(), "path", tx.h.path(s.path))
	}
	return errors.Join(errs...)
}

func (p phase) String() string {
	switch p {
	case writeShared, writeDirs, writeDefault:
		return "written"
	case putBack:
		return "put back"
	default:
		return "removed"
	}
}

// observe reads the hosts directory, without what only this package knows of.
func (h *Host) observe() (hostconfig.Observed, error) {
	obs, err := hostconfig.Observe(h.hosts.FS())
	if err != nil {
		return obs, h.fault("read", ".", err)
	}
	trees := []string{tempDir, keptDir}
	for dir := range h.m.Temporary {
		trees = append(trees, dir)
	}
	names := map[string]bool{}
	for dir, k := range h.m.Kept {
		for _, p := range k.Links {
			names[p] = true
			for _, d := range parents(dir, p) {
				names[d] = true
			}
		}
	}
	maps.DeleteFunc(obs.Entries, func(p string, _ hostconfig.Entry) bool {
		return names[p] || slices.ContainsFunc(trees, func(dir string) bool {
			return p == dir || strings.HasPrefix(p, dir+"/")
		})
	})
	return obs, nil
}

// tidy removes our own directories in SharedDir, and that itself, when they are not needed. The names are ours alone,
// so this holds as well where the manifest that would say so was lost.
func (h *Host) tidy() error {
	if err := h.cleanTemp(); err != nil {
		return err
	}
	if len(h.m.Kept) > 0 {
		return nil
	}
	if err := h.removeIfEmpty(keptDir); err != nil {
		return err
	}
	if !h.m.empty() {
		return nil
	}
	return h.removeIfEmpty(hostconfig.SharedDir)
}

// nextRetire is the earliest time at which something may go.
func (m *manifest) nextRetire() time.Time {
	var next time.Time
	at := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, f := range m.Files {
		at(f.Retire)
	}
	for _, k := range m.Kept {
		at(k.LinksUntil)
	}
	for _, t := range m.Aside {
		at(t)
	}
	return next
}

func (h *Host) removeIfEmpty(dir string) error {
	if info, err := h.hosts.Lstat(dir); err == nil && !info.IsDir() {
		return nil
	}
	err := h.hosts.Remove(dir)
	if err == nil {
		err = h.hosts.Sync(path.Dir(dir))
	}
	if err != nil && !absent(err) && !notEmpty(err) {
		return h.fault("remove", dir, err)
	}
	return nil
}
