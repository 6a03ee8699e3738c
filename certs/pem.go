package certs

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Bounds of one source.
const (
	// MaxSize is the size in bytes of the largest source that is read.
	MaxSize = 1 << 20
	// MaxCertificates is the number of certificates in the largest source that is read.
	MaxCertificates = 1000
)

const (
	blockCertificate = "CERTIFICATE"
	dashes           = "-----"
)

// splitPEM returns the blocks of data in their order. Text between blocks is allowed, as `openssl x509 -text` writes
// it. A line with five dashes that is not part of a whole block is an error: pem.Decode would skip the broken block,
// and a CA would be missing without a word.
func splitPEM(data []byte) ([]*pem.Block, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("it has more than %d bytes", MaxSize)
	}
	if bytes.IndexByte(data, 0) >= 0 {
		return nil, errors.New("it is not PEM text; convert DER with `openssl x509 -inform der`")
	}
	var blocks []*pem.Block
	for rest := data; ; {
		begin := dashedLine(rest)
		if begin < 0 {
			return blocks, nil
		}
		n := len(blocks) + 1
		if n > MaxCertificates {
			return nil, fmt.Errorf("it has more than %d blocks", MaxCertificates)
		}
		block, size, err := firstBlock(rest[begin:])
		if err != nil {
			return nil, fmt.Errorf("block %d: %w", n, err)
		}
		if len(block.Headers) > 0 {
			return nil, fmt.Errorf("block %d: it has PEM headers (%s), which are not allowed", n, headerNames(block))
		}
		blocks = append(blocks, block)
		rest = rest[begin+size:]
	}
}

// dashedLine returns where the first line with five dashes begins, or -1.
func dashedLine(data []byte) int {
	i := bytes.Index(data, []byte(dashes))
	if i < 0 {
		return -1
	}
	return bytes.LastIndexByte(data[:i], '\n') + 1
}

// firstBlock decodes the block at the start of data and returns how many bytes it takes.
func firstBlock(data []byte) (*pem.Block, int, error) {
	line, _, _ := bytes.Cut(data, []byte("\n"))
	text := strings.TrimRight(string(line), " \t\r")
	name, ok := strings.CutPrefix(text, dashes+"BEGIN ")
	name, ok2 := strings.CutSuffix(name, dashes)
	if !ok || !ok2 || strings.Contains(name, dashes) {
		return nil, 0, fmt.Errorf("a line with %q is not the start of a block", dashes)
	}
	end := bytes.Index(data, []byte("\n"+dashes+"END "+name+dashes))
	if end < 0 {
		return nil, 0, fmt.Errorf("%s has no end line", name)
	}
	size := len(data)
	if nl := bytes.IndexByte(data[end+1:], '\n'); nl >= 0 {
		size = end + 1 + nl + 1
	}
	block, rest := pem.Decode(data[:size])
	// With a broken block, Decode goes on to a later one; the second condition sees that.
	if block == nil || len(bytes.TrimSpace(rest)) > 0 || bytes.Count(data[:size], []byte(dashes)) != 4 {
		return nil, 0, fmt.Errorf("%s is broken: it does not decode", name)
	}
	return block, size, nil
}

func headerNames(block *pem.Block) string {
	names := make([]string, 0, len(block.Headers))
	for name := range block.Headers {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func isPrivateKey(block *pem.Block) bool { return strings.HasSuffix(block.Type, "PRIVATE KEY") }
