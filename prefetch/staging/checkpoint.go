package staging

import (
	"errors"
	"fmt"
	"time"
)

// start starts the goroutine that makes checkpoints.
func (b *Blob) start() {
	b.due = make(chan struct{}, 1)
	b.stop = make(chan struct{})
	b.saver.Go(func() {
		for {
			select {
			case <-b.due:
			case <-b.stop:
				return
			}
			if err := b.save(); err != nil { // one that matters comes back from every call
				b.log.Warn("checkpoint of a staged blob failed", "digest", b.digest, "cause", err)
			}
		}
	})
}

// wake asks for a checkpoint if one is due. It is called with mu held.
func (b *Blob) wake() {
	every := b.dir.cfg.CheckpointBytes
	if b.offset == b.size {
		return // Sync or Close is next
	}
	if b.written < every && b.hashed < every && time.Since(b.last) < b.dir.cfg.CheckpointInterval {
		return
	}
	select {
	case b.due <- struct{}{}:
	default: // it knows
	}
}

// save makes a checkpoint: what is there when it begins is durable when it returns nil.
func (b *Blob) save() error {
	b.saving.Lock()
	defer b.saving.Unlock()
	b.mu.Lock()
	err := b.err
	r := record{Digest: b.digest, Size: b.size, Chunk: b.chunk, Have: bitmap(b.have), Offset: b.offset, Hash: b.hash}
	b.written, b.hashed, b.last = 0, 0, time.Now()
	b.mu.Unlock()
	if err != nil {
		return err
	}
	if err := b.data.Sync(); err != nil {
		return b.lost(err)
	}
	if !b.entered {
		if err := b.disk.SyncDir(b.path); err != nil {
			return err
		}
		if err := b.disk.SyncDir(b.dir.cfg.Path); err != nil {
			return err
		}
		b.entered = true
	}
	content, err := r.encode()
	if err != nil {
		return err
	}
	f, err := b.replace(stateName, content, true)
	if err != nil {
		return err
	}
	return f.Close()
}

// lost ends the blob's use after an fsync that failed: which of the bytes since the last checkpoint are on the disk is not
// known, and the next fsync would not tell. So the marks must go.
func (b *Blob) lost(cause error) error {
	err := fmt.Errorf("bytes were lost on their way to the disk: %w", cause)
	if rerr := b.removeFile(marksName); rerr != nil {
		err = errors.Join(err, rerr)
	}
	b.mu.Lock()
	b.err = err
	b.mu.Unlock()
	return err
}

// bitmap has a bit for each chunk that is present, the first in the lowest bit.
func bitmap(have []byte) []byte {
	bits := make([]byte, (len(have)+7)/8)
	for i, h := range have {
		if h == present {
			bits[i/8] |= 1 << (i % 8)
		}
	}
	return bits
}
