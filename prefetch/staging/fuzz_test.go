package staging

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// FuzzRecord reads anything, once as it is and once with the right checksum. What is believed is valid, and the same after
// another round.
func FuzzRecord(f *testing.F) {
	_, desc := content(1, 300)
	hash := desc.Digest.Algorithm().Hash()
	state, err := hash.(interface{ MarshalBinary() ([]byte, error) }).MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	for _, r := range []record{
		{Digest: desc.Digest, Size: 300, Chunk: 100, Have: []byte{7}, Offset: 300, Hash: state},
		{Digest: desc.Digest, Size: 250, Chunk: 100, Have: []byte{4}},
		{Digest: desc.Digest, Size: 0, Chunk: 1, Boot: "first"},
	} {
		line, err := r.encode()
		if err != nil {
			f.Fatal(err)
		}
		_, body, _ := bytes.Cut(line, []byte("\n"))
		f.Add(line)
		f.Add(bytes.TrimSpace(body))
		f.Add(append(append(line, bytes.Repeat([]byte("\n"), headerSize-len(line))...), 1, 0, 1))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		checked := fmt.Appendf(nil, "%s %x\n%s\n", format, sha256.Sum256(bytes.TrimRight(data, "\n")), data)
		for _, p := range [][]byte{data, checked} {
			if r, err := decodeMarks(p); err == nil {
				if n, err := chunks(r.Size, r.Chunk); err != nil || len(p) != headerSize+n {
					t.Errorf("believed %d bytes of marks for %d chunks, %v", len(p), n, err)
				}
			}
			r, err := decode(p)
			if err != nil {
				continue
			}
			for i := range int(min(r.Offset/r.Chunk, maxChunks)) {
				if !r.has(i) {
					t.Fatalf("believed offset %d beyond chunk %d", r.Offset, i)
				}
			}
			again, err := r.encode()
			if err != nil {
				t.Fatal(err)
			}
			r2, err := decode(again)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(r, r2, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("-first +second\n%s", diff)
			}
		}
	})
}
