package staging

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

const (
	dataName  = "data"
	marksName = "marks"
	stateName = "state"
	temporary = ".tmp"
)

// load makes b what the disk says, or new. The blob is locked; made says that its directory is new.
func (b *Blob) load(chunk int64, made bool) error {
	saved, err := b.readState()
	if err != nil {
		return err
	}
	marked, err := b.readMarks()
	if err != nil {
		return err
	}
	b.chunk = saved.Chunk
	if b.chunk == 0 {
		b.chunk = marked.Chunk
	}
	if b.chunk == 0 {
		return b.renew(chunk, made)
	}
	if marked.Chunk != b.chunk {
		marked = record{}
	}
	b.forget()
	for i := range b.have {
		if saved.has(i) || marked.has(i) {
			b.have[i] = present
			b.missing -= b.Length(i)
		}
	}
	b.offset, b.hash = saved.Offset, saved.Hash
	if b.missing == b.size {
		return b.renew(chunk, made)
	}
	if err := b.openData(); errors.Is(err, errForeign) {
		b.discard(dataName, err)
		return b.renew(chunk, made)
	} else if err != nil {
		return err
	}
	if marked.Chunk == 0 {
		return b.makeMarks()
	}
	b.marks, err = b.disk.OpenFile(b.file(marksName), os.O_RDWR, 0)
	return err
}

// errForeign is what is there but cannot be believed.
var errForeign = errors.New("cannot be believed")

// discard says what is not believed, and why.
func (b *Blob) discard(name string, err error) {
	b.log.Info("discarding a file of a staged blob", "digest", b.digest, "file", name, "cause", err)
}

// readState reads the last checkpoint; a zero record if there is none to believe.
func (b *Blob) readState() (record, error) {
	data, err := b.read(stateName, maxRecord)
	if err != nil || data == nil {
		return record{}, err
	}
	r, err := decode(data)
	if err == nil {
		err = r.about(b.digest, b.size)
	}
	if err != nil {
		b.discard(stateName, err)
		return record{}, nil
	}
	return r, nil
}

// readMarks reads the marks, as a bitmap; a zero record if there are none to believe.
func (b *Blob) readMarks() (record, error) {
	data, err := b.read(marksName, headerSize+maxChunks)
	if err != nil || data == nil {
		return record{}, err
	}
	r, err := decodeMarks(data)
	if err == nil {
		err = r.about(b.digest, b.size)
	}
	if err == nil && r.Boot != b.dir.cfg.boot {
		err = errors.New("the machine was restarted since")
	}
	if err != nil {
		b.discard(marksName, err)
		return record{}, nil
	}
	return r, nil
}

// decodeMarks reads header and marks into one record.
func decodeMarks(data []byte) (record, error) {
	if len(data) < headerSize {
		return record{}, errors.New("header is cut short")
	}
	r, err := decode(data[:headerSize])
	if err != nil {
		return record{}, err
	}
	marks := data[headerSize:]
	if n, err := chunks(r.Size, r.Chunk); err != nil || len(marks) != n {
		return record{}, fmt.Errorf("%d marks for %d chunks", len(marks), n)
	}
	r.Have = bitmap(marks)
	return r, nil
}

// read returns nil if there is no such file. One that is too long is cut, and its checksum or length is wrong then.
func (b *Blob) read(name string, limit int64) ([]byte, error) {
	f, err := b.disk.OpenFile(b.file(name), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.NewSectionReader(f, 0, limit+1))
}

// openData opens the data file if it can be what the state says.
func (b *Blob) openData() error {
	st, err := b.disk.Stat(b.file(dataName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: it is not there", errForeign)
	case err != nil:
		return err
	case !st.regular || st.size != b.size:
		return fmt.Errorf("%w: it is not a file of %d bytes", errForeign, b.size)
	case st.shared && b.missing > 0:
		return fmt.Errorf("%w: it is not whole but has another link", errForeign)
	}
	flag := os.O_RDWR
	if b.missing == 0 {
		flag = os.O_RDONLY
	}
	b.data, err = b.disk.OpenFile(b.file(dataName), flag, 0)
	return err
}

// renew begins anew. What the state says is off the disk before the bytes that it speaks of; and the bytes are another
// file then, for the old one may have links.
func (b *Blob) renew(chunk int64, made bool) error {
	b.closeFiles()
	b.chunk = chunk
	b.forget()
	if !made {
		for _, name := range []string{marksName, marksName + temporary, stateName, stateName + temporary} {
			if err := b.removeFile(name); err != nil {
				return err
			}
		}
		if err := b.disk.SyncDir(b.path); err != nil {
			return err
		}
		if err := b.removeFile(dataName); err != nil {
			return err
		}
	}
	var err error
	if b.data, err = b.disk.OpenFile(b.file(dataName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return err
	}
	if err := b.data.Truncate(b.size); err != nil {
		return err
	}
	return b.makeMarks()
}

// makeMarks puts marks of this boot in place, which say what b.have says.
func (b *Blob) makeMarks() error {
	head, err := record{Digest: b.digest, Size: b.size, Chunk: b.chunk, Boot: b.dir.cfg.boot}.encode()
	if err != nil {
		return err
	}
	if len(head) > headerSize {
		return fmt.Errorf("header of %d bytes is too long", len(head))
	}
	head = append(head, bytes.Repeat([]byte("\n"), headerSize-len(head))...)
	b.marks, err = b.replace(marksName, append(head, b.have...), false)
	return err
}

// replace puts a file with this content in place of the one with this name, and returns it open.
func (b *Blob) replace(name string, content []byte, durable bool) (file, error) {
	if err := b.removeFile(name + temporary); err != nil {
		return nil, err
	}
	f, err := b.disk.OpenFile(b.file(name+temporary), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteAt(content, 0)
	if err == nil && durable {
		err = f.Sync()
	}
	if err == nil {
		err = b.disk.Rename(b.file(name+temporary), b.file(name))
	}
	if err == nil && durable {
		err = b.disk.SyncDir(b.path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (b *Blob) removeFile(name string) error {
	if err := b.disk.Remove(b.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
