package restart

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hostconfig/configtoml"
	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
)

// Files of ours in StateDir/restart.
const (
	lockFile     = "lock"
	journalFile  = "journal.json"
	backupFile   = "backup"       // the old configuration, with its mode
	backupSum    = "backup.sum"   // its sha256sum
	unchangedSum = "new.sum"      // the sha256sum of the new configuration in its place
	candidate    = "candidate"    // the new configuration, for the preflight
	markerFile   = "marker"       // there while the boot unit may have something to do
	recordFile   = "record.json"  // how attempts ended
	poisonFile   = "refused.json" // configurations that are not tried again
	// originalsFile holds configurations as they were before hotplate changed them, for Uninstall.
	originalsFile = "originals.json"
)

const (
	// maxRecords bounds recordFile, poisonFile and originalsFile, in entries.
	maxRecords = 20
	// maxState bounds what is read of each file of ours, in bytes.
	maxState = 8 << 20
)

// phase is how far a transaction is known to be. What is on the disk and in systemd may be one step ahead.
type phase string

const (
	preparing   phase = "preparing"   // nothing of the node is changed
	armed       phase = "armed"       // the rescue may be armed
	swapping    phase = "swapping"    // the new configuration may be in its place
	restarting  phase = "restarting"  // it is, and the restart may have been ordered
	verified    phase = "verified"    // the daemon works with it
	rollingBack phase = "rollingBack" // the old one is being put back
	stuck       phase = "stuck"       // it is back, and the daemon does not work: a person has to look
)

// journal is a transaction under way. It holds the whole old configuration, so it is for root only.
type journal struct {
	ID     string    `json:"id"`
	Phase  phase     `json:"phase"`
	Begun  time.Time `json:"begun"`
	BootID string    `json:"bootID"`

	// NoTimer says that no systemd was there, so that nothing was armed or installed.
	NoTimer bool `json:"noTimer,omitempty"`

	Unit       string   `json:"unit"`
	Dependants []string `json:"dependants,omitempty"` // were active, and go down with it
	// Invocation is that of the daemon that has not read the new configuration.
	Invocation string         `json:"invocation"`
	Version    string         `json:"version"` // of containerd
	Before     daemon.Running `json:"before"`

	File string `json:"file"`
	// Created means that there was no file; then Old is empty and a rollback removes it.
	Created bool        `json:"created,omitempty"`
	Mode    fs.FileMode `json:"mode"`
	Old     []byte      `json:"old"`
	OldSum  string      `json:"oldSum"`
	NewSum  string      `json:"newSum"`
	Why     string      `json:"why"`
	// Touched is set before the new configuration is put in its place.
	Touched bool `json:"touched,omitempty"`
	// Kind and Reason are how it will be said to have ended, and why, once it is being rolled back.
	Kind   Kind   `json:"kind,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Unsure says that the reason is none of the daemon: somebody could not be asked.
	Unsure bool `json:"unsure,omitempty"`
}

func newJournal(unit string, edit configtoml.Edit, info daemon.Info) *journal {
	return &journal{
		ID: strings.ToLower(rand.Text()[:12]), Phase: preparing, Begun: time.Now(), Unit: unit, Version: info.Version,
		File: edit.Path, Created: edit.Old == nil, Mode: edit.Mode, Old: edit.Old,
		OldSum: sum(edit.Old), NewSum: sum(edit.New), Why: edit.Why,
	}
}

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

func (j *journal) rescue() string { return rescuePrefix + j.ID }

// key is by what a configuration is refused that was rolled back: another one, or another containerd, may do better.
func (j *journal) key() string { return j.NewSum + " " + j.File + " " + j.Version }

// content says what is in the place of the configuration now.
type content int

const (
	isOld content = iota
	isNew
	isOther
)

func (r *Restarter) content(j *journal) (content, error) {
	data, err := r.read(j.File)
	switch {
	case errors.Is(err, fs.ErrNotExist) && j.Created:
		return isOld, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errLink):
		return isOther, nil
	case err != nil:
		return isOther, err
	case sum(data) == j.NewSum:
		return isNew, nil
	case !j.Created && sum(data) == j.OldSum:
		return isOld, nil
	}
	return isOther, nil
}

// read reads a file of the node.
func (r *Restarter) read(node string) ([]byte, error) { return r.files.Read(r.here(node)) }

// write replaces a file of the node, durably.
func (r *Restarter) write(node string, data []byte, mode fs.FileMode) error {
	return r.files.Write(r.here(node), data, mode)
}

// remove removes a file of the node, durably. It is no error if there is none.
func (r *Restarter) remove(node string) error { return r.files.Remove(r.here(node)) }

func (r *Restarter) exists(node string) (bool, error) {
	_, err := os.Lstat(r.here(node))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// save makes the journal durable.
func (r *Restarter) save(j *journal, p phase) error {
	j.Phase = p
	if err := r.saveJSON(journalFile, j); err != nil {
		return fmt.Errorf("note that containerd's configuration is being changed: %w", err)
	}
	return nil
}

// load returns the journal of a transaction that has not ended, or nil.
func (r *Restarter) load() (*journal, error) {
	var j journal
	ok, err := r.loadJSON(journalFile, &j)
	if err == nil && ok && !j.whole() {
		err = fmt.Errorf("read %s: it is damaged", r.state(journalFile))
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("an earlier restart of containerd cannot be taken up: %w; if it had come far enough, the node puts "+
			"the old configuration back by itself. When systemctl list-timers '%s*' shows nothing any more, see that containerd "+
			"works with the configuration that it should have, and remove the file", err, rescuePrefix)
	case !ok:
		return nil, nil
	}
	return &j, nil
}

// whole tells whether a journal says everything, and has the old configuration as it was.
func (j *journal) whole() bool {
	phases := []phase{preparing, armed, swapping, restarting, verified, rollingBack, stuck}
	return j.ID != "" && j.Unit != "" && path.IsAbs(j.File) && slices.Contains(phases, j.Phase) && sum(j.Old) == j.OldSum
}

func (r *Restarter) saveJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return r.write(r.state(name), data, 0o600)
}

func (r *Restarter) loadJSON(name string, v any) (ok bool, err error) {
	data, err := r.read(r.state(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", r.state(name), err)
	}
	return true, nil
}

// lock keeps other processes away until unlock is called. A process that dies gives it back.
func (r *Restarter) lock() (unlock func(), err error) {
	if err := os.MkdirAll(r.here(r.state("")), 0o700); err != nil {
		return nil, fmt.Errorf("make a directory for the restart's state: %w", err)
	}
	f, err := os.OpenFile(r.here(r.state(lockFile)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the restart's state: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrBusy
		}
		return nil, fmt.Errorf("lock the restart's state: %w", err)
	}
	return func() { f.Close() }, nil
}
