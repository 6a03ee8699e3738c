package restart

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"
)

// original is a configuration as it was before hotplate changed it. It may hold passwords, so it is for root only.
type original struct {
	// Created means that there was no file.
	Created bool        `json:"created,omitempty"`
	Mode    fs.FileMode `json:"mode"`
	Old     []byte      `json:"old"`
	// NewSum is the sha256sum of what hotplate has put in its place last, and By the transaction that did.
	NewSum string `json:"newSum"`
	By     string `json:"by,omitempty"`
	// Times is when hotplate has put NewSum in its place, the last maxReverts times, the first of them first.
	Times []time.Time `json:"times,omitempty"`
}

// Left is a file that is not put back, and why.
type Left struct{ File, Reason string }

// originals are by their files.
func (r *Restarter) originals() (all map[string]original, err error) {
	_, err = r.loadJSON(originalsFile, &all)
	return all, err
}

// addOriginal keeps what was there before j for Uninstall. Of changes that follow each other it is what was there before the
// first, unless somebody has changed the file in between: then that is what counts.
func (r *Restarter) addOriginal(j *journal) error {
	all, err := r.originals()
	if err != nil {
		r.log.Warn("containerd's configuration as it was before earlier changes is lost", "err", err)
	}
	if err != nil || all == nil {
		all = make(map[string]original)
	}
	o, known := all[j.File]
	switch {
	case known && o.By == j.ID: // noted before a crash
		return nil
	case !known && len(all) >= maxRecords:
		return fmt.Errorf("there are %d files already", len(all))
	case !known || o.NewSum != j.OldSum:
		o = original{Created: j.Created, Mode: j.Mode, Old: j.Old, NewSum: o.NewSum, Times: o.Times}
	}
	if o.NewSum != j.NewSum {
		o.Times = nil
	}
	o.Times = append(o.Times, time.Now())
	o.Times = o.Times[max(0, len(o.Times)-maxReverts):]
	o.NewSum, o.By = j.NewSum, j.ID
	all[j.File] = o
	return r.saveJSON(originalsFile, all)
}

// putBack puts every configuration back as it was, and forgets it. It restarts nothing: the running containerd goes on to
// read a directory in which nothing of ours is any more. What somebody has changed since is left to them.
func (r *Restarter) putBack() (restored []string, left []Left, err error) {
	all, err := r.originals()
	if err != nil {
		return nil, nil, fmt.Errorf("find containerd's configuration as it was: %w", err)
	}
	for _, file := range slices.Sorted(maps.Keys(all)) {
		for _, ours := range beside(file) { // one that could not be removed
			if err := r.remove(ours); err != nil {
				return restored, left, err
			}
		}
		o := all[file]
		switch is, err := r.stands(file, o); {
		case err != nil:
			return restored, left, err
		case is == isOld:
			continue
		case is == isOther:
			l, err := r.leave(file, o)
			if err != nil {
				return restored, left, err
			}
			left = append(left, l)
			continue
		}
		if o.Created {
			err = r.remove(file)
		} else {
			err = r.write(file, o.Old, o.Mode)
		}
		if err != nil {
			return restored, left, fmt.Errorf("put %s back: %w", file, err)
		}
		restored = append(restored, file)
	}
	return restored, left, r.remove(r.state(originalsFile))
}

// leave leaves a configuration to whoever has changed it since, and keeps for them what it was before hotplate.
func (r *Restarter) leave(file string, o original) (Left, error) {
	was := "before hotplate there was none"
	if !o.Created {
		kept := r.state("original-" + strings.ReplaceAll(strings.TrimPrefix(file, "/"), "/", "-"))
		if err := r.write(kept, o.Old, 0o600); err != nil {
			return Left{}, fmt.Errorf("keep %s as it was before hotplate: %w", file, err)
		}
		was = "what it was before hotplate is in " + kept
	}
	return Left{file, "somebody has changed it since hotplate did; its config_path means nothing without files in that directory; " + was}, nil
}

// stands tells what is in the place of a configuration. Where there is nothing, there is nothing to put back.
func (r *Restarter) stands(file string, o original) (content, error) {
	data, err := r.read(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return isOld, nil
	case errors.Is(err, errLink):
		return isOther, nil
	case err != nil:
		return isOther, err
	case sum(data) == o.NewSum:
		return isNew, nil
	case !o.Created && bytes.Equal(data, o.Old):
		return isOld, nil
	}
	return isOther, nil
}
