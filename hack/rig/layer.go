package rig

import (
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

// layer is a v1.Layer whose bytes are generated on each read. It may be read concurrently.
type layer struct {
	media          types.MediaType
	files          []entry
	digest, diffID v1.Hash
	size           int64
}

// newLayer reads the layer once to know its digests.
func newLayer(media types.MediaType, files []entry) (*layer, error) {
	l := &layer{media: media, files: files}
	content, err := tarReader(files)
	if err != nil {
		return nil, err
	}
	diff, packed := sha256.New(), sha256.New()
	count := &counter{w: packed}
	if l.raw() {
		l.size, err = io.Copy(diff, content)
		l.diffID, l.digest = sum(diff), sum(diff)
		return l, err
	}
	if err := l.compress(count, io.TeeReader(content, diff)); err != nil {
		return nil, err
	}
	l.diffID, l.digest, l.size = sum(diff), sum(packed), count.n
	return l, nil
}

func (l *layer) raw() bool { return l.media == types.OCIUncompressedLayer }

// Digest implements v1.Layer.
func (l *layer) Digest() (v1.Hash, error) { return l.digest, nil }

// DiffID implements v1.Layer.
func (l *layer) DiffID() (v1.Hash, error) { return l.diffID, nil }

// Size implements v1.Layer.
func (l *layer) Size() (int64, error) { return l.size, nil }

// MediaType implements v1.Layer.
func (l *layer) MediaType() (types.MediaType, error) { return l.media, nil }

// Uncompressed implements v1.Layer.
func (l *layer) Uncompressed() (io.ReadCloser, error) {
	content, err := tarReader(l.files)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(content), nil
}

// Compressed implements v1.Layer: the bytes as the registry has them, which for a raw layer are not compressed.
func (l *layer) Compressed() (io.ReadCloser, error) {
	if l.raw() {
		return l.Uncompressed()
	}
	content, err := tarReader(l.files)
	if err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(l.compress(w, content))
	}()
	return &pipeReader{PipeReader: r, done: done}, nil
}

// pipeReader waits for the writing goroutine at Close.
type pipeReader struct {
	*io.PipeReader
	done chan struct{}
}

// Close makes the writer's next write fail and waits until it has ended.
func (p *pipeReader) Close() error {
	err := p.PipeReader.Close()
	<-p.done
	return err
}

func (l *layer) compress(w io.Writer, r io.Reader) error {
	buf := bufio.NewWriterSize(w, 64<<10)
	var z io.WriteCloser
	var err error
	if l.media == types.OCILayerZStd {
		// One block at a time: otherwise how the bytes are cut into blocks could depend on the number of cores.
		// Weights hardly repeat, but their bytes are not equally frequent: the fastest level would keep them as they are.
		z, err = zstd.NewWriter(buf, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithAllLitEntropyCompression(true))
	} else {
		z, err = gzip.NewWriterLevel(buf, gzip.BestSpeed)
	}
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(z, onlyReader{r}, make([]byte, 256<<10))
	return errors.Join(err, z.Close(), buf.Flush())
}

// onlyReader hides a WriteTo, whose pieces may be tiny.
type onlyReader struct{ io.Reader }

func sum(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
