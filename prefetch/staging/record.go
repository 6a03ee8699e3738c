package staging

import (
	"bytes"
	"crypto/sha256"
	_ "crypto/sha512" // digests may be sha384 or sha512
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

const (
	// format begins every record. A later format has another number and makes this one foreign.
	format = "hotplate-staging-1"
	// headerSize is the length in bytes of the header of the marks.
	headerSize = 1 << 10
	// maxChunks bounds the memory and the files of one blob.
	maxChunks = 1 << 24
	// maxRecord is more than the longest state, which has a bit for each chunk, in base64.
	maxRecord = maxChunks/8*4/3 + headerSize
)

// record is what the state file and the header of the marks hold.
type record struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	Chunk  int64         `json:"chunk"`
	// Boot is only in the header: the boot in which the marks were made.
	Boot string `json:"boot,omitempty"`
	// The rest is only in the state. Have is a bitmap of the chunks, the first in the lowest bit. Hash is the state of the
	// hash after Offset bytes, as the hash marshals itself.
	Have   []byte `json:"have,omitempty"`
	Offset int64  `json:"offset,omitempty"`
	Hash   []byte `json:"hash,omitempty"`
}

// encode makes one line of format and checksum, and the record.
func (r record) encode() ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s %x\n%s\n", format, sha256.Sum256(body), body), nil
}

// decode reads a record that is whole, and valid in itself.
func decode(data []byte) (record, error) {
	line, body, _ := bytes.Cut(data, []byte("\n"))
	body = bytes.TrimRight(body, "\n")
	if want := fmt.Sprintf("%s %x", format, sha256.Sum256(body)); string(line) != want {
		return record{}, errors.New("checksum or format is wrong")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	var r record
	if err := dec.Decode(&r); err != nil {
		return record{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return record{}, errors.New("something follows the record")
	}
	return r, r.check()
}

func (r record) check() error {
	if err := r.Digest.Validate(); err != nil {
		return err
	}
	n, err := chunks(r.Size, r.Chunk)
	switch {
	case err != nil:
		return err
	case r.Have != nil && len(r.Have) != (n+7)/8:
		return fmt.Errorf("bitmap has %d bytes for %d chunks", len(r.Have), n)
	case r.Offset < 0 || r.Offset > r.Size || r.Offset%r.Chunk != 0 && r.Offset != r.Size:
		return fmt.Errorf("offset %d is no chunk's end", r.Offset)
	}
	hashed, err := chunks(r.Offset, r.Chunk)
	if err != nil {
		return err
	}
	for i := range hashed {
		if !r.has(i) {
			return fmt.Errorf("offset %d is beyond chunk %d, which is missing", r.Offset, i)
		}
	}
	return nil
}

func (r record) has(i int) bool { return i/8 < len(r.Have) && r.Have[i/8]&(1<<(i%8)) != 0 }

// about tells whether the record is about this blob.
func (r record) about(d digest.Digest, size int64) error {
	if r.Digest != d || r.Size != size {
		return fmt.Errorf("it is about %s of %d bytes", r.Digest, r.Size)
	}
	return nil
}

// chunks is how many chunks a blob has.
func chunks(size, chunk int64) (int, error) {
	if size < 0 || chunk <= 0 {
		return 0, fmt.Errorf("size %d and chunk size %d make no sense", size, chunk)
	}
	n := size / chunk
	if size%chunk != 0 {
		n++
	}
	if n > maxChunks {
		return 0, fmt.Errorf("%d chunks are more than %d: ask for larger ones", n, maxChunks)
	}
	return int(n), nil
}
