package layer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	// CommonWindow is enough for every zstd frame that was not made with --long or --ultra, and what RFC 8878, 3.1.1.1.2
	// recommends that every decoder supports.
	CommonWindow = 8 << 20
	// MaxWindow is the largest zstd window that is supported: zstd --long=27, which is also what the zstd program
	// decompresses without being told to. containerd goes up to 512 MiB.
	MaxWindow = 128 << 20

	// MaxNames is how many bytes the names and attributes of a layer's entries may take, with what is kept beside each: about
	// two million files.
	MaxNames = 512 << 20

	// A few blocks keep three goroutines busy; larger ones leave the processor's cache.
	blocks    = 6
	blockSize = 256 << 10
	readAhead = 64 << 10
	// fixed is what everything but blocks and windows takes: decoder tables, containerd's buffers.
	fixed = 1 << 20
)

// Memory is the most, in bytes, that Apply holds for a layer of this media type with this Spec.Window, beside what package
// doc says of the number of entries. A blob that is zstd under the name of gzip takes 16 MiB more.
func Memory(mediaType string, window int64) int64 {
	const pipeline = blocks*blockSize + readAhead + fixed
	kind, err := images.DiffCompression(context.Background(), mediaType)
	switch {
	case err != nil || kind == "" || kind == "gzip":
		return pipeline
	default:
		return pipeline + history(limit(window))
	}
}

func limit(window int64) int64 {
	if window <= 0 {
		return MaxWindow
	}
	return min(window, MaxWindow)
}

// history is what a zstd decoder needs for a window: twice as much while that is little, because with less it moves the
// whole window for each MiB (klauspost/compress v1.20.1, zstd/history.go, ensureBlock).
func history(window int64) int64 {
	if window <= CommonWindow {
		return 2 * window
	}
	return window + 2<<20
}

// stream is an uncompressed tar.
type stream struct {
	io.Reader
	compressed bool
	close      func()
}

func (s *stream) Close() {
	if s.close != nil {
		s.close()
	}
}

// open decides how src is compressed: as containerd does, the media type says whether, and the first bytes say how
// (containerd v2.4.2, core/diff/stream.go, compressedHandler; pkg/archive/compression, DecompressStream).
func open(src *source, spec Spec) (*stream, error) {
	kind, err := images.DiffCompression(context.Background(), spec.MediaType)
	if err != nil {
		return nil, &FormatError{Err: fmt.Errorf("media type %q is not that of a layer: %w", spec.MediaType, err)}
	}
	if kind == "" {
		return &stream{Reader: src}, nil
	}
	buf := bufio.NewReaderSize(src, readAhead)
	head, err := buf.Peek(10)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, src.blame(err)
	}
	switch compression.DetectCompression(head) {
	case compression.Gzip:
		r, err := gzip.NewReader(buf)
		if err != nil {
			return nil, src.blame(err)
		}
		return &stream{Reader: r, compressed: true}, nil
	case compression.Zstd:
		src.window = limit(spec.Window)
		if kind == "gzip" {
			src.window = min(src.window, CommonWindow)
		}
		// With one decoder it works in the goroutine that reads.
		r, err := zstd.NewReader(buf, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(uint64(src.window)),
			zstd.WithDecoderLowmem(src.window > CommonWindow))
		if err != nil {
			return nil, src.blame(err)
		}
		return &stream{Reader: r, compressed: true, close: r.Close}, nil
	default:
		return &stream{Reader: buf}, nil
	}
}

// source is the caller's reader. It remembers how that failed, so that this is not taken for a fault of the blob.
type source struct {
	r      io.Reader
	window int64

	mu  sync.Mutex
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.err = err
	}
	return n, err
}

func (s *source) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}

// blame says whose fault err is, which came out of inflating s.
func (s *source) blame(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return fmt.Errorf("read blob: %w", s.err)
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		if s.window < MaxWindow {
			return fmt.Errorf("%w of %d bytes", ErrWindow, s.window)
		}
		return &FormatError{Err: fmt.Errorf("a zstd frame needs a window of more than %d MiB: %w", MaxWindow>>20, err)}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &FormatError{Err: fmt.Errorf("the compressed data ends too early: %w", err)}
	default:
		return &FormatError{Err: fmt.Errorf("inflate: %w", err)}
	}
}

// giveUp lets a Read that waits return, where that is possible.
func (s *source) giveUp(err error) {
	if c, ok := s.r.(interface{ CloseWithError(error) error }); ok {
		_ = c.CloseWithError(err)
	}
}
