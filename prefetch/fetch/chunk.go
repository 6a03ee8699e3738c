package fetch

import (
	"context"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Chunk is one byte range of one blob.
type Chunk struct {
	Blob ocispec.Descriptor
	// Offset and Length are in bytes; Length is at least 1 and the chunk lies within Blob.Size.
	Offset, Length int64
}

func (c Chunk) String() string {
	return fmt.Sprintf("%s bytes %d-%d", c.Blob.Digest, c.Offset, c.Offset+c.Length-1)
}

// RangeFetcher gets chunks.
type RangeFetcher interface {
	// FetchRange yields exactly c.Length bytes, or an error from it or from the reader. The bytes are not verified.
	// The reader must be closed. It is safe for concurrent use.
	FetchRange(ctx context.Context, c Chunk) (io.ReadCloser, error)
}

// exactly yields n bytes of body. It turns an early end into io.ErrUnexpectedEOF and reads nothing behind the n-th byte.
type exactly struct {
	body io.ReadCloser
	n    int64
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.n == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > e.n {
		p = p[:e.n]
	}
	n, err := e.body.Read(p)
	e.n -= int64(n)
	switch {
	case e.n == 0:
		return n, nil
	case err == io.EOF:
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

func (e *exactly) Close() error { return e.body.Close() }
