package staging

import (
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// What is known of a chunk. Absent and present are also what the marks on the disk hold.
const (
	absent byte = iota
	present
	writing
)

// Blob is a partial blob that nobody else has. WriteChunk for different chunks, ReadChunk, Progress and what only asks may
// be called at the same time; Sync, Reset, Remove and Close are called by one goroutine when no other call runs.
type Blob struct {
	dir    *Dir
	disk   disk
	log    *slog.Logger
	digest digest.Digest
	size   int64
	chunk  int64
	path   string
	unlock io.Closer

	data, marks file // change only in load, Reset, Remove and Close

	mu      sync.Mutex
	have    []byte    // guarded by mu: of each chunk absent, present or writing
	missing int64     // guarded by mu: bytes of the chunks that are not present
	hash    []byte    // guarded by mu: the marshalled state of the hash after offset bytes, nil at 0
	offset  int64     // guarded by mu
	written int64     // guarded by mu: bytes written since the last checkpoint began
	hashed  int64     // guarded by mu: likewise, hashed
	last    time.Time // guarded by mu: when the last checkpoint began
	err     error     // guarded by mu: what made the blob unusable
	closed  bool      // guarded by mu

	saving  sync.Mutex    // held during a checkpoint
	entered bool          // guarded by saving: the names of data and directory are on the disk
	due     chan struct{} // wakes the goroutine that makes checkpoints
	stop    chan struct{} // ends it
	saver   sync.WaitGroup
}

func (b *Blob) file(name string) string { return filepath.Join(b.path, name) }

// Path is the data file. It is whole after Sync.
func (b *Blob) Path() string { return b.file(dataName) }

// Size is the blob's size in bytes.
func (b *Blob) Size() int64 { return b.size }

// ChunkSize is the size in bytes of every chunk but the last.
func (b *Blob) ChunkSize() int64 { return b.chunk }

// Chunks is the number of chunks.
func (b *Blob) Chunks() int { return len(b.have) }

// Length is the length in bytes of chunk i.
func (b *Blob) Length(i int) int64 { return min(b.chunk, b.size-int64(i)*b.chunk) }

// Has tells whether chunk i is there, so that it can be read and need not be fetched.
func (b *Blob) Has(i int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.have[i] == present
}

// Missing is how many bytes are not there yet.
func (b *Blob) Missing() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.missing
}

// WriteChunk writes chunk i, which is not there yet; p is of exactly its length. When it returns nil, the chunk survives
// the end of the process. After an error, such as unix.ENOSPC, the chunk is not there and may be written again.
func (b *Blob) WriteChunk(i int, p []byte) error {
	if err := b.begin(i, p); err != nil {
		return fmt.Errorf("write chunk %d of %s: %w", i, b.digest, err)
	}
	off := int64(i) * b.chunk
	_, err := b.data.WriteAt(p, off)
	if err == nil {
		b.data.StartWriting(off, int64(len(p)))
		_, err = b.marks.WriteAt([]byte{present}, headerSize+int64(i))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.have[i] = absent
		return fmt.Errorf("write chunk %d of %s: %w", i, b.digest, err)
	}
	b.have[i] = present
	b.missing -= int64(len(p))
	b.written += int64(len(p))
	b.wake()
	return nil
}

// begin takes the chunk for writing.
func (b *Blob) begin(i int, p []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.usable(i, p); err != nil {
		return err
	}
	if b.have[i] != absent {
		return errors.New("it is there already") // with other bytes, perhaps, than those that the caller hashes
	}
	b.have[i] = writing
	return nil
}

// ReadChunk reads chunk i, which is there; p is of exactly its length.
func (b *Blob) ReadChunk(i int, p []byte) error {
	b.mu.Lock()
	err := b.usable(i, p)
	if err == nil && b.have[i] != present {
		err = errors.New("it is not there yet")
	}
	b.mu.Unlock()
	if err == nil {
		_, err = b.data.ReadAt(p, int64(i)*b.chunk)
	}
	if err != nil {
		return fmt.Errorf("read chunk %d of %s: %w", i, b.digest, err)
	}
	return nil
}

// usable is called with mu held.
func (b *Blob) usable(i int, p []byte) error {
	switch {
	case b.err != nil:
		return b.err
	case b.closed:
		return os.ErrClosed
	case i < 0 || i >= len(b.have):
		return fmt.Errorf("there are %d chunks", len(b.have))
	case int64(len(p)) != b.Length(i):
		return fmt.Errorf("%d bytes instead of %d", len(p), b.Length(i))
	}
	return nil
}

// Hashed is a hash of the digest's algorithm that has taken the first offset bytes, all of which are there.
func (b *Blob) Hashed() (h hash.Hash, offset int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h = b.digest.Algorithm().Hash()
	if b.offset == 0 {
		return h, 0
	}
	m, ok := h.(encoding.BinaryUnmarshaler)
	if !ok {
		return h, 0
	}
	if err := m.UnmarshalBinary(b.hash); err != nil { // written by another version of the hash
		b.log.Info("hashing a staged blob from its beginning", "digest", b.digest, "cause", err)
		return b.digest.Algorithm().Hash(), 0
	}
	return h, b.offset
}

// Progress takes over the state of the hash after offset bytes, which is the end of a chunk; all chunks up to there are
// there. It does not wait for the disk. A checkpoint that failed for good is returned here.
func (b *Blob) Progress(h hash.Hash, offset int64) error {
	m, ok := h.(encoding.BinaryMarshaler)
	if !ok {
		return fmt.Errorf("keep the hash of %s: %T cannot be marshalled", b.digest, h)
	}
	state, err := m.MarshalBinary()
	if err != nil {
		return fmt.Errorf("keep the hash of %s: %w", b.digest, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err
	}
	if offset < 0 || offset > b.size || offset%b.chunk != 0 && offset != b.size {
		return fmt.Errorf("keep the hash of %s: offset %d is no chunk's end", b.digest, offset)
	}
	for at := b.offset; at < offset; at += b.chunk {
		if i := at / b.chunk; b.have[i] != present {
			return fmt.Errorf("keep the hash of %s: offset %d is beyond chunk %d, which is not there", b.digest, offset, i)
		}
	}
	b.hashed += max(offset-b.offset, 0)
	b.hash, b.offset = state, offset
	b.wake()
	return nil
}

// Sync makes the blob, which is whole, durable and read-only (mode 0444, as containerd's blobs are, see
// plugins/content/local/writer.go 2.4.2). Afterwards Path may be linked elsewhere.
func (b *Blob) Sync() error {
	err := b.whole()
	if err == nil {
		err = b.data.Chmod(0o444)
	}
	if err == nil {
		err = b.save()
	}
	if err != nil {
		return fmt.Errorf("sync staged blob %s: %w", b.digest, err)
	}
	return nil
}

func (b *Blob) whole() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.err != nil:
		return b.err
	case b.closed:
		return os.ErrClosed
	case b.missing > 0:
		return fmt.Errorf("%d bytes are missing", b.missing)
	}
	return nil
}

// Reset forgets all bytes, because they were not the blob's. After an error the blob can only be closed or removed.
func (b *Blob) Reset() error {
	b.saving.Lock()
	defer b.saving.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fmt.Errorf("reset staged blob %s: %w", b.digest, os.ErrClosed)
	}
	b.entered = false
	if b.err = b.renew(b.chunk, false); b.err != nil {
		b.err = fmt.Errorf("reset staged blob %s: %w", b.digest, b.err)
	}
	return b.err
}

// Remove closes the blob and removes it from the disk. Other links to the data file stay. What an error leaves is taken over
// by the next Blob, or by Sweep.
func (b *Blob) Remove() error {
	if !b.end() {
		return nil
	}
	b.closeFiles()
	if err := errors.Join(b.dir.remove(b.path), b.unlock.Close()); err != nil {
		return fmt.Errorf("remove staged blob %s: %w", b.digest, err)
	}
	return nil
}

// Close makes a last checkpoint and keeps the blob for the next run, also if it returns an error; that costs no more than
// what only a power loss would. After Close or Remove it does nothing.
func (b *Blob) Close() error {
	if !b.end() {
		return nil
	}
	b.mu.Lock()
	fresh := b.written > 0 || b.hashed > 0
	b.mu.Unlock()
	var err error
	if fresh {
		err = b.save()
	}
	b.closeFiles()
	if err = errors.Join(err, b.unlock.Close()); err != nil {
		return fmt.Errorf("close staged blob %s: %w", b.digest, err)
	}
	return nil
}

// end ends the goroutine; false if that has been done.
func (b *Blob) end() bool {
	b.mu.Lock()
	was := b.closed
	b.closed = true
	b.mu.Unlock()
	if !was {
		close(b.stop)
		b.saver.Wait()
	}
	return !was
}

func (b *Blob) closeFiles() {
	for _, f := range []*file{&b.data, &b.marks} {
		if *f != nil {
			(*f).Close() // what matters has been synced
			*f = nil
		}
	}
}

// forget makes everything absent. It is called before others know the blob, or with mu held.
func (b *Blob) forget() {
	n, _ := chunks(b.size, b.chunk) // checked by Dir.Blob and decode
	b.have, b.missing = make([]byte, n), b.size
	b.hash, b.offset = nil, 0
	b.written, b.hashed, b.last = 0, 0, time.Now()
}
